"""Messages that no sensor should send, each with the reason that it must be buried with."""

import json
import random
from collections.abc import Callable
from typing import Any

Mangler = Callable[[dict[str, Any], random.Random], bytes | None]


def _json(record: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**record, **changes}).encode()


def _value(record: dict[str, Any], text: str) -> bytes:
    "The record with the first value replaced by a piece of JSON."
    first, *rest = record["sensordatavalues"]
    marked = {**record, "sensordatavalues": [{**first, "value": "@"}, *rest]}
    return json.dumps(marked).replace('"@"', text, 1).encode()


def _time(record: dict[str, Any], text: str) -> bytes:
    return _json(record, timestamp=text)


MANGLERS: dict[str, tuple[str, Mangler]] = {
    "cut": ("not_json", lambda r, rng: _json(r)[: rng.randrange(1, len(_json(r)))]),
    "empty": ("not_json", lambda r, rng: b""),
    "tombstone": ("not_json", lambda r, rng: None),
    "null": ("not_json", lambda r, rng: b"null"),
    "number": ("not_json", lambda r, rng: str(rng.random()).encode()),
    "text": ("not_json", lambda r, rng: b"<html>502 Bad Gateway</html>"),
    "list of numbers": ("not_json", lambda r, rng: b"[1, 2, 3]"),
    "list of records": ("not_json", lambda r, rng: b"[" + _json(r) + b"]"),
    "two records": ("not_json", lambda r, rng: _json(r) + _json(r)),
    "stray brace": ("not_json", lambda r, rng: _json(r) + b"}"),
    "end of a list of it": ("not_json", lambda r, rng: _json(r) + b"}]"),
    "end of a list, and more": ("not_json", lambda r, rng: _json(r) + b', "a": 1}], "b": 2}'),
    "trailing comma": ("not_json", lambda r, rng: _json(r) + b","),
    "invalid UTF-8": ("not_json", lambda r, rng: _json(r).replace(b'"sensor"', b'"sen\xffsor"')),
    "invalid UTF-8 after it": ("not_json", lambda r, rng: _json(r) + b"\xc3\x28"),
    "UTF-16": ("not_json", lambda r, rng: _json(r).decode().encode("utf-16")),
    "byte order mark": ("not_json", lambda r, rng: b"\xef\xbb\xbf" + _json(r)),
    "line break in a text": ("not_json", lambda r, rng: _json(r, note="a@b").replace(b"a@b", b"a\nb")),
    "NaN": ("not_json", lambda r, rng: _value(r, "NaN")),
    "Infinity": ("not_json", lambda r, rng: _value(r, "-Infinity")),
    "leading zero": ("not_json", lambda r, rng: _value(r, "012")),
    "deep": ("not_json", lambda r, rng: b"[" * 5000 + b"]" * 5000),
    "endless number": ("not_json", lambda r, rng: _value(r, "1" * 2000)),
    "1e999": ("value", lambda r, rng: _value(r, "1e999")),
    "'1e999'": ("value", lambda r, rng: _value(r, '"1e999"')),
    "word": ("value", lambda r, rng: _value(r, '"unknown"')),
    "'NaN'": ("value", lambda r, rng: _value(r, '"NaN"')),
    "hexadecimal": ("value", lambda r, rng: _value(r, '"0x1F"')),
    "Java double": ("value", lambda r, rng: _value(r, '"12.5d"')),
    "object as value": ("value", lambda r, rng: _value(r, '{"a": [1]}')),
    "list as value": ("value", lambda r, rng: _value(r, "[20.5]")),
    "true as value": ("value", lambda r, rng: _value(r, "true")),
    "null as value": ("value", lambda r, rng: _value(r, "null")),
    "values of other types": ("value", lambda r, rng: _json(r, sensordatavalues=[1, None, "x", []])),
    "no values": ("no_values", lambda r, rng: _json(r, sensordatavalues=[])),
    "values is text": ("no_values", lambda r, rng: _json(r, sensordatavalues="P1=12")),
    "values is one object": ("no_values", lambda r, rng: _json(r, sensordatavalues=r["sensordatavalues"][0])),
    "values missing": ("no_values", lambda r, rng: _json({k: v for k, v in r.items() if k != "sensordatavalues"})),
    "empty object": ("no_values", lambda r, rng: b"{}"),
    "sensor missing": ("sensor_id", lambda r, rng: _json({k: v for k, v in r.items() if k != "sensor"})),
    "sensor is text": ("sensor_id", lambda r, rng: _json(r, sensor="152")),
    "sensor is a list": ("sensor_id", lambda r, rng: _json(r, sensor=[152])),
    "sensor id missing": ("sensor_id", lambda r, rng: _json(r, sensor={"sensor_type": {"name": "SDS011"}})),
    "sensor id is a fraction": ("sensor_id", lambda r, rng: _json(r, sensor={"id": 1.5})),
    "sensor id is negative": ("sensor_id", lambda r, rng: _json(r, sensor={"id": -4})),
    "time missing": ("time", lambda r, rng: _json({k: v for k, v in r.items() if k != "timestamp"})),
    "time is a number": ("time", lambda r, rng: _json(r, timestamp=1557000000)),
    "year 0": ("time", lambda r, rng: _time(r, "0000-01-01 00:00:00")),
    "year 3000": ("time", lambda r, rng: _time(r, "3000-01-01 00:00:00")),
    "30 February": ("time", lambda r, rng: _time(r, "2019-02-30 00:00:00")),
    "day after tomorrow": ("time", lambda r, rng: _time(r, "2098-06-01 00:00:00")),
}
LARGE: dict[str, tuple[str, Mangler]] = {
    "5 MB value": ("value", lambda r, rng: _value(r, '"' + "9" * 5_000_000 + 'x"')),
    "5 MB of no JSON": ("not_json", lambda r, rng: b"x" * 5_000_000),
}


def mangled(record: dict[str, Any], count: int, seed: int) -> list[tuple[str, str, bytes | None]]:
    "Mangle a record in many ways: (name, reason, message)."
    rng = random.Random(seed)
    names = [*LARGE, *(list(MANGLERS)[i % len(MANGLERS)] for i in range(count - len(LARGE)))]
    both = {**MANGLERS, **LARGE}
    return [(name, both[name][0], both[name][1](record, rng)) for name in names]
