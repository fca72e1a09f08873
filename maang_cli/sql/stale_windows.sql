-- How many windows are missing, or differ from a recomputation, by session.
WITH expected AS (
{windows}
), stored AS (
  SELECT * FROM {cumulative}
  WHERE date BETWEEN {first_target} AND {last_target} AND ticker IN (SELECT ticker FROM {tickers})
)
SELECT
  coalesce(e.date, s.date) AS date,
  count(*) FILTER (WHERE s.ticker IS NULL) AS missing,
  count(*) FILTER (WHERE s.ticker IS NOT NULL) AS stale
FROM expected AS e
FULL OUTER JOIN stored AS s ON s.ticker = e.ticker AND s.date = e.date
WHERE s.ticker IS NULL OR e.ticker IS NULL OR {differs}
GROUP BY coalesce(e.date, s.date)
