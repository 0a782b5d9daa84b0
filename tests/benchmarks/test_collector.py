"""How fast readings become a request or rows, beside the plain ways over the same messages in the same run.

`python -m pytest tests/benchmarks -k collector -s` prints readings per CPU second of each, and the ratios.
"""

import gzip
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from influxdb_client import Point, WritePrecision

from sensorlib.collector import read_message
from sensorlib.core import READING_COLUMNS, Reading, format_time
from sensorlib.feed import measurements
from sensorlib.places import enrich
from sensorlib.quality import judge
from sensorlib.simulate import make_city, records
from sensorlib.influx import line_protocol
from sensorlib.sqlite import SqliteStore

BATCH = 5_000  # the collector's own
TAGS = ("country", "location_id", "place", "sensor_id", "sensor_type")
FIELDS = ("lat", "lon", "indoor")
ONE_TABLE = f"CREATE TABLE readings ({', '.join(READING_COLUMNS)}, PRIMARY KEY (sensor_id, value_type, ts))"
INSERT = f"INSERT OR REPLACE INTO readings VALUES ({', '.join('?' * len(READING_COLUMNS))})"
row_of: Callable[[Reading], tuple[Any, ...]] = attrgetter(*READING_COLUMNS)


@dataclass(frozen=True)
class Message:
    "A message as Kafka hands it over."

    content: bytes
    on: str

    def value(self) -> bytes:
        return self.content

    def topic(self) -> str:
        return self.on


Batch = Sequence[Message]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    "Messages as the stream writes them: 2,000 sensors, 20 minutes."
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = records(make_city(2000, seed=1), start, start + timedelta(minutes=20))
    judged = judge(measurements(enrich(record, "2026-06-01T00:00:00Z") for record in made)).sort_values(
        "ts", kind="stable"
    )
    rows = judged.astype(object).where(judged.notna(), None)[list(READING_COLUMNS)].to_dict("records")
    messages = [
        Message(json.dumps({k: v for k, v in told.items() if v is not None}).encode(), f"sensor.{told['kind']}")
        for told in ({**row, "ts": format_time(row["ts"])} for row in rows)
    ]
    return [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]


def own_body(batch: Batch) -> bytes:
    "What the collector does from the messages to the body of the request."
    readings = [reading for reading in map(read_message, batch) if reading is not None]
    return gzip.compress(line_protocol(readings).encode(), compresslevel=1)


def point_line(message: Message) -> str:
    "The same line by the client's own means."
    told = json.loads(message.value())
    point = Point(told["kind"]).time(datetime.fromisoformat(told["ts"]), WritePrecision.S)
    for name in TAGS:
        point.tag(name, told.get(name))
    for name in FIELDS:
        point.field(name, told.get(name))
    point.field(told["value_type"], float(told["value"])).field(f"{told['value_type']}_qc", told["qc"])
    return point.to_line_protocol()


def point_body(batch: Batch) -> bytes:
    return gzip.compress("\n".join(map(point_line, batch)).encode(), compresslevel=1)


def readings_per_cpu_s(ways: dict[str, Callable[[Any], Any]], batches: Sequence[Sequence[Any]]) -> dict[str, float]:
    "Let each way have each batch, one after the other."
    spent = dict.fromkeys(ways, 0.0)
    for batch in batches:
        for name, way in ways.items():
            began = time.process_time()
            way(batch)
            spent[name] += time.process_time() - began
    return {name: sum(map(len, batches)) / seconds for name, seconds in spent.items()}


def show(rates: dict[str, float], ours: str) -> None:
    print()
    for name, rate in rates.items():
        print(f"{name:>22}: {rate:>9,.0f} readings per CPU second, ours is {rates[ours] / rate:.2f} times that")


def parse_line(line: str) -> tuple[str, frozenset[str], frozenset[tuple[str, object]], int]:
    "Measurement, tags, fields and time of a line."
    head, fields, at = re.split(r"(?<!\\) ", line)
    measurement, *tags = re.split(r"(?<!\\),", head)
    values = dict(field.split("=") for field in fields.split(","))
    return measurement, frozenset(tags), frozenset((name, parse_value(text)) for name, text in values.items()), int(at)


def parse_value(text: str) -> tuple[type, float]:
    "Type and number of a field: 5i is a whole number, 5 and 5.0 are the same decimal one."
    if text.lower() in ("true", "false"):
        return bool, text.lower() == "true"
    return (int, int(text[:-1])) if text.endswith("i") else (float, float(text))


def lines_of(body: bytes) -> Iterator[str]:
    yield from gzip.decompress(body).decode().splitlines()


def test_collector_writes_the_lines_of_the_client(batches: list[Batch]) -> None:
    ours, theirs = ([parse_line(line) for line in lines_of(body(batches[1]))] for body in (own_body, point_body))
    assert len(ours) == BATCH
    assert ours == theirs


def test_collector_against_the_points_of_the_client(batches: list[Batch]) -> None:
    rates = readings_per_cpu_s({"messages to request": own_body, "json and Point": point_body}, batches)
    show(rates, "messages to request")
    assert rates["messages to request"] >= 2 * rates["json and Point"]


def test_collector_store_against_one_plain_table(batches: list[Batch], tmp_path: Path) -> None:
    store, plain = SqliteStore(tmp_path / "ours.db"), sqlite3.connect(tmp_path / "plain.db")
    plain.execute("PRAGMA journal_mode = WAL")
    plain.execute(ONE_TABLE)

    def insert(readings: Sequence[Reading]) -> None:
        rows = [row_of(r) for r in readings]
        with plain:
            plain.executemany(INSERT, [(*row[:11], int(row[11].timestamp()), *row[12:]) for row in rows])

    readings = [[r for r in map(read_message, batch) if r is not None] for batch in batches]
    show(
        readings_per_cpu_s({"SqliteStore.write": store.write, "one plain table": insert}, readings), "SqliteStore.write"
    )
    (rows,) = plain.execute("SELECT count(*) FROM readings").fetchone()
    assert sum(store.counts().values()) == rows == sum(map(len, readings))
    plain.close()
    store.close()
    sizes = {name: (tmp_path / f"{name}.db").stat().st_size / rows for name in ("ours", "plain")}
    print(f"{'bytes a reading':>22}: {sizes['ours']:.0f}, in the plain table {sizes['plain']:.0f}")
