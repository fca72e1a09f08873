-- How many of the requested tickers production has, by session.
SELECT p.date, count(DISTINCT p.ticker) AS tickers
FROM {production} AS p
JOIN {tickers} AS r ON r.ticker = p.ticker AND p.date BETWEEN r.first_date AND r.last_date
WHERE p.date BETWEEN {first} AND {last}
GROUP BY p.date
