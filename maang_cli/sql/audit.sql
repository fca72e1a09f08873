-- Every failing row of every check, by the session that it was staged for. `allowed`: --allow-missing permits it.
WITH requested AS (
  SELECT ticker, first_date, last_date FROM {tickers}
), sessions AS (
  SELECT date, requested_count FROM (VALUES {sessions}) AS s(date, requested_count)
), allowed_missing AS (
  SELECT ticker FROM (VALUES {allowed_missing}) AS m(ticker)
), staged AS (
  SELECT * FROM {staging} WHERE session IN (SELECT date FROM sessions)
), failures AS (
{checks}
)
SELECT check_name, ticker, date, found, allowed FROM failures
