-- In:  readings, and messages.
-- Out: sensor.<kind>, sensor.other, sensor.dead, in one pass and one sink; empty fields are left out of the JSON.
-- The message time is handed on, so that the age of a reading can be told at every later stage.

CREATE TABLE published (
  topic STRING ${topic_column},
  message_time ${time_column},
  message_key STRING,
  record_id BIGINT,
  sensor_id BIGINT,
  sensor_type STRING,
  location_id BIGINT,
  lat DOUBLE,
  lon DOUBLE,
  altitude DOUBLE,
  indoor BOOLEAN,
  country STRING,
  place STRING,
  cell STRING,
  ts STRING,
  kind STRING,
  value_type STRING,
  `value` DOUBLE,
  qc INT,
  text STRING,
  reason STRING,
  source_topic STRING,
  source_partition INT,
  source_offset BIGINT,
  original BYTES
) ${partitioned} WITH (
  ${sink}
);

-- Messages that are not exactly one JSON object, byte for byte. A message is one object when it is an object wherever
-- it stands: wrapped in a field of a list, nothing may follow it. Two more lists keep the end of one, which a broken message
-- may well have, from closing the wrapping. What the JSON reader finds in the other ones is stored all the same.
CREATE VIEW texts AS
SELECT
  payload,
  DECODE(payload, 'UTF-8') AS text,
  message_topic, message_partition, message_offset, message_time
FROM messages;

CREATE VIEW unreadable AS
SELECT *
FROM texts
WHERE (
  (text LIKE '{%' OR text IS JSON OBJECT)
  AND CONCAT('[[[{"":', text, '}]]]') IS JSON ARRAY
  AND (text NOT LIKE '%�%' OR ENCODE(text, 'UTF-8') = payload)
) IS NOT TRUE;

INSERT INTO published (
  topic, message_time, message_key, record_id, sensor_id, sensor_type, location_id, lat, lon, altitude, indoor,
  country, place, cell, ts, kind, value_type, `value`, qc, text, reason, source_topic, source_partition, source_offset
)
SELECT
  topic, message_time, sensor_key, record_id, CAST(sensor_key AS BIGINT), sensor_type, location_id, lat, lon, altitude, indoor,
  country, place, cell, ts, kind, LEFT(value_type, ${name_length}),
  CASE WHEN is_reading THEN `value` END,
  qc,
  CASE WHEN NOT is_reading THEN LEFT(text, 10000) END,
  reason,
  CASE WHEN reason IS NOT NULL THEN message_topic END,
  CASE WHEN reason IS NOT NULL THEN message_partition END,
  CASE WHEN reason IS NOT NULL THEN message_offset END
FROM readings;

INSERT INTO published (topic, message_time, reason, source_topic, source_partition, source_offset, original)
SELECT 'sensor.dead', message_time, 'not_json', message_topic, message_partition, message_offset,
  CASE WHEN CHAR_LENGTH(text) <= 1000000 THEN payload END -- a longer one is on sensor.raw, at the place named here
FROM unreadable;
