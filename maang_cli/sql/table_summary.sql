-- What a table contains, in one row; `others`: how many of its tickers are not requested.
WITH by_ticker AS (
  SELECT ticker, min(date) AS first, max(date) AS last, count(*) AS number FROM {table} GROUP BY ticker
)
SELECT
  min(t.first) AS first,
  max(t.last) AS last,
  CAST(coalesce(sum(t.number), 0) AS BIGINT) AS rows,
  count(*) AS tickers,
  count(*) FILTER (WHERE r.ticker IS NULL) AS others
FROM by_ticker AS t
LEFT JOIN (SELECT DISTINCT ticker FROM {tickers}) AS r ON r.ticker = t.ticker
