-- The requested tickers that production lacks, by session. A ticker that is not listed on a session is not requested there.
WITH requested AS (
  SELECT ticker, first_date, last_date FROM {tickers}
), sessions AS (
  SELECT date FROM (VALUES {sessions}) AS s(date)
), stored AS (
  SELECT ticker, date FROM {production} WHERE date BETWEEN {first} AND {last}
)
SELECT s.date, r.ticker
FROM requested AS r
JOIN sessions AS s ON s.date BETWEEN r.first_date AND r.last_date
LEFT JOIN stored AS p ON p.ticker = r.ticker AND p.date = s.date
WHERE p.ticker IS NULL
