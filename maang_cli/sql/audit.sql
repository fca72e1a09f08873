-- Every failing row of every check, by the session that it was staged for, with its outcome: refused; held or allowed by
-- --allow-missing; warned; accepted by a person. Each bar is compared with the earlier rows of its ticker (`earlier`): what production
-- will have before that session. So no row that is held, and no session that is refused, is there with its staged rows.
-- Each relation is read as few times as possible, because Spark computes a common table expression again for each mention.
WITH requested AS (
  SELECT ticker, first_date, last_date FROM {tickers}
), sessions AS (
  SELECT date, requested_count, refused FROM (VALUES {sessions}) AS s(date, requested_count, refused)
), calendar AS (
  SELECT date, number FROM (VALUES {calendar}) AS c(date, number)
), allowed_missing AS (
  SELECT ticker FROM (VALUES {allowed_missing}) AS m(ticker)
), held AS (
{held}
), bases AS (
{bases}
), staged AS (
  SELECT * FROM {staging} WHERE session IN (SELECT date FROM sessions)
), bars AS (
  SELECT
    s.ticker, s.session AS date, c.number, s.vwap,
    TRY_CAST(s.open AS DECIMAL(10,2)) AS open,
    TRY_CAST(s.high AS DECIMAL(10,2)) AS high,
    TRY_CAST(s.low AS DECIMAL(10,2)) AS low,
    TRY_CAST(s.close AS DECIMAL(10,2)) AS close,
    TRY_CAST(s.volume AS BIGINT) AS volume,
    coalesce(b.price_factor, CAST(1 AS DOUBLE)) AS price_factor,
    coalesce(b.volume_factor, CAST(1 AS DOUBLE)) AS volume_factor
  FROM staged AS s
  JOIN calendar AS c ON c.date = s.session
  LEFT JOIN bases AS b ON b.ticker = s.ticker AND s.session BETWEEN b.first_date AND b.last_date
  -- Another check names a row with impossible prices.
  WHERE s.date = s.session AND s.low > 0 AND s.open BETWEEN s.low AND s.high AND s.close BETWEEN s.low AND s.high
), stored AS (
  SELECT
    p.ticker, p.date, c.number, p.open, p.high, p.low, p.close, p.volume,
    coalesce(b.price_factor, CAST(1 AS DOUBLE)) AS price_factor,
    coalesce(b.volume_factor, CAST(1 AS DOUBLE)) AS volume_factor,
    s.date IS NOT NULL AND r.ticker IS NOT NULL AS replaced,
    s.refused OR h.ticker IS NOT NULL AS stays
  FROM {production} AS p
  JOIN calendar AS c ON c.date = p.date
  LEFT JOIN bases AS b ON b.ticker = p.ticker AND p.date BETWEEN b.first_date AND b.last_date
  LEFT JOIN sessions AS s ON s.date = p.date
  LEFT JOIN requested AS r ON r.ticker = p.ticker AND p.date BETWEEN r.first_date AND r.last_date
  LEFT JOIN held AS h ON h.ticker = p.ticker AND h.date = p.date
), earlier AS (
  SELECT
    b.ticker, b.date, b.number, b.open, b.high, b.low, b.close, b.volume, b.price_factor, b.volume_factor,
    CAST(NULL AS DATE) AS jumped
  FROM bars AS b
  JOIN sessions AS s ON s.date = b.date
  LEFT JOIN held AS h ON h.ticker = b.ticker AND h.date = b.date
  WHERE NOT s.refused AND h.ticker IS NULL
  UNION ALL
  SELECT ticker, date, number, open, high, low, close, volume, price_factor, volume_factor, CAST(NULL AS DATE)
  FROM stored
  WHERE NOT replaced OR stays
  UNION ALL
  SELECT f.ticker, CAST(NULL AS DATE), c.number, NULL, NULL, NULL, NULL, NULL, NULL, NULL, f.date
  FROM {findings} AS f
  JOIN calendar AS c ON c.date = f.date
  WHERE f.kind = 'check' AND f.name = 'jump' AND f.outcome IN ('refused', 'held')
), history AS (
  SELECT
    b.ticker, b.date, max(b.number) AS number,
    max(b.open) AS open, max(b.high) AS high, max(b.low) AS low, max(b.close) AS close, max(b.volume) AS volume, max(b.vwap) AS vwap,
    max(b.price_factor) AS price_factor,
    max(CAST(b.open AS DOUBLE) * b.price_factor) AS open_on_basis,
    max(CAST(b.close AS DOUBLE) * b.price_factor) AS close_on_basis,
    max(CAST(b.volume AS DOUBLE) * b.volume_factor) AS volume_on_basis,
    median(CAST(e.volume AS DOUBLE) * e.volume_factor) AS usual_volume,
    count(e.volume) AS known,
    max(e.jumped) AS jumped,
    max(CASE WHEN n.back <= {previous} THEN e.date END) AS previous_date,
    max_by(CAST(e.close AS DOUBLE) * e.price_factor, CASE WHEN n.back <= {previous} THEN e.date END) AS previous_close,
    max(CASE WHEN n.back = 1 AND e.open = b.open AND e.high = b.high AND e.low = b.low AND e.close = b.close AND e.volume = b.volume
      THEN e.date END) AS repeated
  FROM bars AS b
  CROSS JOIN (VALUES {reach}) AS n(back)
  LEFT JOIN earlier AS e ON e.ticker = b.ticker AND e.number = b.number - n.back
  GROUP BY b.ticker, b.date
), marked AS (
  SELECT
    *,
    volume_on_basis / nullif(usual_volume, 0) AS volume_ratio,
    coalesce(open_on_basis > 1.4 * previous_close OR open_on_basis * 1.4 < previous_close, FALSE) AS at_open,
    coalesce(close_on_basis > 1.5 * previous_close OR close_on_basis * 1.5 < previous_close, FALSE) AS at_close
  FROM history
), compared AS (
  SELECT
    *,
    greatest(jumped, max(CASE WHEN at_open OR at_close THEN date END) OVER (
      PARTITION BY ticker, previous_date ORDER BY date ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )) AS last_jump,
    CAST(TRY_CAST(previous_close / price_factor AS DECIMAL(18,2)) AS STRING) AS before,
    CAST(CASE WHEN at_open THEN open ELSE close END AS STRING) AS after,
    CASE WHEN at_open THEN open_on_basis ELSE close_on_basis END / previous_close AS price_ratio,
    count(CASE WHEN known >= {known} THEN volume_ratio END) OVER (PARTITION BY date) AS known_tickers,
    median(CASE WHEN known >= {known} THEN volume_ratio END) OVER (PARTITION BY date) AS session_ratio,
    row_number() OVER (PARTITION BY date ORDER BY ticker) AS position
  FROM marked
), failures AS (
{checks}
), acceptances AS (
{acceptances}
), failing AS (
  SELECT
    f.*,
    a.name IS NOT NULL AS accepted,
    f.kind IN ('missing', 'row') AND a.name IS NULL AND r.ticker IS NOT NULL AS lacks,
    m.ticker IS NOT NULL AS named
  FROM failures AS f
  LEFT JOIN acceptances AS a ON a.name = f.check_name AND a.date = f.date
    AND (a.ticker = f.ticker OR (a.ticker IS NULL AND f.ticker IS NULL AND a.found = f.found))
  LEFT JOIN requested AS r ON r.ticker = f.ticker AND f.date BETWEEN r.first_date AND r.last_date
  LEFT JOIN allowed_missing AS m ON m.ticker = f.ticker
), placed AS (
  SELECT *, row_number() OVER (PARTITION BY date, ticker, lacks ORDER BY check_name) AS place FROM failing
), counted AS (
  SELECT *, count(CASE WHEN lacks AND place = 1 THEN 1 END) OVER (PARTITION BY date) AS lacking FROM placed
), judged AS (
  SELECT
    c.check_name, c.ticker, c.date, c.found, c.before, c.after,
    CASE
      WHEN c.accepted THEN 'accepted'
      WHEN c.kind = 'warning' THEN 'warned'
      WHEN c.lacks AND (c.named OR c.lacking * 100 <= {percent} * s.requested_count)
        THEN CASE WHEN c.kind = 'missing' THEN 'allowed' ELSE 'held' END
      ELSE 'refused'
    END AS outcome
  FROM counted AS c
  JOIN sessions AS s ON s.date = c.date
)
SELECT
  check_name, ticker, date, found, before, after,
  CASE
    WHEN outcome = 'held' AND max(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END) OVER (PARTITION BY date) = 1 THEN 'refused'
    ELSE outcome
  END AS outcome
FROM judged
