-- What it would change to make the new rows the only rows of the requested tickers on these sessions: each row that is new,
-- changed or removed, with its values before and after.
WITH new_rows AS (
{new}
), old_rows AS (
{old}
)
SELECT
  coalesce(n.ticker, o.ticker) AS ticker,
  coalesce(n.date, o.date) AS date,
  CASE WHEN o.ticker IS NULL THEN 'new' WHEN n.ticker IS NULL THEN 'removed' ELSE 'changed' END AS change,
  {values},
  o.{stamp} AS replaced_at
FROM new_rows AS n
FULL OUTER JOIN old_rows AS o ON o.ticker = n.ticker AND o.date = n.date
JOIN {tickers} AS r ON r.ticker = coalesce(n.ticker, o.ticker) AND coalesce(n.date, o.date) BETWEEN r.first_date AND r.last_date
WHERE n.ticker IS NULL OR o.ticker IS NULL OR {differs}
ORDER BY date, ticker
