-- The windows that end on the target sessions.
-- A window is a range of session numbers, not the last rows: a bar that production lacks makes it shorter.
-- Both casts round the same way in every engine, because no value lies halfway between two results: the mean of up to 7 whole
-- numbers has no tie at its third decimal (that takes a divisor of 8), and the standard deviation of up to 7 values in cents has
-- none at its fifth. The variance is (n * sum(x^2) - sum(x)^2) / (n * (n - 1)), with an exact decimal numerator. stddev_samp
-- works in doubles throughout, and was seen to round a near-tie the wrong way.
WITH calendar AS (
  SELECT date, session_number FROM (VALUES {calendar}) AS c(date, session_number)
), bars AS (
  SELECT p.ticker, p.date, p.open, p.high, p.low, p.close, p.volume, c.session_number
  FROM {production} AS p
  JOIN calendar AS c ON c.date = p.date
  WHERE p.date BETWEEN {first} AND {last}
    AND p.ticker IN (SELECT ticker FROM {tickers})
), windows AS (
  SELECT
    ticker,
    date,
    array_agg(open) OVER w AS last_7_days_open,
    array_agg(high) OVER w AS last_7_days_high,
    array_agg(low) OVER w AS last_7_days_low,
    array_agg(close) OVER w AS last_7_days_close,
    array_agg(volume) OVER w AS last_7_days_volume,
    CAST(avg(volume) OVER w AS DECIMAL(15,2)) AS avg_7_day_volume,
    count(close) OVER w AS n,
    sum(close) OVER w AS total,
    sum(CAST(close AS DECIMAL(19,2)) * CAST(close AS DECIMAL(19,2))) OVER w AS squares
  FROM bars
  WINDOW w AS (PARTITION BY ticker ORDER BY session_number RANGE BETWEEN {preceding} PRECEDING AND CURRENT ROW)
)
SELECT
  ticker,
  date,
  last_7_days_open,
  last_7_days_high,
  last_7_days_low,
  last_7_days_close,
  last_7_days_volume,
  avg_7_day_volume,
  CASE
    WHEN n > 1 THEN TRY_CAST(
      sqrt(CAST(n * squares - total * total AS DOUBLE) / CAST(n * (n - 1) AS DOUBLE)) AS DECIMAL(10,4)
    )
  END AS volatility_7_day
FROM windows
WHERE date IN ({targets})
