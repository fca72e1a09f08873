-- The requested tickers' rows of these sessions that the gate holds: production's rows, if it has them, are older than the finding.
SELECT DISTINCT f.ticker, f.date
FROM {findings} AS f
JOIN {tickers} AS r ON r.ticker = f.ticker AND f.date BETWEEN r.first_date AND r.last_date
LEFT JOIN {production} AS p ON p.ticker = f.ticker AND p.date = f.date AND p.insertion_timestamp > f.seen_at
WHERE f.kind = 'check' AND f.outcome = 'held' AND f.date BETWEEN {first} AND {last} AND p.ticker IS NULL
