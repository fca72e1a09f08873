-- What production receives: the rows staged for these sessions, narrowed. The gate has made sure that every cast fits.
SELECT
  ticker,
  date,
  CAST(open AS DECIMAL(10,2)) AS open,
  CAST(high AS DECIMAL(10,2)) AS high,
  CAST(low AS DECIMAL(10,2)) AS low,
  CAST(close AS DECIMAL(10,2)) AS close,
  CAST(volume AS BIGINT) AS volume,
  CAST(vwap AS DECIMAL(10,2)) AS vwap,
  CAST(transactions AS INTEGER) AS transactions
FROM {staging}
WHERE session IN ({sessions})
