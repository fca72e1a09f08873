-- The windows that end on the target sessions, each on the basis of its last session: bars from before a split are restated.
-- Tickers without a split in reach have no bases, and their bars stay as they are. Around a split, a bar is here once for each
-- basis that it is needed on. A bar with a restated value that does not fit its column is left out, as if it was missing.
-- A window is a range of session numbers, not the last rows: a bar that production lacks makes it shorter.
-- Both casts round the same way in every engine, because no value lies halfway between two results: the mean of up to 7 whole
-- numbers has no tie at its third decimal (that takes a divisor of 8), and the standard deviation of up to 7 values in cents has
-- none at its fifth. The variance is (n * sum(x^2) - sum(x)^2) / (n * (n - 1)), with an exact decimal numerator. stddev_samp
-- works in doubles throughout, and was seen to round a near-tie the wrong way.
WITH calendar AS (
  SELECT date, session_number FROM (VALUES {calendar}) AS c(date, session_number)
), bases AS (
{bases}
), traded AS (
  SELECT
    p.ticker, p.date, p.open, p.high, p.low, p.close, p.volume, c.session_number,
    coalesce(b.number, 0) AS basis, coalesce(b.own, TRUE) AS own, b.price_factor, b.volume_factor
  FROM {production} AS p
  JOIN calendar AS c ON c.date = p.date
  LEFT JOIN bases AS b ON b.ticker = p.ticker AND p.date BETWEEN b.first_date AND b.last_date
  WHERE p.date BETWEEN {first} AND {last}
    AND p.ticker IN (SELECT ticker FROM {tickers})
), restated AS (
  SELECT
    ticker, date, session_number, basis, own,
    CASE WHEN own THEN open ELSE TRY_CAST(open * price_factor AS DECIMAL(10,2)) END AS open,
    CASE WHEN own THEN high ELSE TRY_CAST(high * price_factor AS DECIMAL(10,2)) END AS high,
    CASE WHEN own THEN low ELSE TRY_CAST(low * price_factor AS DECIMAL(10,2)) END AS low,
    CASE WHEN own THEN close ELSE TRY_CAST(close * price_factor AS DECIMAL(10,2)) END AS close,
    CASE WHEN own THEN volume ELSE CAST(TRY_CAST(CAST(volume AS DECIMAL(13,0)) * volume_factor AS DECIMAL(18,0)) AS BIGINT) END AS volume
  FROM traded
), bars AS (
  SELECT * FROM restated
  WHERE own OR (open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL AND volume IS NOT NULL)
), windows AS (
  SELECT
    ticker,
    date,
    own,
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
  WINDOW w AS (PARTITION BY ticker, basis ORDER BY session_number RANGE BETWEEN {preceding} PRECEDING AND CURRENT ROW)
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
WHERE own AND date IN ({targets})
