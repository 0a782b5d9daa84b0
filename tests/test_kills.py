"""A cut of `make kills`: parts are killed, paused, locked and cut off under a load of 2,000 readings/s, and nothing is missing."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from influx import needed_influxd
from kills.__main__ import system
from kills.load import KEY
from kills.machine import Machine
from kills.matrix import Row, rows_of, run_row
from kills.stores import keep_in, no_small_disk
from kills.verdict import Verdict, compare

SECONDS = 10
LOADS = count()
ON_SQLITE = "kill scraper, kill flink and broker, hold up the store and kill, fill the store's disk and kill, clock"
ON_INFLUX = "kill collector and store, cut responses"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with system("sqlite", tmp_path_factory.mktemp("kills")) as made:
        yield made


@pytest.fixture(scope="module")
def on_influx(running: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    needed_influxd()
    with keep_in("influx", tmp_path_factory.mktemp("influx"), running.logs) as kept, running.storing_in(kept):
        yield running


def outcome(machine: Machine, row: Row, store: str, folder: Path) -> tuple[Verdict, dict[str, object]]:
    why = no_small_disk(folder) if row.on_small_disk else ""
    if why:
        pytest.skip(why)
    found = run_row(machine, row, store, next(LOADS), 1, SECONDS, folder / "row")
    return found.verdict, found.line()


@pytest.mark.parametrize("row", rows_of("sqlite", ON_SQLITE), ids=lambda row: row.name)
def test_no_reading_is_lost_doubled_or_changed_in_sqlite(running: Machine, row: Row, tmp_path: Path) -> None:
    verdict, line = outcome(running, row, "sqlite", tmp_path)
    assert verdict.is_clean(), line
    assert verdict.said > 2000 * SECONDS


@pytest.mark.parametrize("row", rows_of("influx", ON_INFLUX), ids=lambda row: row.name)
def test_no_reading_is_lost_doubled_or_changed_in_influxdb(on_influx: Machine, row: Row, tmp_path: Path) -> None:
    verdict, line = outcome(on_influx, row, "influx", tmp_path)
    assert verdict.is_clean(), line
    assert verdict.said > 2000 * SECONDS


def said(*values: float) -> pd.DataFrame:
    "One reading a second of one sensor."
    noon = pd.Timestamp(datetime(2026, 5, 4, 12, tzinfo=UTC))
    rows = [(1, "P1", noon + pd.Timedelta(seconds=n), value, 48.7, 9.1) for n, value in enumerate(values)]
    return pd.DataFrame(rows, columns=[*KEY, "value", "lat", "lon"])


def judged(truth: pd.DataFrame, qc: int = 0) -> pd.DataFrame:
    return truth[KEY].assign(judged=qc)


def test_a_reading_that_is_kept_once_as_it_was_said_is_clean() -> None:
    truth = said(1.0, 2.0, 3.0)
    assert compare(truth, truth.assign(qc=0), judged(truth), raw=3, dead=0).is_clean()


def test_what_is_lost_doubled_or_changed_is_counted() -> None:
    truth = said(1.0, 2.0, 3.0, 4.0)
    kept = pd.concat([truth[:2], truth[1:2], said(9.0, 9.0, 9.0)[2:]]).assign(qc=0)
    found = compare(truth, kept, judged(truth), raw=4, dead=0)
    assert (found.lost, found.doubled, found.changed, found.alien) == (1, 1, 1, 0)


def test_a_reading_that_nobody_said_is_counted() -> None:
    truth = said(1.0, 2.0)
    assert compare(truth[:1], truth.assign(qc=0), judged(truth), raw=1, dead=0).alien == 1


def test_the_last_verdict_of_the_stream_is_the_one_to_keep() -> None:
    truth = said(1.0, 2.0)
    twice = pd.concat([judged(truth), judged(truth[:1], qc=4)])
    found = compare(truth, truth.assign(qc=0), twice, raw=2, dead=0)
    assert (found.repeated, found.rejudged, found.changed) == (1, 1, 1)
