-- In:  records.
-- Out: one row per measured value, every field parsed; NULL where it cannot be used.
-- A record without values still leaves one row, so that it can be buried with a reason.
-- What belongs to the whole record is worked out before it is spread over its values, and so only once.
-- Partners: '[(P1, 12.3), NULL, (P2, 3.4)]' becomes a map from value type to text.

CREATE VIEW parsed AS
SELECT
  CASE WHEN REGEXP(id, '${identifier}') THEN CAST(id AS BIGINT) END AS record_id,
  CASE WHEN REGEXP(sensor.id, '${identifier}') THEN sensor.id END AS sensor_key,
  LEFT(sensor.sensor_type.name, ${name_length}) AS sensor_type,
  CASE WHEN REGEXP(location.id, '${identifier}') THEN CAST(location.id AS BIGINT) END AS location_id,
  CASE WHEN REGEXP(location.latitude, '${number}') THEN CAST(location.latitude AS DOUBLE) END AS lat,
  CASE WHEN REGEXP(location.longitude, '${number}') THEN CAST(location.longitude AS DOUBLE) END AS lon,
  CASE WHEN REGEXP(location.altitude, '${number}') THEN CAST(location.altitude AS DOUBLE) END AS altitude,
  CASE WHEN location.indoor IN ('1', 'true') THEN TRUE WHEN location.indoor IN ('0', 'false') THEN FALSE END AS indoor,
  LEFT(country_abb, ${name_length}) AS country,
  LEFT(place, ${name_length}) AS place,
  LEFT(cell, ${name_length}) AS cell,
  CASE WHEN REGEXP(`timestamp`, '${time}')
    THEN CONCAT(SUBSTRING(`timestamp`, 1, 10), 'T', SUBSTRING(`timestamp`, 12, 8), 'Z') END AS ts,
  fetched_at,
  sensordatavalues,
  STR_TO_MAP(
    REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(
      CAST(sensordatavalues AS STRING),
      'NULL, ', ''), ', NULL', ''), '[(', ''), ')]', ''), '), (', ';'), ', ', ','
    ), ';', ','
  ) AS partners,
  message_topic, message_partition, message_offset, message_time, arrived
FROM records;

-- The list of one at the end is there so that each value is parsed once, and not in every condition that reads it.
CREATE VIEW measurements AS
SELECT r.*, m.value_type, m.`value` AS text, n.`value`, n.below, n.above, n.kind, n.broken
FROM parsed AS r
LEFT JOIN UNNEST(r.sensordatavalues) AS m (value_type, `value`) ON TRUE
CROSS JOIN UNNEST(ARRAY[ROW(
  CASE WHEN REGEXP(m.`value`, '${number}') THEN CAST(m.`value` AS DOUBLE) END,
  CASE WHEN REGEXP(r.partners[${below}], '${number}') THEN CAST(r.partners[${below}] AS DOUBLE) END,
  CASE WHEN REGEXP(r.partners[${above}], '${number}') THEN CAST(r.partners[${above}] AS DOUBLE) END,
  ${kind},
  CASE
    WHEN r.sensordatavalues IS NULL OR CARDINALITY(r.sensordatavalues) = 0 THEN 'no_values'
    WHEN r.sensor_key IS NULL THEN 'sensor_id'
    WHEN r.ts IS NULL THEN 'time'
    WHEN r.ts > r.fetched_at AND REGEXP(r.fetched_at, '${time_as_written}') AND TIMESTAMPDIFF(
      DAY,
      TO_TIMESTAMP(r.fetched_at, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
      TO_TIMESTAMP(r.ts, 'yyyy-MM-dd''T''HH:mm:ss''Z''')
    ) >= 1 THEN 'time'
    WHEN m.value_type IS NULL OR m.`value` IS NULL THEN 'value'
  END
)]) AS n (`value`, below, above, kind, broken);
