-- The requested tickers that production lacks, by session.
WITH requested AS (
  SELECT ticker FROM {tickers}
), sessions AS (
  SELECT date FROM (VALUES {sessions}) AS s(date)
), stored AS (
  SELECT ticker, date FROM {production} WHERE date BETWEEN {first} AND {last}
)
SELECT s.date, r.ticker
FROM requested AS r
CROSS JOIN sessions AS s
LEFT JOIN stored AS p ON p.ticker = r.ticker AND p.date = s.date
WHERE p.ticker IS NULL
