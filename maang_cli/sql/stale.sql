-- Windows that are not what production says, by session: recomputed and compared.
WITH expected AS (
{windows}
), held AS (
  SELECT * FROM {cumulative}
  WHERE date BETWEEN {first_target} AND {last_target} AND ticker IN (SELECT ticker FROM (VALUES {tickers}) AS t(ticker))
)
SELECT
  coalesce(e.date, h.date) AS date,
  count(*) FILTER (WHERE h.ticker IS NULL) AS missing,
  count(*) FILTER (WHERE h.ticker IS NOT NULL) AS stale
FROM expected AS e
FULL OUTER JOIN held AS h ON h.ticker = e.ticker AND h.date = e.date
WHERE h.ticker IS NULL OR e.ticker IS NULL OR {differs}
GROUP BY coalesce(e.date, h.date)
