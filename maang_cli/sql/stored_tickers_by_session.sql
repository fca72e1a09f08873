-- How many of the requested tickers production has, by session.
SELECT date, count(DISTINCT ticker) AS tickers
FROM {production}
WHERE date BETWEEN {first} AND {last} AND ticker IN (SELECT ticker FROM {tickers})
GROUP BY date
