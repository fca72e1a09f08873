-- How many of the requested tickers production has, by session, and since when.
SELECT p.date, count(DISTINCT p.ticker) AS tickers, min(p.insertion_timestamp) AS oldest
FROM {production} AS p
JOIN {tickers} AS r ON r.ticker = p.ticker AND p.date BETWEEN r.first_date AND r.last_date
WHERE p.date BETWEEN {first} AND {last}
GROUP BY p.date
