-- When the requested tickers' rows of these sessions were stored.
SELECT p.date, p.ticker, p.insertion_timestamp
FROM {production} AS p
JOIN {tickers} AS r ON r.ticker = p.ticker AND p.date BETWEEN r.first_date AND r.last_date
WHERE p.date IN ({sessions})
