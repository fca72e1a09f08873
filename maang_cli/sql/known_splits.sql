-- Known and claimed splits of these tickers, with the prices around them: the close before the first session, and its open.
-- A claimed split that is not known has no state. A staged bar replaces the one that production has.
WITH stored AS (
{stored}
), wanted AS (
SELECT ticker, date FROM stored
UNION
{claimed}
), bars AS (
{bars}
), around AS (
  SELECT
    w.ticker, w.date AS split_date, b.date,
    coalesce(max(b.open) FILTER (WHERE b.staged), max(b.open)) AS open,
    coalesce(max(b.close) FILTER (WHERE b.staged), max(b.close)) AS close
  FROM wanted AS w
  JOIN bars AS b ON b.ticker = w.ticker AND b.date BETWEEN w.date - INTERVAL '{night_days}' DAY AND w.date
  GROUP BY w.ticker, w.date, b.date
), nights AS (
  SELECT
    ticker, split_date,
    max_by(close, date) FILTER (WHERE date < split_date AND close IS NOT NULL) AS previous_close,
    max(open) FILTER (WHERE date = split_date) AS first_open
  FROM around
  GROUP BY ticker, split_date
)
SELECT w.ticker, w.date, n.previous_close, n.first_open, {columns}
FROM wanted AS w
LEFT JOIN nights AS n ON n.ticker = w.ticker AND n.split_date = w.date
LEFT JOIN stored AS s ON s.ticker = w.ticker AND s.date = w.date
ORDER BY w.ticker, w.date
