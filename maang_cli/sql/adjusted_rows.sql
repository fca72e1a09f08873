-- Production's rows that fulfil a condition, on the basis of each ticker's newest split: prices half up to cents, volumes to shares.
WITH bases AS (
{bases}
)
SELECT {columns}
FROM (SELECT * FROM {table} WHERE {condition}) AS p
LEFT JOIN bases AS b ON b.ticker = p.ticker AND p.date BETWEEN b.first_date AND b.last_date
ORDER BY p.date, p.ticker
