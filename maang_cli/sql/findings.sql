-- What an audit found, as rows of the table of findings, each with the staged values of the row that it is about.
SELECT DISTINCT
  a.ticker, a.date, 'check' AS kind, a.check_name AS name, {outcome} AS outcome, a.found, a.before, a.after,
  {bar},
  CAST(NULL AS TIMESTAMP) AS replaced_at
FROM {audit} AS a
LEFT JOIN {staging} AS s ON s.ticker = a.ticker AND s.session = a.date
WHERE a.outcome NOT IN ('allowed', 'accepted') AND ({wanted})
