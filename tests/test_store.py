"""One contract for every store, then what is particular to each."""

import gzip
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
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
from sensorlib.influx import FORECASTS, influx_token, line_protocol
from sensorlib.rows import DAY, FORECAST_COLUMNS, FORECAST_KEY, HOUR_COLUMNS, RAW_COLUMNS, Unstorable, label
from sensorlib.rows import plain_forecasts, write_in_halves
from sensorlib.sqlite import _AVERAGES_AND_COMPLETENESS, _CHANGED_DAYS, _FIRST, SqliteStore
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
    with influx.bucket() as url, influx.made(FORECASTS):
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


def forecast(minutes: int = 60, horizon_min: int = 60, **changes: object) -> dict[str, object]:
    "A forecast of the ten minutes that end so long after noon."
    ts = pd.Timestamp(NOON) + pd.Timedelta(minutes=minutes)
    row = {"sensor_id": 81, "value_type": "P1", "ts": ts, "horizon_min": horizon_min}
    row |= {"issued": ts - pd.Timedelta(minutes=horizon_min), "p05": 9.8, "p25": 11.5, "p50": 12.0, "p75": 13.25}
    row |= {"p95": 17.0, "model": "network 1", "persistence": 12.5, "daily": 11.0, "observed": float("nan")}
    return row | {"lat": 48.8, "lon": 9.2, "country": "DE", "place": "Bad Cannstatt"} | changes


def forecasts_of(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(FORECAST_COLUMNS))


def read_forecasts(store: Store, kind: str = "particulates", since: float = 0, until: float = 6000) -> pd.DataFrame:
    return store.forecasts(kind, NOON + timedelta(minutes=since), NOON + timedelta(minutes=until))


def test_forecasts_come_back_as_they_were(store: Store) -> None:
    written = forecasts_of(
        forecast(10, 10, sensor_id=7, place=None, country=None, lat=float("nan"), lon=float("nan")),
        forecast(60, 60),
        forecast(60, 1440, observed=12.345, model='an "odd" \\ model, = 2', daily=float("nan"), persistence=-3.25),
        forecast(1440, 1440, sensor_id=10**17 + 1, p95=115473.018, place='Ham, "Nord" = a b', lon=-179.123456789),
    )
    store.write_forecasts(written.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(read_forecasts(store), written)


def test_two_value_types_of_a_kind_share_a_moment(store: Store) -> None:
    written = forecasts_of(
        forecast(model="damped", daily=float("nan")),
        forecast(value_type="P2", p05=1.0, p25=2.0, p50=3.0, p75=4.0, p95=5.0, model="network 2", persistence=float("nan")),
    )  # fmt: skip
    noise = forecasts_of(forecast(value_type="noise_LA_max"), forecast(value_type="noise_LAeq", p50=50.0))
    store.write_forecasts(pd.concat([written, noise]))
    pd.testing.assert_frame_equal(read_forecasts(store), written)
    pd.testing.assert_frame_equal(read_forecasts(store, "noise"), noise)
    store.write_forecasts(written.tail(1).assign(observed=3.5))
    assert read_forecasts(store)["observed"].fillna(0).tolist() == [0, 3.5]


def test_forecasts_are_kept_to_a_thousandth(store: Store) -> None:
    store.write_forecasts(forecasts_of(forecast(p50=100 / 3, daily=1e-4, persistence=-2 / 3)))
    (row,) = read_forecasts(store).to_dict("records")
    assert (row["p50"], row["daily"], row["persistence"]) == (33.333, 0.0, -0.667)


def test_writing_a_forecast_again_changes_nothing(store: Store) -> None:
    written = forecasts_of(forecast(), forecast(120, 120))
    for _ in range(2):
        store.write_forecasts(written)
    pd.testing.assert_frame_equal(read_forecasts(store), written)


def test_a_forecast_is_replaced_and_keeps_what_was_observed(store: Store) -> None:
    store.write_forecasts(forecasts_of(forecast()))
    store.write_forecasts(forecasts_of(forecast(observed=12.9)))
    missing = dict.fromkeys(("daily", "persistence", "observed"), float("nan"))
    store.write_forecasts(forecasts_of(forecast(p50=12.5, model="network 2", **missing)))
    expected = forecasts_of(forecast(p50=12.5, model="network 2", observed=12.9))
    pd.testing.assert_frame_equal(read_forecasts(store), expected)
    store.write_forecasts(forecasts_of(forecast(observed=13.1)))
    assert read_forecasts(store)["observed"].tolist() == [13.1]


def test_a_sensor_that_moved_has_a_forecast_once(store: Store) -> None:
    store.write_forecasts(forecasts_of(forecast(observed=12.9)))
    store.write_forecasts(forecasts_of(forecast(place="Metz", country="FR")))
    assert read_forecasts(store)["observed"].tolist() == [12.9]


@pytest.mark.parametrize(("since", "until", "minutes"), [(0, 20, [0, 10]), (0.001, 20.001, [10, 20]), (10, 10, []), (30, 99, [])])  # fmt: skip
def test_bounds_of_forecasts_are_of_their_moments(store: Store, since: float, until: float, minutes: list[int]) -> None:
    store.write_forecasts(forecasts_of(*(forecast(m, 30) for m in (0, 10, 20))))
    ts = read_forecasts(store, since=since, until=until)["ts"]
    assert [(t - pd.Timestamp(NOON)).seconds // 60 for t in ts] == minutes


def test_forecasts_by_the_last_digits_of_sensors(store: Store) -> None:
    store.write_forecasts(forecasts_of(*(forecast(sensor_id=n) for n in range(1, 25))))
    assert store.forecasts("particulates", NOON, NOON + DAY, "37")["sensor_id"].tolist() == [3, 7, 13, 17, 23]


def test_forecasts_of_some_sensors_are_those_of_all_without_the_others(store: Store) -> None:
    rows = [forecast(m, h, sensor_id=n) for n in (3, 13, 130) for m in (0, 10, 15) for h in (10, 60)]
    rows += [forecast(10, 10, sensor_id=13, value_type="P2"), forecast(10, 10, sensor_id=13, value_type="noise_LAeq")]
    store.write_forecasts(forecasts_of(*rows))
    since, until = NOON, NOON + timedelta(minutes=15)
    every = store.forecasts("particulates", since, until)
    for ids in ([13], [13, 3, 99], [99], []):
        found = store.forecast_series(ids, "particulates", since, until)
        pd.testing.assert_frame_equal(found, every[every["sensor_id"].isin(ids)].reset_index(drop=True))


def test_no_forecasts_have_the_same_columns_and_types(store: Store) -> None:
    store.write_forecasts(forecasts_of())
    empty = read_forecasts(store)
    store.write_forecasts(forecasts_of(forecast()))
    full = read_forecasts(store)
    assert (len(empty), len(full)) == (0, 1)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert store.counts() == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"p25": float("nan")}, "a quantile that is no finite number"),
        ({"p95": float("inf")}, "a quantile that is no finite number"),
        ({"observed": float("inf")}, "an infinite value"),
        ({"issued": pd.Timestamp(NOON + timedelta(minutes=1))}, "a moment of issue that is not `horizon_min` before `ts`"),
        ({"value_type": "counts"}, "a value type that is not in"),
        ({"model": None}, "no model"),
    ],
)  # fmt: skip
def test_a_forecast_that_is_none_is_refused(store: Store, changes: dict, says: str) -> None:
    with pytest.raises(Unstorable, match=f"1 of 2 forecasts have {says}.*of sensor 82 at 2024-01-01 13:00"):
        store.write_forecasts(forecasts_of(forecast(), forecast(sensor_id=82, **changes)))
    assert len(read_forecasts(store)) == 0


def test_many_forecasts_go_and_come_in_any_unit_of_time(store: Store) -> None:
    many = forecasts_of(*(forecast(h, h, sensor_id=n) for n in range(1, 1201) for h in (10, 30, 60, 120, 1440)))
    store.write_forecasts(many.assign(ts=many["ts"].dt.as_unit("s")))
    pd.testing.assert_frame_equal(read_forecasts(store), many.sort_values(list(FORECAST_KEY), ignore_index=True))


def test_forecasts_and_readings_do_not_mix(store: Store) -> None:
    store.write([SENSOR])
    store.write_forecasts(forecasts_of(forecast(0, 10), forecast(0, 10, sensor_id=82)))
    assert (store.counts(), read_values(store)) == ({"particulates": 1}, [(0, "P1", 14.2, 2)])
    assert read_latest(store) == kept(store, SENSOR)
    assert len(read_forecasts(store)) == 2


def test_readings_of_all_sensors_have_the_types_of_a_series(store: Store) -> None:
    empty = store.readings("particulates", NOON, NOON + DAY)
    written = [
        at(n, sensor_id=sensor, value_type=name) for n in (0, 5) for sensor in (1, 12, 21) for name in ("P1", "P2")
    ]
    store.write([*written, at(0, kind="noise", value_type="noise_LAeq"), at(-1, sensor_id=21)])
    full = store.readings("particulates", NOON, NOON + timedelta(minutes=5), "13")
    assert [(r.sensor_id, r.value_type, r.value, r.qc) for r in full.sort_values(["sensor_id", "value_type"]).itertuples()] == [
        (1, "P1", 14.2, 2), (1, "P2", 14.2, 2), (21, "P1", 14.2, 2), (21, "P2", 14.2, 2),
    ]  # fmt: skip
    series = store.series(1, "particulates", NOON, NOON + DAY)
    assert list(full) == list(empty) == list(RAW_COLUMNS)
    types = series.dtypes.to_dict() | {"sensor_id": series["qc"].dtype}
    assert types == full.dtypes.to_dict() == empty.dtypes.to_dict()


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


def test_sqlite_adds_forecasts_to_a_file_of_version_3(file: Path) -> None:
    with sqlite3.connect(file) as db:
        for statement in (*_FIRST, *_AVERAGES_AND_COMPLETENESS, *_CHANGED_DAYS, "PRAGMA user_version = 3"):
            db.execute(statement)
        db.execute("INSERT INTO value_types VALUES (1, 'P1', 'particulates')")
        db.execute("INSERT INTO sites (id, sensor_id) VALUES (1, 81)")
        db.execute("INSERT INTO readings VALUES (81, 1, 1704110400, 14.2, 2, NULL, 1)")
    db.close()
    for _ in range(2):
        store = SqliteStore(file)
        store.write_forecasts(forecasts_of(forecast()))
        assert (read_values(store), len(read_forecasts(store))) == ([(0, "P1", 14.2, 2)], 1)
        assert store._db.execute("PRAGMA user_version").fetchone() == (4,)
        store.close()


def test_sqlite_forgets_forecasts_with_the_readings(file: Path) -> None:
    store = SqliteStore(file)
    hours = [forecast(60 * h, 60, value_type=name) for h in range(36) for name in ("P1", "noise_LAeq")]
    store.write_forecasts(forecasts_of(*hours))
    store.forget(NOON + DAY)
    midnight = (NOON + DAY).replace(hour=0)
    for kind in ("particulates", "noise"):
        assert read_forecasts(store, kind)["ts"].min() == midnight
        assert len(read_forecasts(store, kind)) == 24
    with pytest.raises(Unstorable, match="1 forecasts are of a time before 2024-01-02"):
        store.write_forecasts(forecasts_of(forecast(0, 10), forecast(2000, 10)))
    assert len(read_forecasts(store)) == 24


def test_sqlite_keeps_a_forecast_in_eighty_bytes(file: Path) -> None:
    store = SqliteStore(file)
    values = {name: 0.001 * n for n, name in enumerate(("p05", "p25", "p50", "p75", "p95", "persistence", "observed"))}
    for at_min in range(0, 60, 10):
        ahead = [forecast(at_min + h, h, sensor_id=n, **values) for n in range(50_000, 50_300) for h in (10, 60, 1440)]
        made = forecasts_of(*ahead)
        store.write_forecasts(made.assign(**{name: made[name] + 9.1 * made.index for name in values}))
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert 40 < file.stat().st_size / (6 * len(ahead)) < 80


def test_sqlite_knows_the_site_of_a_forecast_from_the_readings(file: Path) -> None:
    store = SqliteStore(file)
    store.write([SENSOR])
    for place in ("Bad Cannstatt", "Metz", "Metz"):
        store.write_forecasts(forecasts_of(forecast(place=place), forecast(120, 120, place=place)))
    assert store._db.execute("SELECT place FROM sites ORDER BY id").fetchall() == [("Bad Cannstatt",), ("Metz",)]
    assert set(read_forecasts(store)["place"]) == {"Metz"}


def test_forecasts_without_a_zone_are_refused(store: Store) -> None:
    naive = forecasts_of(forecast()).assign(ts=lambda rows: rows["ts"].dt.tz_localize(None))
    with pytest.raises(SettingError, match="no zone"):
        store.write_forecasts(naive)
    with pytest.raises(SettingError, match="no zone"):
        store.forecasts("particulates", NOON.replace(tzinfo=None), NOON)


def test_plain_forecasts_leaves_what_it_is_given_alone() -> None:
    given = forecasts_of(forecast(place="a\nb"))
    before = given.copy(deep=True)
    assert plain_forecasts(given)["place"].tolist() == ["a b"]
    pd.testing.assert_frame_equal(given, before)


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


def test_a_new_sqlite_file_waits_for_whoever_writes_it_before_it_changes_its_mode(file: Path) -> None:
    SqliteStore(file).close()
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")  # as another process finds a file that is being made
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"database is locked \(SQLITE_BUSY\); another process has held it"):
            SqliteStore(file, busy_s=0.2)
        leaving = threading.Timer(0.3, writer.execute, ["COMMIT"])
        leaving.start()
        SqliteStore(file).close()
        leaving.join()
    with closing(sqlite3.connect(file)) as after:
        assert after.execute("PRAGMA journal_mode").fetchone() == ("wal",)


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


def test_influxdb_gets_forecasts_in_requests_of_a_bounded_size(fake: Store, web: "Web") -> None:
    web.reply(b"", 204)
    fake.write_forecasts(forecasts_of(*(forecast(sensor_id=n) for n in range(12_001))))
    assert [len(lines_of(body)) for body in web.got] == [5000, 5000, 2001]
    assert lines_of(web.got[0])[81] == (
        "particulates,country=DE,horizon_min=60,place=Bad\\ Cannstatt,sensor_id=81 P1_p05=9.8,P1_p25=11.5,P1_p50=12.0,"
        'P1_p75=13.25,P1_p95=17.0,P1_persistence=12.5,P1_daily=11.0,lat=48.8,lon=9.2,P1_model="network 1",'
        "issued=1704110400i 1704114000"
    )


def test_influxdb_refuses_forecasts_that_its_bucket_no_longer_keeps(
    influx: "Influx", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url, influx.made(FORECASTS, keep_s=3600):
        store = open_store(url)
        with pytest.raises(Unstorable, match="Retention Policy"):
            store.write_forecasts(forecasts_of(forecast()))
        store.close()


def test_influxdb_leaves_out_a_forecast_that_is_half_written(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url, influx.made(FORECASTS):
        store = open_store(url)
        store.write_forecasts(forecasts_of(forecast()))
        tags = "particulates,country=DE,horizon_min=60,place=Metz,sensor_id=82"
        influx.write(FORECASTS, f"{tags} P1_p05=9.8,P1_p25=11.5,lat=48.8,lon=9.2 {int(NOON.timestamp())}")
        assert read_forecasts(store)["sensor_id"].tolist() == [81]
        store.close()


@pytest.mark.parametrize(
    "answer", [b"error,reference\r\nout of memory,897\r\n", b",result,table,_value\r\n,_result,0,1\r\n\r\nerror,reference\r\nx,9\r\n"]
)  # fmt: skip
def test_an_answer_that_influxdb_breaks_off_is_an_error(fake: Store, web: "Web", answer: bytes) -> None:
    web.reply(answer, 200)
    with pytest.raises(StoreError, match=r"broke an? \w+ off"):
        fake.counts()


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
