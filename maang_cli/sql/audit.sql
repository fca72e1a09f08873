-- Every failing row of every check, by the session asked for; `allowed` marks what --allow-missing lets go.
WITH asked AS (
  SELECT ticker FROM (VALUES {tickers}) AS a(ticker)
), sessions AS (
  SELECT date FROM (VALUES {sessions}) AS s(date)
), may_miss AS (
  SELECT ticker FROM (VALUES {may_miss}) AS m(ticker)
), staged AS (
  SELECT * FROM {staging} WHERE session IN (SELECT date FROM sessions)
), failures AS (
{checks}
)
SELECT check_name, ticker, date, found, allowed FROM failures
