"""One contract for every store, then what is particular to each."""

import gzip
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pandas as pd
import pytest
from msgspec.structs import replace

from sensorlib.completeness import SensorHour
from sensorlib.core import READING_COLUMNS, Reading, SettingError, StoreError, StoreRefused
from sensorlib.influx import influx_token, line_protocol
from sensorlib.rows import HOUR_COLUMNS, Unstorable, label, write_in_halves
from sensorlib.sqlite import _FIRST, SqliteStore
from sensorlib.store import Store, open_store

if TYPE_CHECKING:
    from conftest import Web
    from influx import Influx

pytest_plugins = ("influx",)

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
SENSOR = Reading(
    81, NOON, "particulates", "P1", 14.2, 2, 10**17 + 1, "SDS011", 7, 48.8, 9.2, 252.5, False, "DE", "Bad Cannstatt", "c1"
)  # fmt: skip
BARE = Reading(82, NOON, "particulates", "P1", 1.5)
BATCH = 5_000

# Writes batches and says so after each.
WRITER = f"""
import sys
from msgspec.structs import replace
from datetime import timedelta
from sensorlib.core import parse_time, Reading
from sensorlib.store import open_store
url, first, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = open_store(url)
for n in range(first, first + batches):
    moment = parse_time("2024-01-01T00:00:00") + timedelta(minutes=n)
    store.write([Reading(s, moment, "particulates", "P1", float(n)) for s in range(1, {BATCH} + 1)])
    print(n, flush=True)
"""


@pytest.fixture(params=["sqlite", "influxdb"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    "URL of an empty store."
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/readings.db"
        return
    influx: Influx = request.getfixturevalue("influx")
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def at(minutes: float, reading: Reading = SENSOR, **changes: object) -> Reading:
    "The reading so many minutes after noon."
    return replace(reading, ts=NOON + timedelta(minutes=minutes), **changes)


def read_latest(store: Store, kind: str = "particulates") -> list[Reading]:
    rows = store.latest(kind).astype(object)
    return [Reading(**row) for row in rows.where(rows.notna(), None).to_dict("records")]


def kept(store: Store, *readings: Reading) -> list[Reading]:
    "Readings as the store keeps them: InfluxDB has no record_id, altitude and cell."
    lost = {} if isinstance(store, SqliteStore) else dict.fromkeys(("record_id", "altitude", "cell"))
    return [replace(reading, **lost) for reading in readings]


def read_values(store: Store, since: float = -600, until: float = 600) -> list[tuple]:
    series = store.series(81, "particulates", NOON + timedelta(minutes=since), NOON + timedelta(minutes=until))
    minutes = (series["ts"] - pd.Timestamp(NOON)) / pd.Timedelta(minutes=1)
    return list(zip(minutes, series["value_type"], series["value"], series["qc"], strict=True))


def start_writer(url: str, first: int, batches: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(first), str(batches)], stdout=subprocess.PIPE, text=True
    )


def test_latest_gives_the_whole_reading(store: Store) -> None:
    store.write([SENSOR, BARE])
    assert read_latest(store) == kept(store, SENSOR, BARE)
    assert list(store.latest("particulates")) == list(READING_COLUMNS)


def test_writing_twice_changes_nothing(store: Store) -> None:
    for _ in range(2):
        store.write([SENSOR, at(1), BARE])
    assert store.counts() == {"particulates": 3}
    assert read_values(store) == [(0, "P1", 14.2, 2), (1, "P1", 14.2, 2)]


def test_twice_in_one_batch_is_once(store: Store) -> None:
    store.write([at(0, value=1.0), at(1), at(0, value=2.0)])
    assert read_values(store, until=1) == [(0, "P1", 2.0, 2)]


def test_judging_again_replaces_value_and_verdict(store: Store) -> None:
    store.write([SENSOR])
    store.write([replace(SENSOR, value=15.0, qc=8)])
    assert read_values(store) == [(0, "P1", 15.0, 8)]
    assert [(r.value, r.qc) for r in read_latest(store)] == [(15.0, 8)]


def test_a_late_reading_is_kept_and_is_not_the_latest(store: Store) -> None:
    for minutes in (5, 0, 3):
        store.write([at(minutes, value=minutes)])
    assert [v[0] for v in read_values(store)] == [0, 3, 5]
    assert [r.value for r in read_latest(store)] == [5]


def test_latest_is_per_sensor_and_value_type(store: Store) -> None:
    readings = [at(5), at(0, value_type="P2"), at(3, sensor_id=9), at(9, kind="noise", value_type="noise_LAeq")]
    store.write([at(1), *readings])
    assert read_latest(store) == kept(store, readings[2], readings[0], readings[1])
    assert read_latest(store, "noise") == kept(store, readings[3])


def test_latest_follows_a_sensor_that_moved(store: Store) -> None:
    moved = at(1, location_id=8, lat=50.0, lon=8.0, country="FR", place="Metz", indoor=True)
    store.write([SENSOR])
    store.write([moved])
    store.write([at(-1)])
    assert read_latest(store) == kept(store, moved)
    assert [v[0] for v in read_values(store)] == [-1, 0, 1]


def test_latest_of_a_reading_that_lost_its_position(store: Store) -> None:
    lost = at(1, lat=None, lon=None, indoor=None)
    store.write([SENSOR])
    store.write([lost])
    expected = lost if isinstance(store, SqliteStore) else at(1)  # InfluxDB: the last position of that location
    assert read_latest(store) == kept(store, expected)


@pytest.mark.parametrize(
    ("since", "until", "minutes"),
    [(0, 10, [0, 5]), (0, 10.01, [0, 5, 10]), (0.001, 10, [5]), (5, 5, []), (10, 0, []), (11, 99, [])],
)
def test_series_bounds_are_half_open(store: Store, since: float, until: float, minutes: list[int]) -> None:
    store.write([at(m) for m in (10, 0, 5)])
    assert [v[0] for v in read_values(store, since, until)] == minutes


def test_series_is_of_one_sensor_and_kind_and_sorted(store: Store) -> None:
    others = [at(0, sensor_id=810), at(0, kind="noise", value_type="noise_LAeq")]
    store.write([at(1, value_type="P2"), at(1), *others, at(0, value_type="P2", value=3, qc=0), SENSOR])
    assert read_values(store) == [
        (0, "P1", 14.2, 2), (1, "P1", 14.2, 2), (0, "P2", 3, 0), (1, "P2", 14.2, 2),
    ]  # fmt: skip


def test_series_refuses_a_moment_without_zone(store: Store) -> None:
    with pytest.raises(SettingError, match="no zone"):
        store.series(81, "particulates", NOON.replace(tzinfo=None), NOON)


def test_counts_are_per_kind(store: Store) -> None:
    store.write([SENSOR, at(0, value_type="P2"), BARE, at(0, kind="noise", value_type="noise_LAeq")])
    assert store.counts() == {"particulates": 3, "noise": 1}


@pytest.mark.parametrize(
    "place",
    [
        'Ham, "Nord" = a\\,b \\ c', "O'Higgins", "São Tomé, Água Grande", "Київ", "東京", "👩‍👩‍👧 Haus", "NA", "null", "nan",
        "${bucket}", "a=b", "\\n", "12", "-", "'; DROP TABLE readings; --", "x" * 500,
    ],
)  # fmt: skip
def test_names_come_back_as_they_were(store: Store, place: str) -> None:
    odd = replace(SENSOR, place=place, country="NA", sensor_type=place)
    store.write([odd])
    assert read_latest(store) == kept(store, odd)


@pytest.mark.parametrize(
    ("place", "seen"),
    [("Bad\nHomburg", "Bad Homburg"), (" a\r\n\tb ", "a b"), ("\x00", None), ("end\\ \\", "end"), ("\ud800", "?"), ("", None)],
)  # fmt: skip
def test_names_become_one_line(store: Store, place: str, seen: str | None) -> None:
    store.write([replace(SENSOR, place=place)])
    assert [r.place for r in read_latest(store)] == [seen]


@pytest.mark.parametrize("value", [0.1 + 0.2, -147.58, 1e-7, 1e16, 5e-324, -0.0, 115473.0, 7])
def test_values_come_back_exactly(store: Store, value: float) -> None:
    store.write([replace(SENSOR, value=value, lat=-value / 1e10)])
    assert [(r.value, r.lat) for r in read_latest(store)] == [(value, -value / 1e10)]
    assert read_values(store) == [(0, "P1", value, 2)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_given_back_alone(store: Store, value: float) -> None:
    batch = [at(minutes) for minutes in range(10)]
    batch[3:3] = [replace(SENSOR, value=value), at(20, value=value)]
    refused = store.write(batch)
    assert [(r.reading.ts, str(r.reading.value)) for r in refused] == [(NOON, str(value)), (at(20).ts, str(value))]
    assert all(r.says for r in refused)
    assert store.counts() == {"particulates": 10}


def test_an_empty_store_answers_with_the_same_columns_and_types(store: Store) -> None:
    store.write([])
    empty = [store.latest("particulates"), store.series(81, "particulates", NOON, NOON + timedelta(days=1))]
    assert [len(frame) for frame in empty] == [0, 0]
    store.write([SENSOR])
    full = [store.latest("particulates"), store.series(81, "particulates", NOON, NOON + timedelta(days=1))]
    assert [f.dtypes.to_dict() for f in empty] == [f.dtypes.to_dict() for f in full]


def test_types_do_not_depend_on_the_store(store: Store) -> None:
    store.write([BARE])
    types = store.latest("particulates").dtypes.astype(str).to_dict()
    numbers = {"record_id": "Int64", "sensor_id": "int64", "location_id": "Int64", "indoor": "boolean", "qc": "int64"}
    numbers |= dict.fromkeys(("lat", "lon", "altitude", "value"), "float64") | {"ts": "datetime64[ns, UTC]"}
    assert types == {name: numbers.get(name, "object") for name in READING_COLUMNS}


def test_readings_are_there_when_it_is_opened_again(store: Store, url: str) -> None:
    store.write([SENSOR, BARE])
    store.close()
    again = open_store(url)
    assert read_latest(again) == kept(again, SENSOR, BARE)
    again.close()


def test_one_process_reads_while_another_writes(store: Store, url: str) -> None:
    writer = start_writer(url, 0, 10**6)
    seen: list[tuple[int, int]] = []
    while len(set(seen)) < 5 and writer.poll() is None:
        seen.append((store.counts().get("particulates", 0), len(store.latest("particulates"))))
    writer.kill()
    assert writer.wait() < 0
    assert seen == sorted(seen)
    assert {sensors for readings, sensors in seen if readings >= BATCH} == {BATCH}


def test_kill_9_of_the_writer_keeps_whole_batches(store: Store, url: str) -> None:
    acknowledged = 0
    for wait_s in (0.0, 0.02, 0.05):
        writer = start_writer(url, acknowledged, 10**6)
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        time.sleep(wait_s)
        writer.kill()
        acknowledged += 3 + len(writer.communicate()[0].splitlines())
        time.sleep(0.5)  # a request that was on its way may still arrive
        batches, rest = divmod(store.counts()["particulates"], BATCH)
        assert rest == 0
        assert acknowledged <= batches <= acknowledged + 1


def test_label_leaves_a_label_alone() -> None:
    assert label(label(" a\n\\b \\ ")) == label(" a\n\\b \\ ") == "a \\b"
    assert label(None) is None


def test_a_line_has_sorted_tags_and_escapes() -> None:
    odd = replace(SENSOR, place='Ham, "a"=\\b')
    assert line_protocol([odd]) == (
        "particulates,country=DE,location_id=7,place=Ham\\,\\ \"a\"\\=\\b,sensor_id=81,sensor_type=SDS011"
        " P1=14.2,P1_qc=2i,lat=48.8,lon=9.2,indoor=False 1704110400"
    )  # fmt: skip
    assert line_protocol([BARE, BARE]) == "\n".join(["particulates,sensor_id=82 P1=1.5,P1_qc=0i 1704110400"] * 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "readings.db"


def test_sqlite_forgets_sites_of_a_batch_that_failed(file: Path) -> None:
    store = SqliteStore(file)
    assert len(store.write([replace(SENSOR, value=float("nan"))])) == 1
    store.write([SENSOR, at(1), at(2, place="elsewhere")])
    assert [r.place for r in read_latest(store)] == ["elsewhere"]
    assert sqlite3.connect(file).execute("SELECT count(*) FROM sites").fetchone() == (2,)


HOUR = SensorHour(NOON, NOON, 81, 148.25, 24, 20, 3, 1)


def read_hours(store: Store, since: float = -600, until: float = 600) -> list[SensorHour]:
    frame = store.completeness(NOON + timedelta(minutes=since), NOON + timedelta(minutes=until)).astype(object)
    assert tuple(frame) == HOUR_COLUMNS
    return [SensorHour(**row) for row in frame.where(frame.notna(), None).to_dict("records")]


def test_rows_of_completeness_come_back_as_they_were(store: Store) -> None:
    later = msgspec.structs.replace(HOUR, hour=NOON + timedelta(hours=1), sensor_id=5, cadence_s=None)
    restarted = msgspec.structs.replace(HOUR, run=NOON + timedelta(seconds=1), expected=2, received=2)
    assert read_hours(store) == []
    store.write_completeness([later, restarted, HOUR])
    assert read_hours(store) == [HOUR, restarted, later]
    assert [r.sensor_id for r in read_hours(store, since=0, until=60)] == [81, 81]
    assert read_hours(store, since=0, until=0) == read_hours(store, since=1, until=60) == []
    assert read_hours(store, since=1, until=61) == [later]
    assert store.counts() == {}


def test_a_row_of_completeness_is_replaced(store: Store) -> None:
    more = msgspec.structs.replace(HOUR, expected=25, received=21)
    for row in (HOUR, more, more):
        store.write_completeness([row])
    assert read_hours(store) == [more]


def test_completeness_refuses_a_moment_without_zone(store: Store) -> None:
    with pytest.raises(SettingError, match="no zone"):
        store.completeness(NOON.replace(tzinfo=None), NOON)


def test_readings_and_completeness_do_not_mix(store: Store) -> None:
    store.write([SENSOR, at(1)])
    store.write_completeness([HOUR])
    assert (store.counts(), len(read_values(store)), read_hours(store)) == ({"particulates": 2}, 2, [HOUR])
    assert read_latest(store) == kept(store, at(1))


def test_sqlite_adds_to_a_file_of_the_first_version(file: Path) -> None:
    with sqlite3.connect(file) as db:
        for statement in (*_FIRST, "PRAGMA user_version = 1"):
            db.execute(statement)
        db.execute("INSERT INTO value_types VALUES (1, 'P1', 'particulates')")
        db.execute("INSERT INTO sites (id, sensor_id) VALUES (1, 81)")
        db.execute("INSERT INTO readings VALUES (81, 1, 1704110400, 14.2, 2, NULL, 1)")
    db.close()
    for _ in range(2):
        store = SqliteStore(file)
        store.write_completeness([HOUR])
        assert (read_values(store), read_hours(store)) == ([(0, "P1", 14.2, 2)], [HOUR])
        store.close()


def test_sqlite_refuses_what_is_no_database(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"readings\.db.*expected a SQLite database"):
        open_store(f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("statement", "message"),
    [("PRAGMA user_version = 99", "version 99.*newer sensorlib"), ("CREATE TABLE songs (id)", "another program")],
)
def test_sqlite_leaves_other_databases_alone(file: Path, statement: str, message: str) -> None:
    sqlite3.connect(file).execute(statement)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=message):
        SqliteStore(file)
    assert file.read_bytes() == before


def test_sqlite_says_who_holds_the_file(file: Path) -> None:
    store = SqliteStore(file, busy_s=0.1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has held it"):
        store.write([SENSOR])
    SqliteStore(file, busy_s=0.1).close()
    other.execute("ROLLBACK")
    store.write([SENSOR])
    assert store.counts() == {"particulates": 1}


def test_sqlite_survives_a_full_disk(file: Path) -> None:
    store = SqliteStore(file)
    store.write([SENSOR])
    store._db.execute("PRAGMA max_page_count = 40")
    with pytest.raises(StoreError, match="disk is full"):
        store.write([at(m) for m in range(20_000)])
    store._db.execute("PRAGMA max_page_count = 4000")
    assert store.counts() == {"particulates": 1}
    store.write([at(m) for m in range(20_000)])
    assert store.counts() == {"particulates": 20_000}


def test_sqlite_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="make the folder"):
        open_store(f"sqlite:///{tmp_path}/none/readings.db")


def test_sqlite_is_made_once_by_many_processes_at_once(file: Path) -> None:
    writers = [start_writer(f"sqlite:///{file}", n, 1) for n in range(3)]
    assert [w.wait(120) for w in writers] == [0] * 3
    store = SqliteStore(file)
    assert store.counts() == {"particulates": 3 * BATCH}
    assert set(store.latest("particulates")["value"]) == {2.0}


def test_influxdb_says_what_is_wrong_with_token_and_bucket(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    address = influx.address.replace("http", "influxdb")
    for token, message in ((influx.token, "answered 404.*no-such.*make the bucket"), ("s3cret", "answered 401.*token")):
        monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", token)
        store = open_store(f"{address}?org={influx.org}&bucket=no-such")
        for call in (lambda store=store: store.write([SENSOR]), store.counts):
            with pytest.raises(StoreRefused, match=message) as caught:
                call()
            assert token not in f"{caught.value} {caught.value.__cause__} {store!r}"


def test_influxdb_gives_back_what_the_bucket_no_longer_keeps(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket(keep_s=3600) as url:
        store = open_store(url)
        now = datetime.now(UTC).replace(microsecond=0)
        batch = [replace(SENSOR, sensor_id=n, ts=NOON if n % 7 == 0 else now) for n in range(1, 101)]
        refused = store.write(batch)
        assert [r.reading.sensor_id for r in refused] == [*range(7, 101, 7)]
        assert all("Retention Policy" in r.says for r in refused)
        assert len(read_latest(store)) == 100 - len(refused)
        assert len(store.write([at(n) for n in range(5000)])) == 5000
        assert len(read_latest(store)) == 100 - len(refused)


def test_influxdb_gives_back_what_has_another_type_there(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url:
        bucket = url.rpartition("=")[2]
        lines = f"particulates P2=1i {int(NOON.timestamp())}"
        influx.write(bucket, lines)
        store = open_store(url)
        refused = store.write([at(0), at(0, value_type="P2"), at(1), at(1, value_type="P2")])
        assert [(r.reading.value_type, "type conflict" in r.says) for r in refused] == [("P2", True)] * 2
        assert store.counts() == {"particulates": 2}


def test_influxdb_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", "s3cret")
    store = open_store("influxdb://127.0.0.1:9?org=home&bucket=readings")
    with pytest.raises(StoreError, match="did not answer") as caught:
        store.write([SENSOR])
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


@pytest.fixture
def fake(web: "Web", monkeypatch: pytest.MonkeyPatch) -> Store:
    "A store behind a server that answers as InfluxDB is known to, for what the real one cannot be made to say."
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", "s3cret")
    return open_store(f"influxdb://{urlsplit(web.url).netloc}?org=home&bucket=readings")


def lines_of(body: bytes) -> list[str]:
    return gzip.decompress(body).decode().splitlines()


def test_influxdb_that_takes_only_small_requests_gets_small_ones(fake: Store, web: "Web") -> None:
    too_large = b'{"code":"request too large","message":"write request too large"}'
    for status in (413, 413, 204, 204, 204):
        web.reply(too_large if status == 413 else b"", status)
    assert fake.write([at(n) for n in range(100)]) == []
    assert [len(lines_of(body)) for body in web.got] == [100, 50, 25, 25, 50, 1], "and the note of what changed a day"


def test_influxdb_that_takes_not_even_one_gives_it_back(fake: Store, web: "Web") -> None:
    web.reply(b'{"message":"write request too large"}', 413)
    (refused,) = fake.write([SENSOR])
    assert (refused.reading, refused.says) == (SENSOR, "413: write request too large")


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [(429, {"Retry_After": "7"}, 7.0), (503, {"Retry_After": "90"}, 90.0), (503, {}, None), (500, {}, None), (408, {}, None),
     (429, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None), (502, {}, None)],
)  # fmt: skip
def test_influxdb_that_is_busy_is_asked_again_later(
    fake: Store, web: "Web", status: int, headers: dict[str, str], wait_s: float | None
) -> None:
    web.reply(b'{"message":"later"}', status, **headers)
    with pytest.raises(StoreError, match=f"answered {status}: later") as caught:
        fake.write([SENSOR, BARE])
    assert not isinstance(caught.value, StoreRefused | Unstorable)
    assert caught.value.retry_after_s == wait_s
    assert len(web.got) == 1


@pytest.mark.parametrize(
    "body", [b"<html>Bad Request</html>", b'{"code":"invalid","message":"invalid precision"}', b""]
)
def test_a_request_that_is_wrong_as_a_whole_buries_no_reading(fake: Store, web: "Web", body: bytes) -> None:
    web.reply(body, 400)
    with pytest.raises(StoreRefused, match="answered 400"):
        fake.write([SENSOR, BARE])
    assert len(web.got) == 1


def test_an_answer_that_breaks_off_is_no_answer(fake: Store, web: "Web") -> None:
    web.reply(b"half", 200, Content_Length="4000")
    with pytest.raises(StoreError, match="did not answer"):
        fake.write([SENSOR])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("influxdb://h:1?org=o&bucket=b&token=s3cret", "a token goes to"),
        ("influxdb://s3cret@h:1?org=o&bucket=b", "a token goes to"),
        ("influxdb://u:s3cret@h:1?org=o&bucket=b", "a token goes to"),
        ("influxdb://h:1?org=o&bucket=b#s3cret", "a token goes to"),
        ("influxdb://h:1/s3cret?org=o&bucket=b", "a token goes to"),
        ("influxdb://h:s3cret?org=o&bucket=b", "unusable address"),
        ("influxdb://h:1?org=o", "lacks a part"),
        ("influxdb://h:1?org=o&bucket=", "lacks a part"),
        ("influxdb://h:1?org=o&bucket=b&bucket=s3cret", "one twice"),
        ("influxdb://h?org=o&bucket=b", "lacks a part"),
        ("http://h:1?token=s3cret", "scheme 'http'"),
        ("s3cret", "no scheme"),
        ("sqlite:///", "sqlite:///PATH"),
        ("sqlite://readings.db", "sqlite:///PATH"),
    ],
)
def test_a_store_url_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", "token")
    with pytest.raises(SettingError, match=message) as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    by_file = {"SENSORLIB_INFLUX_TOKEN_FILE": str(tmp_path / "token")}
    assert influx_token(by_file) == "from-file"
    assert influx_token(by_file | {"SENSORLIB_INFLUX_TOKEN": "from-env"}) == "from-env"


@pytest.mark.parametrize(
    "env", [{}, {"SENSORLIB_INFLUX_TOKEN": "s3cret\nX: y"}, {"SENSORLIB_INFLUX_TOKEN_FILE": "/none"}]
)
def test_an_unusable_token_is_not_shown(env: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="expected") as caught:
        influx_token(env)
    assert "s3cret" not in str(caught.value)


def test_influx_keeps_the_rows_of_completeness_that_are_not_too_old(
    influx: "Influx", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    fresh = msgspec.structs.replace(HOUR, hour=this_hour)
    with influx.bucket(keep_s=2 * 3600) as url:
        store = open_store(url)
        refusals = write_in_halves([HOUR, fresh], store.write_completeness)
        assert [refusal.reading for refusal in refusals] == [HOUR]
        assert store.completeness(this_hour, this_hour + timedelta(hours=1))["hour"].tolist() == [this_hour]
        store.close()


def test_influx_leaves_out_a_row_of_completeness_that_is_half_written(
    influx: "Influx", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url:
        store = open_store(url)
        store.write_completeness([HOUR])
        begun = f"completeness,run={int(NOON.timestamp())},sensor_id=82 expected=24i,received=20i"
        influx.write(url.rpartition("=")[2], f"{begun},cadence_s=148.25 {int(NOON.timestamp())}")
        assert read_hours(store) == [HOUR]
        store.close()
