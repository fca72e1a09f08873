-- What a table contains, in one row.
SELECT min(date) AS first, max(date) AS last, count(*) AS rows, count(DISTINCT ticker) AS tickers
FROM {table}
