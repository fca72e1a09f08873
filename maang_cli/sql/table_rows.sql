-- A table's rows that fulfil a condition.
SELECT {columns}
FROM {table}
WHERE {condition}
ORDER BY date NULLS LAST, ticker NULLS LAST
