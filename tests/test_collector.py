"""From messages to the store: whole batches, dead letters with their place, and no reading twice."""

import base64
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs
from outbox import Outbox

from sensorlib.collector import Progress, read_message, store_batch
from sensorlib.completeness import SensorHour
from sensorlib.core import COMPLETENESS_TOPIC, DEAD_TOPIC, KINDS, BusError, Reading, StoreError
from sensorlib.quality import FAULTS, FLAGS
from sensorlib.sqlite import SqliteStore

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
READING = Reading(
    81, NOON, "particulates", "P1", 14.2, 2, 5, "SDS011", 7, 47.37, 8.54, 408.0, False, "CH", "Zürich", "47.3_8.5"
)


@dataclass(frozen=True)
class Envelope:
    "A message as Kafka hands it over."

    payload: bytes | None
    on: str = "sensor.particulates"
    place: tuple[int, int] = (1, 42)
    sent_ms: int = 0

    def value(self) -> bytes | None:
        return self.payload

    def topic(self) -> str:
        return self.on

    def partition(self) -> int:
        return self.place[0]

    def offset(self) -> int:
        return self.place[1]

    def timestamp(self) -> tuple[int, int]:
        return (1, self.sent_ms)


def told(reading: Reading = READING, **changes: Any) -> Envelope:
    "The message of a reading, as the stream writes it: without empty fields."
    fields = {
        name: value for name, value in structs.asdict(structs.replace(reading, **changes)).items() if value is not None
    }
    return Envelope(msgspec.json.encode(fields), f"sensor.{fields['kind']}")


def text(**changes: object) -> bytes:
    "A message with something else in it."
    return json.dumps({**json.loads(told().payload or b""), **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(told().payload or b"").items() if key != name}).encode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "readings.db")
    yield store
    store.close()


BAD: dict[str, bytes | None] = {
    "tombstone": None, "empty": b"", "blank": b" ", "text": b"<html>", "null": b"null", "list": b"[]", "number": b"5", "empty object": b"{}",
    "cut": (told().payload or b"")[:-5], "two": 2 * (told().payload or b""), "not UTF-8": text().replace(b"SDS011", b"SDS\xff11"),
    "surrogate": text(place="\udcff"), "no sensor": without("sensor_id"), "no time": without("ts"), "no kind": without("kind"), "no value": without("value"),
    "no value type": without("value_type"), "sensor as text": text(sensor_id="81"), "sensor as fraction": text(sensor_id=81.5),
    "time without zone": text(ts="2024-03-05T12:00:00"), "time as number": text(ts=1709640000), "no such day": text(ts="2024-02-30T12:00:00Z"),
    "value as text": text(value="14.2"), "value null": text(value=None), "value NaN": text(value=float("nan")), "value 1e999": text().replace(b"14.2", b"1e999"),
    "kind of another topic": text(kind="noise"), "unknown kind": text(kind="other"), "verdict as text": text(qc="good"), "place as number": text(place=5),
    "sensor beyond 64 bits": text(sensor_id=10**30), "sensor beyond SQLite": text(sensor_id=2**63), "verdict beyond 64 bits": text(qc=2**70),
    "record beyond 64 bits": text(record_id=-(2**80)), "location beyond SQLite": text(location_id=2**64 - 1), "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_reading_is_buried_with_place_and_bytes(store: SqliteStore, what: str) -> None:
    letters, progress = Outbox(), Progress()
    store_batch([told(), Envelope(BAD[what]), told(value_type="P2")], store, letters, progress)  # type: ignore[arg-type]
    ((topic, key, letter),) = letters.sent
    found = json.loads(letter)
    assert (topic, key) == (DEAD_TOPIC, None)
    assert base64.b64decode(found.pop("original")) == (BAD[what] or b"")
    assert found == {
        "reason": "reading",
        "source_topic": "sensor.particulates",
        "source_partition": 1,
        "source_offset": 42,
    }
    assert (progress.received, progress.stored, progress.dead) == (3, 2, 1)
    assert store.counts() == {"particulates": 2}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (told().payload, READING),
        (text(value=14), structs.replace(READING, value=14.0)),
        (text(more={"a": [1]}), READING),
        (text(ts="2024-03-05T13:00:00+01:00"), READING),
        (text(place=None, lat=None, indoor=None), structs.replace(READING, place=None, lat=None, indoor=None)),
        (without("record_id"), structs.replace(READING, record_id=None)),
    ],
)
def test_a_reading_is_read(payload: bytes, expected: Reading) -> None:
    assert read_message(Envelope(payload)) == expected


def test_readings_of_every_kind_are_read_from_their_own_topic() -> None:
    for kind in KINDS:
        assert read_message(told(kind=kind)) == structs.replace(READING, kind=kind)
        others = {f"sensor.{other}" for other in (*KINDS, "other", "raw", "dead")} - {f"sensor.{kind}"}
        assert {read_message(replace(told(kind=kind), on=other)) for other in others} == {None}


def batch(size: int) -> list[Envelope]:
    return [told(ts=NOON + timedelta(minutes=n), qc=n % 2) for n in range(size)]


def test_redelivery_changes_nothing(store: SqliteStore, tmp_path: Path) -> None:
    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect(tmp_path / "readings.db") as db:
            return [row for table in ("readings", "latest", "sites") for row in db.execute(f"SELECT * FROM {table}")]

    store_batch(batch(50), store, Outbox(), Progress())  # type: ignore[arg-type]
    once = rows()
    for again in (batch(50), batch(20), list(reversed(batch(50)))):
        store_batch(again, store, Outbox(), Progress())  # type: ignore[arg-type]
    assert rows() == once
    assert store.counts() == {"particulates": 50}


def test_progress_is_counted(store: SqliteStore) -> None:
    progress = Progress()
    now_ms = int(time.time() * 1000)
    messages = [replace(m, sent_ms=now_ms - 5000) for m in [*batch(10), Envelope(b"")]]
    store_batch(messages, store, Outbox(), progress)  # type: ignore[arg-type]
    store_batch([told(qc=FLAGS["indoor"])], store, Outbox(), progress)  # type: ignore[arg-type]
    assert (progress.received, progress.stored, progress.dead, progress.flagged) == (12, 11, 1, 5)
    assert progress.faults.total() == progress.faults["range"] == 5
    assert FLAGS["indoor"] & FAULTS == 0
    assert len(progress.latencies_s) == 11
    assert 5.0 <= (progress.percentiles_s([0])[0] or 0) < 15.0


def test_there_is_no_latency_before_the_first_reading() -> None:
    assert Progress().percentiles_s([50, 99]) == [None, None]


def test_a_store_that_refuses_leaves_progress_and_letters_untouched(store: SqliteStore, tmp_path: Path) -> None:
    impatient, letters, progress = SqliteStore(tmp_path / "readings.db", busy_s=0.05), Outbox(), Progress()
    other = sqlite3.connect(tmp_path / "readings.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process"):
        store_batch([*batch(5), Envelope(b"")], impatient, letters, progress)  # type: ignore[arg-type]
    assert (progress, letters.sent, store.counts()) == (Progress(), [], {})
    other.execute("ROLLBACK")
    store_batch([*batch(5), Envelope(b"")], impatient, letters, progress)  # type: ignore[arg-type]
    assert (progress.received, progress.stored, progress.dead, len(letters.sent)) == (6, 5, 1, 1)
    assert store.counts() == {"particulates": 5}
    impatient.close()


def test_a_broker_that_refuses_the_dead_letters_leaves_progress_untouched(store: SqliteStore) -> None:
    letters, progress = Outbox(refusals=1), Progress()
    messages = [*batch(5), Envelope(b"")]
    with pytest.raises(BusError):
        store_batch(messages, store, letters, progress)  # type: ignore[arg-type]
    assert progress == Progress()
    store_batch(messages, store, letters, progress)  # type: ignore[arg-type]
    assert (progress.received, progress.stored, progress.dead) == (6, 5, 1)
    assert store.counts() == {"particulates": 5}


def test_a_batch_of_nothing_and_a_batch_of_nothing_good(store: SqliteStore) -> None:
    letters, progress = Outbox(), Progress()
    store_batch([], store, letters, progress)  # type: ignore[arg-type]
    store_batch([Envelope(b"x")] * 3, store, letters, progress)  # type: ignore[arg-type]
    assert (progress.received, progress.stored, progress.dead, len(letters.sent)) == (3, 0, 3, 3)


HOUR = SensorHour(NOON.replace(minute=20), NOON, 81, 148.5, 24, 20, 3, 1)


def hour_text(**changes: object) -> bytes:
    return json.dumps({**json.loads(msgspec.json.encode(HOUR)), **changes}).encode()


def hours_in(store: SqliteStore) -> list[SensorHour]:
    return [SensorHour(**row) for row in store.completeness(NOON, NOON.replace(hour=23)).to_dict("records")]


def test_rows_of_completeness_are_stored_and_are_no_readings(store: SqliteStore) -> None:
    progress, letters = Progress(), Outbox()
    for _ in range(2):
        store_batch(
            [told(), Envelope(hour_text(), COMPLETENESS_TOPIC), told(value_type="P2")], store, letters, progress
        )  # type: ignore[arg-type]
    assert hours_in(store) == [HOUR]
    assert (progress.received, progress.stored, progress.dead, letters.sent) == (4, 4, 0, [])
    assert store.counts() == {"particulates": 2}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"[]",
        hour_text(received=21),
        hour_text(missed_ours=-1, received=22),
        hour_text(hour="2024-03-05T12:00:01Z"),
        hour_text(hour="2024-03-05T12:00:00"),
        hour_text(run="1970-01-01T00:00:00Z"),
        hour_text(sensor_id=2**63),
        hour_text(sensor_id=0),
        hour_text(cadence_s=0),
        hour_text(cadence_s=float("inf")),
        hour_text(expected=2**40, received=2**40 - 4),
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_what_is_no_row_of_completeness_is_buried(store: SqliteStore, bad: bytes | None) -> None:
    progress, letters = Progress(), Outbox()
    batch = [Envelope(bad, COMPLETENESS_TOPIC), Envelope(hour_text(), COMPLETENESS_TOPIC), told()]
    store_batch(batch, store, letters, progress)  # type: ignore[arg-type]
    ((_, _, letter),) = letters.sent
    found = json.loads(letter)
    assert (found["reason"], found["source_topic"], found["source_offset"]) == ("completeness", COMPLETENESS_TOPIC, 42)
    assert base64.b64decode(found["original"]) == (bad or b"")
    assert (hours_in(store), progress.received, progress.dead) == ([HOUR], 1, 0)


def test_a_row_of_completeness_that_the_store_will_never_keep_is_buried(store: SqliteStore) -> None:
    store._db.execute(
        "CREATE TRIGGER never BEFORE INSERT ON completeness WHEN NEW.sensor_id = 5 BEGIN SELECT RAISE(ABORT, 'never'); END"
    )
    letters = Outbox()
    rows = [Envelope(hour_text(sensor_id=n), COMPLETENESS_TOPIC) for n in (4, 5, 6)]
    store_batch(rows, store, letters, Progress())  # type: ignore[arg-type]
    assert [(json.loads(x)["reason"], json.loads(x)["says"]) for _, _, x in letters.sent] == [
        ("refused", "never; expected a finite value")
    ]
    assert [row.sensor_id for row in hours_in(store)] == [4, 6]
