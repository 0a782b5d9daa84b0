"""Averages that outlive their readings, in both stores: complete, repeatable, and safe from whatever comes late."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from sensorlib import cli
from sensorlib.completeness import SensorHour
from sensorlib.core import KINDS, Reading, SettingError, StoreError
from sensorlib.frames import average
from sensorlib.rollups import WINDOWS_S, average_day, days_to_average, retain, roll_up
from sensorlib.rows import AVERAGE_COLUMNS, DAY, HOUR_COLUMNS, Day, midnight
from sensorlib.sqlite import SqliteStore
from sensorlib.store import Store, open_store

if TYPE_CHECKING:
    from influx import Influx

pytest_plugins = ("influx",)

MIDNIGHT = datetime(2026, 1, 15, tzinfo=UTC)
TYPES = {"P1": "particulates", "temperature": "temperature", "noise_LAeq": "noise", "noise_LA_max": "noise"}


@pytest.fixture(params=["sqlite", "influxdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    "An empty store."
    if request.param == "sqlite":
        store = open_store(f"sqlite:///{tmp_path}/readings.db")
        yield store
        store.close()
        return
    influx: Influx = request.getfixturevalue("influx")
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url, influx.made("averages"):
        store = open_store(url)
        yield store
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "readings.db")


def readings(days: float = 2, sensors: int = 3, seed: int = 1, step_s: int = 600) -> list[Reading]:
    "What some sensors said, a tenth of it faulty, some of them silent for a while."
    random = np.random.default_rng(seed)
    made = []
    for sensor in range(1, sensors + 1):
        for second in range(0, int(days * 86_400), step_s):
            silent = sensor == 2 and 30_000 < second < 60_000
            for name, kind in TYPES.items() if not silent else ():
                qc = 2 if random.random() < 0.1 else 0
                moment = MIDNIGHT + timedelta(seconds=second + sensor)
                made.append(Reading(sensor, moment, kind, name, round(float(random.normal(50, 8)), 2), qc))
    return made


def frame_of(some: list[Reading]) -> pd.DataFrame:
    frame = pd.DataFrame([(r.sensor_id, r.value_type, r.ts, r.value, r.qc) for r in some])
    return frame.set_axis(["sensor_id", "value_type", "ts", "value", "qc"], axis=1)


def all_averages(store: Store, window: str) -> pd.DataFrame:
    span = MIDNIGHT - 30 * DAY, MIDNIGHT + 30 * DAY
    found = pd.concat([store.averages(kind, WINDOWS_S[window], *span) for kind in KINDS])
    return found.sort_values(["sensor_id", "value_type", "ts"], ignore_index=True)


def test_averages_are_those_of_the_frames(store: Store) -> None:
    some = readings()
    store.write(some)
    done = roll_up(store)
    assert (done.readings, done.good) == (len(some), sum(r.qc == 0 for r in some))
    for window in WINDOWS_S:
        days = [frame_of([r for r in some if r.ts.date() == d]) for d in sorted({r.ts.date() for r in some})]
        expected = pd.concat([average(day, window) for day in days])
        expected = expected[expected["count"] > 0].sort_values(["sensor_id", "value_type", "ts"], ignore_index=True)
        found = all_averages(store, window)
        found = found[found["count"] > 0].reset_index(drop=True)
        assert list(found) == list(AVERAGE_COLUMNS)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=False, rtol=1e-12)


def test_every_good_reading_is_in_one_hour_and_one_day(store: Store) -> None:
    some = readings(days=1.5)
    store.write(some)
    roll_up(store)
    good = sum(r.qc == 0 for r in some)
    assert {window: int(all_averages(store, window)["count"].sum()) for window in WINDOWS_S} == {"1h": good, "1d": good}


def test_running_again_changes_nothing(store: Store) -> None:
    store.write(readings())
    first = roll_up(store)
    kept = {window: all_averages(store, window) for window in WINDOWS_S}
    assert roll_up(store).days == 0
    assert roll_up(store, since=MIDNIGHT) == first
    for window in WINDOWS_S:
        pd.testing.assert_frame_equal(all_averages(store, window), kept[window])


def test_a_late_reading_and_a_new_verdict_change_their_hour(store: Store) -> None:
    some = [r for r in readings(days=0.25, sensors=1) if r.value_type == "P1"]
    late, others = some[10], some[:10] + some[11:]
    store.write(others)
    roll_up(store)
    store.write([late, replace(others[0], qc=2, value=5e6)])
    roll_up(store)
    daily = all_averages(store, "1d")
    good = [r.value for r in [late, *others[1:]] if r.qc == 0]
    assert daily["count"].tolist() == [len(good)]
    assert daily["value"].tolist() == pytest.approx([np.mean(good)])


def test_a_window_without_a_good_reading_has_a_count_of_0(store: Store) -> None:
    store.write([Reading(5, MIDNIGHT + timedelta(minutes=n), "noise", "noise_LAeq", 999.0, 2) for n in range(9)])
    roll_up(store)
    for window in WINDOWS_S:
        row = all_averages(store, window).iloc[0]
        assert (row["count"], np.isnan(row["value"]), row["coverage"]) == (0, True, 0.0)


def test_decibels_are_averaged_by_energy(store: Store) -> None:
    store.write(
        [Reading(5, MIDNIGHT + timedelta(minutes=n), "noise", "noise_LAeq", v) for n, v in ((0, 40.0), (1, 70.0))]
    )
    roll_up(store)
    assert all_averages(store, "1h")["value"].tolist() == pytest.approx([66.99], abs=0.01)


def test_an_empty_store_has_nothing_to_roll_up(store: Store) -> None:
    assert store.days() == []
    assert roll_up(store).days == 0
    assert len(all_averages(store, "1h")) == 0
    assert store.averages("noise", 3600, MIDNIGHT, MIDNIGHT + DAY).dtypes["count"] == "int64"


def test_a_run_takes_the_days_that_something_was_written_to(store: Store) -> None:
    some = readings(days=5, sensors=1, step_s=7200)
    store.write(some)
    assert [(d.kind, d.start) for d in days_to_average(store)] == sorted(
        {(r.kind, MIDNIGHT + (r.ts - MIDNIGHT) // DAY * DAY) for r in some}, key=lambda d: (d[1], d[0])
    )
    roll_up(store)
    assert days_to_average(store) == []
    store.write([some[0]])
    assert [(d.kind, d.start) for d in days_to_average(store)] == [(some[0].kind, MIDNIGHT)]
    roll_up(store)
    again = days_to_average(store, since=MIDNIGHT + 4 * DAY)
    assert [(d.kind, d.start) for d in again] == [(k, MIDNIGHT + 4 * DAY) for k in sorted(set(TYPES.values()))]


def test_what_is_written_while_a_day_is_averaged_makes_it_due_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = Reading(5, MIDNIGHT, "noise", "noise_LAeq", 50.0), Reading(6, MIDNIGHT, "noise", "noise_LAeq", 60.0)
    store.write([first])
    real = store.write_averages

    def write_averages(*arguments: Any) -> None:
        "Receive a reading between reading the day and writing its averages."
        monkeypatch.setattr(store, "write_averages", real)
        store.write([late])
        real(*arguments)

    monkeypatch.setattr(store, "write_averages", write_averages)
    roll_up(store)
    assert [day.due for day in store.days()] == [True]
    roll_up(store)
    assert all_averages(store, "1d")["count"].tolist() == [1, 1]
    assert [day.due for day in store.days()] == [False]


def test_a_day_with_a_reading_that_no_average_counts_is_not_forgotten(file: SqliteStore) -> None:
    some = readings(days=4, sensors=1)
    file.write(some)
    roll_up(file)
    file.write([replace(some[0], value=51.0)])
    with pytest.raises(StoreError, match=r"particulates of 2026-01-15: .*; run sensorlib rollup again"):
        file.forget(MIDNIGHT + 2 * DAY)
    assert sum(file.counts().values()) == len(some)
    file.forget(MIDNIGHT)
    retain(file, 1, MIDNIGHT + 3 * DAY)
    assert int(all_averages(file, "1d")["count"].sum()) == sum(r.qc == 0 for r in some)


def test_a_bucket_averages_no_day_that_it_keeps_only_in_part(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    today = midnight(datetime.now(UTC))
    with influx.bucket(2 * 86_400) as url, influx.made("averages"):
        store = open_store(url)
        assert store.forgotten() == today - DAY
        moments = [datetime.now(UTC).replace(microsecond=0) - timedelta(hours=h) for h in (47.9, 0)]
        assert store.write([Reading(5, moment, "noise", "noise_LAeq", 50.0) for moment in moments]) == []
        assert [d.start for d in store.days()] == [today - 2 * DAY, today]
        assert [d.start for d in days_to_average(store, since=today - 9 * DAY)] == [today]
        assert len(store.write([Reading(5, today - 9 * DAY, "noise", "noise_LAeq", 50.0)])) == 1
        assert [d.start for d in store.days()] == [today - 2 * DAY, today]
        store.set_averaged(Day("noise", today - 9 * DAY, change=5, averaged=0))
        gone, *rest = store.days()
        assert (gone.start, gone.due) == (today - 9 * DAY, False), "averages outlive what they were made of"
        assert all(day.due for day in rest)
        store.close()


def test_forgetting_keeps_averages_and_refuses_what_comes_later(file: SqliteStore) -> None:
    some = readings(days=4)
    file.write(some)
    done = retain(file, 1, MIDNIGHT + 4 * DAY)
    assert done.forgotten_before == MIDNIGHT + 3 * DAY
    young = [r for r in some if r.ts >= MIDNIGHT + 3 * DAY]
    assert sum(file.counts().values()) == len(young)
    assert int(all_averages(file, "1d")["count"].sum()) == sum(r.qc == 0 for r in some)
    mixed = [some[0], young[0], some[1], young[1]]
    refused = file.write(mixed)
    assert [r.reading for r in refused] == [some[0], some[1]]
    assert all("averaged and gone" in r.says for r in refused)
    kept = all_averages(file, "1h")
    roll_up(file, since=MIDNIGHT)
    pd.testing.assert_frame_equal(all_averages(file, "1h"), kept)


def test_forgetting_less_than_before_brings_nothing_back(file: SqliteStore) -> None:
    file.write(readings(days=4, sensors=1))
    retain(file, 1, MIDNIGHT + 4 * DAY)
    retain(file, 3, MIDNIGHT + 4 * DAY)
    assert file.forgotten() == MIDNIGHT + 3 * DAY


def test_influxdb_forgets_by_itself(influx: "Influx", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url, pytest.raises(SettingError, match="sensorlib setup --keep-days"):
        open_store(url).forget(MIDNIGHT)


@pytest.mark.parametrize("window", WINDOWS_S)
def test_a_day_of_silence_has_no_average(window: str) -> None:
    assert average_day(frame_of(readings(days=1))[:0], window).empty


def test_kill_9_at_any_moment_leaves_what_the_next_run_completes(tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        store = SqliteStore(tmp_path / name)
        for at in range(0, len(some), 5000):
            store.write(some[at : at + 5000])
        store.close()
        return tmp_path / name

    some = readings(days=6, sensors=40)
    today = midnight(datetime.now(UTC))
    some = [replace(r, ts=r.ts + (today - 5 * DAY - MIDNIGHT)) for r in some]
    command = [sys.executable, "-m", "sensorlib.cli", "rollup", "--keep-days", "2", "--json", "--store"]
    whole = copy("whole.db")
    subprocess.run([*command, f"sqlite:///{whole}"], check=True, stdout=subprocess.DEVNULL)
    killed, kills = copy("killed.db"), 0
    for wait_s in (1.2, 1.6, 2.0, 2.5, 3.0):
        run = subprocess.Popen([*command, f"sqlite:///{killed}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait_s)
        run.kill()
        kills += run.wait() == -signal.SIGKILL
    assert kills
    subprocess.run([*command, f"sqlite:///{killed}"], check=True, stdout=subprocess.DEVNULL)
    tables = ("averages", "readings", "forgotten", "days")
    left, right = (
        [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        for db in (sqlite3.connect(whole), sqlite3.connect(killed))
    )
    assert left == right
    assert all(left)


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: SqliteStore) -> None:
    file.write(readings(days=1, sensors=1))
    assert cli.main(["rollup", "--store", f"sqlite:///{tmp_path}/readings.db"]) == 0
    assert "days" in capsys.readouterr().out
    assert cli.main(["rollup", "--store", f"sqlite:///{tmp_path}/missing.db"]) == 1
    assert "no such store" in capsys.readouterr().err
    assert not (tmp_path / "missing.db").exists()


def test_a_file_of_the_first_version_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    store = SqliteStore(path)
    store.write([Reading(5, MIDNIGHT + n * DAY, "noise", "noise_LAeq", 50.0) for n in (0, 1, 1)])
    store.close()
    with sqlite3.connect(path) as db:
        for table in ("averages", "forgotten", "completeness", "days", "forecasts", "models"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 1")
    store = SqliteStore(path)
    assert store.forgotten() == datetime(1970, 1, 1, tzinfo=UTC)
    assert [(day.start, day.due) for day in store.days()] == [(MIDNIGHT, True), (MIDNIGHT + DAY, True)]


def hour(sensor: int = 81, n: int = 0, **changes: object) -> SensorHour:
    told = {"cadence_s": 150.0, "expected": 24, "received": 21, "missed_feed": 2, "missed_ours": 1, **changes}
    return SensorHour(MIDNIGHT, MIDNIGHT + timedelta(hours=n), sensor, **told)  # type: ignore[arg-type]


def test_the_account_of_completeness_is_kept_once(store: Store) -> None:
    rows = [hour(), hour(82, cadence_s=None), hour(n=1)]
    for _ in range(2):
        store.write_completeness(rows)
    store.write_completeness([hour(received=22, missed_ours=0)])
    found = store.completeness(MIDNIGHT, MIDNIGHT + timedelta(hours=1))
    assert list(found) == list(HOUR_COLUMNS)
    assert found["sensor_id"].tolist() == [81, 82]
    assert found.loc[0, ["expected", "received", "missed_feed", "missed_ours"]].tolist() == [24, 22, 2, 0]
    assert np.isnan(found.loc[1, "cadence_s"])
    assert found["run"].tolist() == [pd.Timestamp(MIDNIGHT)] * 2
    assert len(store.completeness(MIDNIGHT, MIDNIGHT + DAY)) == 3
    assert store.counts() == {}


def test_no_account_of_completeness_has_the_same_columns(store: Store) -> None:
    empty = store.completeness(MIDNIGHT, MIDNIGHT + DAY)
    store.write_completeness([hour()])
    full = store.completeness(MIDNIGHT, MIDNIGHT + DAY)
    assert (len(empty), empty.dtypes.to_dict()) == (0, full.dtypes.to_dict())
