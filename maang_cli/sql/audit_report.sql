-- The audit as a report: for each check, outcome and session a count and the first few failing rows; every row that is held or
-- accepted, and every missing bar that is allowed.
WITH numbered AS (
  SELECT
    *,
    count(*) OVER (PARTITION BY check_name, outcome, date) AS failing,
    row_number() OVER (PARTITION BY check_name, outcome, date ORDER BY ticker NULLS LAST, found) AS position
  FROM {audit} AS a
)
SELECT check_name, ticker, date, found, before, after, outcome, failing
FROM numbered
WHERE position <= {few} OR outcome IN ('allowed', 'held', 'accepted')
ORDER BY check_name, outcome, date, position
