-- The sessions of a staging table whose rows production does not have with the same values.
SELECT DISTINCT s.session AS session
FROM {staging} AS s
LEFT JOIN {production} AS p ON p.ticker = s.ticker AND p.date = s.session
WHERE p.ticker IS NULL OR s.date IS DISTINCT FROM p.date OR {differs}
