-- In:  measurements.
-- Out: with the verdict that a reading and the history of its sensor give (own); what is no reading carries the reason.
-- The verdict is rendered from the tables in 05_quality. Rows count in the order in which they arrive, for each sensor
-- and value type; what is no reading is counted apart.

CREATE VIEW sorted AS
SELECT
  m.*,
  CASE WHEN broken IS NULL AND kind IS NOT NULL AND `value` IS NULL THEN 'value' ELSE broken END AS reason,
  broken IS NULL AND kind IS NOT NULL AND `value` IS NOT NULL AS is_reading,
  ${comparable} AS comparable,
  value_type <> 'temperature' OR altitude IS NOT NULL AS is_levelled
FROM measurements AS m;

CREATE VIEW numbered AS
SELECT
  s.*,
  COUNT(*) OVER w AS nth,
  LAG(`value`) OVER w AS value_before,
  LAG(ts) OVER w AS ts_before,
  LAG(ts, ${recent_before}) OVER w AS recent_since
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

-- What the sensor said last: `usual` is the median of its recent values, where they are recent by the clock too.
CREATE VIEW recalled AS
SELECT
  f.*,
  TIMESTAMPDIFF(
    SECOND,
    TO_TIMESTAMP(held_since, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
    TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
  ) AS held_s,
  ARRAY_AGG(`value`) OVER (
    PARTITION BY sensor_key, value_type, is_reading ORDER BY ${arrival} ROWS BETWEEN ${recent_before} PRECEDING AND CURRENT ROW
  ) AS recent
FROM followed AS f;

CREATE VIEW remembered AS
SELECT
  r.*,
  CASE WHEN ABS(TIMESTAMPDIFF(
    SECOND,
    TO_TIMESTAMP(recent_since, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
    TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
  )) <= ${recent_s} THEN ARRAY_SORT(recent)[${recent_before} / 2 + 1] END AS usual
FROM recalled AS r;

-- A sensor speaks to its neighbours once a minute, and only while it is good itself.
CREATE VIEW tested AS
SELECT
  r.*,
  o.own,
  MOD(o.own, 128) = 0 AND comparable IS NOT NULL
    AND (ts_before IS NULL OR SUBSTRING(ts_before, 1, 16) <> SUBSTRING(ts, 1, 16)) AS speaks
FROM remembered AS r
CROSS JOIN UNNEST(ARRAY[CASE WHEN is_reading THEN ${own} END]) AS o (own);
