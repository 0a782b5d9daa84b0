-- In:  measurements.
-- Out: readings with their verdict (qc) and topic; those that are none carry the reason.
-- The verdict and the kinds are rendered from the tables in 05_quality and 00_core.

CREATE VIEW sorted AS
SELECT m.*, f.reason
FROM measurements AS m
CROSS JOIN UNNEST(ARRAY[
  CASE
    WHEN sensordatavalues IS NULL OR CARDINALITY(sensordatavalues) = 0 THEN 'no_values'
    WHEN sensor_key IS NULL THEN 'sensor_id'
    WHEN ts IS NULL THEN 'time'
    WHEN ts > fetched_at AND fetched_at LIKE '____-__-__T__:__:__Z' AND REGEXP(fetched_at, '${time}') AND TIMESTAMPDIFF(
      DAY,
      TO_TIMESTAMP(fetched_at, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
      TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
    ) >= 1 THEN 'time'
    WHEN value_type IS NULL OR text IS NULL THEN 'value'
    WHEN kind IS NOT NULL AND `value` IS NULL THEN 'value'
  END
]) AS f (reason);

CREATE VIEW readings AS
SELECT
  s.*,
  CASE WHEN reason IS NOT NULL THEN 'sensor.dead' WHEN kind IS NULL THEN 'sensor.other' ELSE CONCAT('sensor.', kind) END AS topic,
  reason IS NULL AND kind IS NOT NULL AS is_reading,
  CASE WHEN reason IS NULL AND kind IS NOT NULL THEN ${qc} END AS qc
FROM sorted AS s;
