-- In:  measurements.
-- Out: readings with their verdict (qc) and topic; those that are none carry the reason.
-- The verdict and the kinds are rendered from the tables in 05_quality and 00_core.

CREATE VIEW readings AS
SELECT
  m.*,
  CASE WHEN reason IS NOT NULL THEN 'sensor.dead' WHEN kind IS NULL THEN 'sensor.other' ELSE CONCAT('sensor.', kind) END AS topic,
  reason IS NULL AND kind IS NOT NULL AS is_reading,
  CASE WHEN reason IS NULL AND kind IS NOT NULL THEN ${qc} END AS qc
FROM measurements AS m;
