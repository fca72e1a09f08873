-- The known splits of these tickers, and further claimed ones (known is FALSE), each with the close before it and its open.
WITH claimed AS (
{claimed}
), stored AS (
{stored}
), wanted AS (
  SELECT ticker, date FROM stored
  UNION
  SELECT ticker, date FROM claimed
), bars AS (
{bars}
), nights AS (
  SELECT
    w.ticker,
    w.date,
    max_by(b.close, b.date) FILTER (WHERE b.date < w.date) AS previous_close,
    max(b.open) FILTER (WHERE b.date = w.date) AS open
  FROM wanted AS w
  JOIN bars AS b ON b.ticker = w.ticker AND b.date <= w.date
  GROUP BY w.ticker, w.date
)
SELECT
  w.ticker, w.date, s.split_from, s.split_to, s.source, s.vendor_date, s.state, s.reason, n.previous_close, n.open
FROM wanted AS w
LEFT JOIN stored AS s ON s.ticker = w.ticker AND s.date = w.date
LEFT JOIN nights AS n ON n.ticker = w.ticker AND n.date = w.date
ORDER BY w.ticker, w.date
