-- In:  measurements.
-- Out: readings with their verdict (qc) and topic; those that are none carry the reason.
-- The verdict and the kinds are rendered from the tables in 05_quality and 00_core.

CREATE VIEW sorted AS
SELECT
  m.*,
  CASE WHEN broken IS NULL AND kind IS NOT NULL AND `value` IS NULL THEN 'value' ELSE broken END AS reason,
  broken IS NULL AND kind IS NOT NULL AND `value` IS NOT NULL AS is_reading
FROM measurements AS m;

-- Rows are numbered as they arrive, for each sensor and value type. What is no reading is numbered apart.
CREATE VIEW numbered AS
SELECT
  s.*,
  COUNT(*) OVER w AS nth,
  LAG(`value`) OVER w AS value_before,
  LAG(ts) OVER w AS ts_before
FROM sorted AS s
WINDOW w AS (PARTITION BY sensor_key, value_type, is_reading ORDER BY ${arrival});

-- A history begins with the first row, and anew after a gap of a day.
CREATE VIEW begun AS
SELECT
  n.*,
  nth = 1 OR (SUBSTRING(ts, 1, 10) <> SUBSTRING(ts_before, 1, 10) AND ABS(TIMESTAMPDIFF(
    SECOND,
    TO_TIMESTAMP(ts_before, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
    TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
  )) >= ${gap_s}) AS begins
FROM numbered AS n;

-- How many readings are known, and for how many the value has been held: rows since the last one that began or changed.
CREATE VIEW followed AS
SELECT
  b.*,
  nth + 1 - MAX(CASE WHEN begins THEN nth END) OVER w AS known,
  nth + 1 - MAX(CASE WHEN begins OR `value` <> value_before THEN nth END) OVER w AS held,
  LAST_VALUE(CASE WHEN begins OR `value` <> value_before THEN ts END) OVER w AS held_since
FROM begun AS b
WINDOW w AS (PARTITION BY sensor_key, value_type, is_reading ORDER BY ${arrival});

CREATE VIEW judged AS
SELECT
  f.*,
  TIMESTAMPDIFF(
    SECOND,
    TO_TIMESTAMP(held_since, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
    TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
  ) AS held_s
FROM followed AS f;

CREATE VIEW readings AS
SELECT
  j.*,
  CASE WHEN reason IS NOT NULL THEN 'sensor.dead' WHEN kind IS NULL THEN 'sensor.other' ELSE CONCAT('sensor.', kind) END AS topic,
  CASE WHEN is_reading THEN ${qc} END AS qc
FROM judged AS j;
