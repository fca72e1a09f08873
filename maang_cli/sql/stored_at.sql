-- When the requested tickers' rows were stored, by session: the rows of today, and those that revisions have replaced.
SELECT DISTINCT s.date, s.stored_at
FROM (
  SELECT ticker, date, insertion_timestamp AS stored_at FROM {production}
  UNION ALL
  SELECT ticker, date, replaced_at AS stored_at FROM {findings} WHERE kind = 'revision'
) AS s
JOIN {tickers} AS r ON r.ticker = s.ticker AND s.date BETWEEN r.first_date AND r.last_date
WHERE s.date BETWEEN {first} AND {last} AND s.stored_at IS NOT NULL
