-- The sessions of which the gate refused a row, or the whole.
SELECT DISTINCT date FROM {findings} WHERE kind = 'check' AND outcome = 'refused' AND date IN ({days}) ORDER BY date
