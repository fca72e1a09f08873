-- The sessions of which production does not hold the staged rows as they are.
SELECT DISTINCT s.session AS session
FROM {staging} AS s
LEFT JOIN {production} AS p ON p.ticker = s.ticker AND p.date = s.session
WHERE p.ticker IS NULL OR s.date IS DISTINCT FROM p.date OR {differs}
