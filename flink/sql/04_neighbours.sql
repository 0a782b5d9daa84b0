-- In:  tested readings.
-- Out: readings with their verdict (qc) and topic.
-- What each other location said last, and how damp it was there. A location has one voice among the last rows of its area:
-- its newest word, so the lists are turned round, and of two words of a location MAP_UNION keeps the first. The asker's
-- own voice is silenced. A list of one keeps what it holds from being worked out again wherever it is used.

CREATE VIEW placed AS
SELECT
  t.*,
  LAST_VALUE(CASE WHEN value_type = 'humidity' AND MOD(own, 128) = 0 THEN `value` END) OVER w AS humidity_here,
  LAST_VALUE(CASE WHEN value_type = 'humidity' AND MOD(own, 128) = 0 THEN ts END) OVER w AS humidity_at
FROM tested AS t
WINDOW w AS (PARTITION BY location_id, is_reading ORDER BY ${arrival});

-- 1. In the cell of 0.1 degrees.
CREATE VIEW heard_near AS
SELECT
  p.*,
  ARRAY_AGG(CASE WHEN speaks THEN location_id END) OVER w AS near_locations,
  ARRAY_AGG(CASE WHEN speaks THEN comparable END) OVER w AS near_voices
FROM placed AS p
WINDOW w AS (
  PARTITION BY cell, value_type, is_levelled, is_reading ORDER BY ${arrival}
  ROWS BETWEEN ${window_before} PRECEDING AND CURRENT ROW
);

CREATE VIEW sorted_near AS
SELECT h.*, o.near
FROM heard_near AS h
CROSS JOIN UNNEST(ARRAY[
  ARRAY_SORT(ARRAY_REMOVE(MAP_VALUES(MAP_UNION(
    MAP_FROM_ARRAYS(
      ARRAY_SLICE(ARRAY_REVERSE(ARRAY_REMOVE(near_locations, CAST(NULL AS BIGINT))), 1, ${voices}),
      ARRAY_SLICE(ARRAY_REVERSE(ARRAY_REMOVE(near_voices, CAST(NULL AS DOUBLE))), 1, ${voices})
    ),
    MAP[COALESCE(location_id, 0), CAST(NULL AS DOUBLE)]
  )), CAST(NULL AS DOUBLE)))
]) AS o (near);

CREATE VIEW near AS
SELECT
  s.*,
  CARDINALITY(near) AS near_others,
  near[GREATEST((CARDINALITY(near) + ${agree_of} - 1) / ${agree_of}, ${agree})] AS near_lowest,
  near[(CARDINALITY(near) + 3) / 4] AS near_low,
  (near[(CARDINALITY(near) + 1) / 2] + near[(CARDINALITY(near) + 2) / 2]) / 2 AS near_middle,
  near[CARDINALITY(near) + 1 - (CARDINALITY(near) + 3) / 4] AS near_high,
  near[CARDINALITY(near) + 1
    - GREATEST((CARDINALITY(near) + ${agree_of} - 1) / ${agree_of}, ${agree})] AS near_highest
FROM sorted_near AS s;

-- 2. In the cell of 0.2 degrees around it, whose edges lie elsewhere; asked only where the first answer leaves a doubt.
CREATE VIEW heard_around AS
SELECT
  p.*,
  ARRAY_AGG(CASE WHEN speaks THEN location_id END) OVER w AS around_locations,
  ARRAY_AGG(CASE WHEN speaks THEN comparable END) OVER w AS around_voices
FROM near AS p
WINDOW w AS (
  PARTITION BY FLOOR(lat * 5 + 0.25E0), FLOOR(lon * 5 + 0.25E0), value_type, is_levelled, is_reading ORDER BY ${arrival}
  ROWS BETWEEN ${window_before} PRECEDING AND CURRENT ROW
);

CREATE VIEW sorted_around AS
SELECT h.*, o.around
FROM heard_around AS h
CROSS JOIN UNNEST(ARRAY[
  CASE WHEN ${in_doubt} THEN ARRAY_SORT(ARRAY_REMOVE(MAP_VALUES(MAP_UNION(
    MAP_FROM_ARRAYS(
      ARRAY_SLICE(ARRAY_REVERSE(ARRAY_REMOVE(around_locations, CAST(NULL AS BIGINT))), 1, ${voices}),
      ARRAY_SLICE(ARRAY_REVERSE(ARRAY_REMOVE(around_voices, CAST(NULL AS DOUBLE))), 1, ${voices})
    ),
    MAP[COALESCE(location_id, 0), CAST(NULL AS DOUBLE)]
  )), CAST(NULL AS DOUBLE))) END
]) AS o (around);

CREATE VIEW around AS
SELECT
  s.*,
  CARDINALITY(around) AS around_others,
  around[GREATEST((CARDINALITY(around) + ${agree_of} - 1) / ${agree_of}, ${agree})] AS around_lowest,
  around[(CARDINALITY(around) + 3) / 4] AS around_low,
  (around[(CARDINALITY(around) + 1) / 2] + around[(CARDINALITY(around) + 2) / 2]) / 2 AS around_middle,
  around[CARDINALITY(around) + 1 - (CARDINALITY(around) + 3) / 4] AS around_high,
  around[CARDINALITY(around) + 1
    - GREATEST((CARDINALITY(around) + ${agree_of} - 1) / ${agree_of}, ${agree})] AS around_highest
FROM sorted_around AS s;

CREATE VIEW compared AS
SELECT
  a.*,
  CASE
    WHEN comparable IS NULL THEN 0
    WHEN near_others >= ${enough} THEN near_others
    ELSE around_others
  END AS others,
  CASE WHEN near_others >= ${enough} THEN near_low ELSE around_low END AS low,
  CASE WHEN near_others >= ${enough} THEN near_middle ELSE around_middle END AS middle,
  CASE WHEN near_others >= ${enough} THEN near_high ELSE around_high END AS high,
  LEAST(COALESCE(near_lowest, 1E300), COALESCE(around_lowest, 1E300)) AS lowest,
  GREATEST(COALESCE(near_highest, -1E300), COALESCE(around_highest, -1E300)) AS highest,
  TIMESTAMPDIFF(
    SECOND,
    TO_TIMESTAMP(humidity_at, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
    TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
  ) AS humidity_age_s
FROM around AS a;

CREATE VIEW readings AS
SELECT
  c.*,
  CASE WHEN reason IS NOT NULL THEN 'sensor.dead' WHEN kind IS NULL THEN 'sensor.other' ELSE CONCAT('sensor.', kind) END AS topic,
  own + ${company} AS qc
FROM compared AS c;
