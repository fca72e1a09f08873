-- The audit as a report: for each check and session a count and the first few failing rows, and every missing bar that is allowed.
WITH audit AS (
{audit}
), numbered AS (
  SELECT
    check_name, ticker, date, found, allowed,
    count(*) OVER (PARTITION BY check_name, allowed, date) AS failing,
    row_number() OVER (PARTITION BY check_name, allowed, date ORDER BY ticker NULLS LAST, found) AS position
  FROM audit
)
SELECT check_name, ticker, date, found, allowed, failing
FROM numbered
WHERE position <= {few} OR allowed
ORDER BY check_name, allowed, date, position
