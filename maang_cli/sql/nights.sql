-- The prices around the first sessions of splits, each given by its ticker and date: the close before it, and its open.
WITH wanted AS (
{wanted}
), bars AS (
{bars}
)
SELECT
  w.ticker,
  w.date,
  max_by(b.close, b.date) FILTER (WHERE b.date < w.date) AS previous_close,
  max(b.open) FILTER (WHERE b.date = w.date) AS open
FROM wanted AS w
JOIN bars AS b ON b.ticker = w.ticker AND b.date <= w.date
GROUP BY w.ticker, w.date
