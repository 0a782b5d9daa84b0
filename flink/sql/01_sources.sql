-- In:  sensor.raw.
-- Out: the same topic read twice: as records, and as bytes.
-- The JSON reader is fast but silent about what it cannot read; the byte reader is there to speak up for it (05_publish.sql).

CREATE TABLE records (
  id STRING,
  `timestamp` STRING,
  sensor ROW<id STRING, sensor_type ROW<name STRING>>,
  location ROW<id STRING, latitude STRING, longitude STRING, altitude STRING, indoor STRING>,
  sensordatavalues ARRAY<ROW<value_type STRING, `value` STRING>>,
  country_abb STRING,
  place STRING,
  cell STRING,
  fetched_at STRING,
  ${message_columns},
  arrived AS PROCTIME()
) WITH (
  ${records_source},
  'format' = 'json',
  'json.ignore-parse-errors' = 'true',
  'json.decode.json-parser.enabled' = 'false' -- the tree parser: a wrong field becomes NULL and takes no other field with it
);

CREATE TABLE messages (
  payload BYTES,
  ${message_columns}
) WITH (
  ${messages_source},
  'format' = 'raw'
);
