-- In:  messages.
-- Out: those that are not exactly one JSON object, byte for byte.
-- A message is one object when it is an object wherever it stands: wrapped in a field of a list, nothing
-- may follow it. What the JSON reader finds in the other ones is stored all the same.

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
  AND CONCAT('[{"":', text, '}]') IS JSON ARRAY
  AND (text NOT LIKE '%�%' OR ENCODE(text, 'UTF-8') = payload)
) IS NOT TRUE;
