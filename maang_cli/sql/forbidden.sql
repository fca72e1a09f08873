-- What forbids publishing: failing rows that are refused, held rows that are not left out, and rows that are and are not held.
SELECT coalesce(a.ticker, h.ticker) AS ticker, coalesce(a.date, h.date) AS date
FROM {audit} AS a
FULL OUTER JOIN (
{held}
) AS h ON h.ticker = a.ticker AND h.date = a.date AND a.outcome = 'held'
WHERE a.outcome = 'refused' OR (a.outcome = 'held' AND h.ticker IS NULL) OR a.outcome IS NULL
