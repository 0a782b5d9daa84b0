-- In:  measurements.
-- Out: readings with their verdict (qc) and topic; those that are none carry the reason.
-- The verdict and the kinds are rendered from the tables in 05_quality and 00_core.

CREATE VIEW sorted AS
SELECT m.*, CASE WHEN broken IS NULL AND kind IS NOT NULL AND `value` IS NULL THEN 'value' ELSE broken END AS reason
FROM measurements AS m;

CREATE VIEW readings AS
SELECT
  s.*,
  CASE WHEN reason IS NOT NULL THEN 'sensor.dead' WHEN kind IS NULL THEN 'sensor.other' ELSE CONCAT('sensor.', kind) END AS topic,
  reason IS NULL AND kind IS NOT NULL AS is_reading,
  CASE WHEN reason IS NULL AND kind IS NOT NULL THEN ${qc} END AS qc
FROM sorted AS s;
