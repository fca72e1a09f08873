-- What publishing the new rows would change in production, as rows of the table of findings: one for each value, with the new bar;
-- one for each row that the source no longer has, with the old bar.
WITH new_rows AS (
{new}
), pairs AS (
  SELECT
    o.ticker, o.date, v.name, o.insertion_timestamp AS replaced_at, n.ticker IS NULL AS vanished,
    CASE v.name {before} END AS before,
    CASE v.name {after} END AS after,
    {bar}
  FROM {production} AS o
  JOIN {tickers} AS r ON r.ticker = o.ticker AND o.date BETWEEN r.first_date AND r.last_date
  CROSS JOIN (VALUES {names}) AS v(name)
  LEFT JOIN new_rows AS n ON n.ticker = o.ticker AND n.date = o.date
  WHERE o.date IN ({sessions})
)
SELECT
  ticker, date, 'revision' AS kind, name,
  CASE WHEN vanished THEN 'vanished' ELSE 'revised' END AS outcome,
  CASE WHEN vanished THEN 'the source no longer has this bar'
    ELSE name || ' ' || coalesce(before, 'NULL') || ' -> ' || coalesce(after, 'NULL') END AS found,
  CASE WHEN NOT vanished THEN before END AS before,
  after, open, high, low, close, volume, vwap, transactions, replaced_at
FROM pairs
WHERE vanished = (name = {vanished}) AND (vanished OR before IS DISTINCT FROM after)
