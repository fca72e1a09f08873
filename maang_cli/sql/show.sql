-- Rows of a table on these sessions; staging's rows are all of interest, whatever their date says.
SELECT {columns}
FROM {table}
WHERE {which}
ORDER BY date NULLS LAST, ticker NULLS LAST
