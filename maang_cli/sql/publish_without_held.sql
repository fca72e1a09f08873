-- As publish.sql, without the held rows; for those production keeps the row that it has, if it has one.
SELECT {columns}
FROM {staging} AS s
LEFT JOIN (
{held}
) AS h ON h.ticker = s.ticker AND h.date = s.session
WHERE s.session IN ({sessions}) AND h.ticker IS NULL
UNION ALL
SELECT {stored}
FROM {production} AS p
JOIN (
{held}
) AS h ON h.ticker = p.ticker AND h.date = p.date
