-- How many of the tickers asked for production holds, by session.
SELECT date, count(DISTINCT ticker) AS tickers
FROM {production}
WHERE date BETWEEN {first} AND {last}
  AND ticker IN (SELECT ticker FROM (VALUES {tickers}) AS a(ticker))
GROUP BY date
