-- What production receives: the rows staged for these sessions, in production's types. The gate has checked that every value fits.
SELECT {columns}
FROM {staging} AS s
WHERE s.session IN ({sessions})
