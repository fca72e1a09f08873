-- A table at a glance.
SELECT min(date) AS first, max(date) AS last, count(*) AS rows, count(DISTINCT ticker) AS tickers
FROM {table}
