"""What the prediction of the whole network asks of a file: a day of readings, and 330,000 forecasts, with time and memory.

`python -m pytest tests/benchmarks -k "day_of or network" -s` prints seconds and the memory that each took at its highest.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import VALUE_TYPES, Reading
from sensorlib.rows import DAY, FORECAST_COLUMNS, QUANTILE_COLUMNS
from sensorlib.sqlite import SqliteStore

MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)
HORIZONS_MIN = (10, 30, 60, 120, 180, 360, 540, 720, 1080, 1440)


def told(what: str, rows: int, work: Callable[[], Any]) -> None:
    "Do something twice: once for the time, once for the memory above what there was, which slows it down."
    began = time.perf_counter()
    work()
    took_s = time.perf_counter() - began
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\n{what}: {rows:,} rows in {took_s:.1f} s, {peak / 1e6:.0f} MB, {peak / rows:.0f} bytes a row")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "readings.db")
    yield store
    store.close()


def write_day(store: SqliteStore, sensors: int) -> None:
    "Write a reading in 150 s of two value types a sensor."
    for sensor in range(1, sensors + 1):
        moments = [MIDNIGHT + timedelta(seconds=150 * n + sensor % 150) for n in range(576)]
        store.write([Reading(sensor, t, "particulates", name, 20.0) for t in moments for name in ("P1", "P2")])


def test_a_day_of_a_tenth_of_the_network(store: SqliteStore) -> None:
    write_day(store, 1500)
    assert store.counts() == {"particulates": 1_728_000}
    told("read readings", 1_728_000, lambda: store.readings("particulates", MIDNIGHT, MIDNIGHT + 2 * DAY))


def forecasts(issued: datetime) -> pd.DataFrame:
    "Ten horizons of 33,000 series."
    names = [*VALUE_TYPES][:3]
    keys = pd.MultiIndex.from_product([range(50_000, 61_000), names, HORIZONS_MIN])
    rows = keys.to_frame(index=False, name=["sensor_id", "value_type", "horizon_min"])
    values = np.sort(np.random.default_rng(0).gamma(2, 10, (len(rows), 5)), axis=1)
    rows[[*QUANTILE_COLUMNS]] = values
    ts = pd.Timestamp(issued) + pd.to_timedelta(rows["horizon_min"], unit="min")
    known = {"persistence": values[:, 2], "daily": values[:, 1], "observed": np.nan, "lat": 48.8, "lon": 9.2}
    return rows.assign(ts=ts, issued=issued, model="network", country="DE", place="Ulm", **known)[[*FORECAST_COLUMNS]]


def test_forecasts_of_the_network(store: SqliteStore) -> None:
    batches = [forecasts(MIDNIGHT + timedelta(minutes=m)) for m in (0, 10, 20)]
    for batch in batches[1:]:
        store.write_forecasts(batch)
    told("write forecasts", len(batches[0]), lambda: store.write_forecasts(batches[0]))
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    rows = sum(map(len, batches))
    print(f"{store._path.stat().st_size / rows:.0f} bytes a forecast in the file")
    assert len(store.forecasts("temperature", MIDNIGHT, MIDNIGHT + 2 * DAY)) == rows // 3
    told("read forecasts", rows // 3, lambda: store.forecasts("temperature", MIDNIGHT, MIDNIGHT + 2 * DAY))
