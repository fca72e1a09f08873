-- What production receives: the rows staged for these sessions, in production's types. The gate has checked that every value fits.
SELECT {columns}
FROM {staging}
WHERE session IN ({sessions})
