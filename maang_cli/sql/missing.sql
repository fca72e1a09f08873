-- The tickers asked for that production lacks, by session.
WITH asked AS (
  SELECT ticker FROM (VALUES {tickers}) AS a(ticker)
), sessions AS (
  SELECT date FROM (VALUES {sessions}) AS s(date)
), held AS (
  SELECT ticker, date FROM {production} WHERE date BETWEEN {first} AND {last}
)
SELECT s.date, a.ticker
FROM asked AS a
CROSS JOIN sessions AS s
LEFT JOIN held AS h ON h.ticker = a.ticker AND h.date = s.date
WHERE h.ticker IS NULL
