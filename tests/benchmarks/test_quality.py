"""How well the judge tells the made truth, and how fast it is beside plain pandas.

`python -m pytest tests/benchmarks -k quality -s` prints recall and precision for each fault, the share of readings
flagged in each innocent event and in a clean city, and readings per CPU second. Thresholds come from the Aberdeen
archive, never from these seeds.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sensorlib.feed import measurements
from sensorlib.quality import FLAGS, HISTORY, history, is_good, judge
from sensorlib.simulate import EVENTS, draw_events, inject, inject_events, make_city, records

KEY = ["sensor_id", "value_type", "ts"]
START = datetime(2026, 5, 11, tzinfo=UTC)
SEEDS = (1001, 1002)
AT_ONCE = {"code": "code", "unit": "range", "swapped": "relation", "position": "position", "range": "range"}


def judged(made: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return judge(measurements(made)).drop_duplicates(KEY, keep="last")


@cache
def city(seed: int, sensors: int = 120, days: float = 3) -> list[dict[str, Any]]:
    return records(make_city(sensors, seed=seed), START, START + timedelta(days=days))


def caught(readings: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    "The spoilt readings with their verdicts."
    return truth.drop_duplicates(KEY).merge(readings[[*KEY, "qc"]], on=KEY)


def told(name: str, right: float, of: int, flagged: float) -> None:
    print(f"{name:>14}: recall {right:.3f} of {of:,}, precision {flagged:.3f}", flush=True)


@pytest.mark.parametrize("fault", AT_ONCE)
def test_faults_that_one_record_shows(fault: str) -> None:
    right, of, hits, flags = 0, 0, 0, 0
    for seed in SEEDS:
        spoilt, truth = inject(city(seed, days=0.5), [fault], seed=seed, share=0.02)
        readings = judged(spoilt)
        found = caught(readings, truth)
        right, of = right + int((~is_good(found["qc"])).sum()), of + len(found)
        hits, flags = hits + int((~is_good(found["qc"])).sum()), flags + int((~is_good(readings["qc"])).sum())
    told(fault, right / of, of, hits / flags)
    assert right / of >= 0.95 and hits / flags >= 0.95


def test_stuck_sensors() -> None:
    "A run is caught when it lasts; its first readings cannot be told from honest ones by anybody."
    runs: list[pd.DataFrame] = []
    flagged, honest = 0, 0
    for seed in SEEDS:
        spoilt, truth = inject(city(seed), ["stuck"], seed=seed, share=0.3)
        readings = judged(spoilt)
        found = caught(readings, truth).sort_values(KEY)
        new = found.groupby(KEY[:2])["ts"].diff() > pd.Timedelta(hours=1)
        found["run"] = 1_000 * seed + new.cumsum()
        found["hit"] = found["qc"] & FLAGS["stuck"] > 0
        runs.append(found.groupby([*KEY[:2], "run"]).agg(rows=("hit", "size"), hits=("hit", "sum")))
        marked = readings[readings["qc"] & FLAGS["stuck"] > 0].merge(truth[KEY].assign(spoilt=True), how="left", on=KEY)
        flagged, honest = flagged + len(marked), honest + int(marked["spoilt"].isna().sum())
    of = pd.concat(runs)
    lasting = of[of["rows"] >= 100]
    told("stuck", (lasting["hits"] > 0).mean(), len(lasting), 1 - honest / flagged)
    print(f"{'':>16}{of['hits'].sum() / of['rows'].sum():.3f} of all its readings, the first ones included")
    assert (lasting["hits"] > 0).mean() >= 0.95 and honest / flagged <= 0.05


def test_a_clean_city_is_left_alone() -> None:
    share = np.mean([(~is_good(judged(city(seed))["qc"])).mean() for seed in SEEDS])
    print(f"{'clean city':>14}: {share:.4%} of readings flagged")
    assert share <= 0.01


@pytest.mark.parametrize("event", EVENTS)
def test_innocent_events_are_left_alone(event: str) -> None:
    events = draw_events([event], seed=SEEDS[0], start=START, end=START + timedelta(days=3))
    happened, truth = inject_events(city(SEEDS[0]), events)
    found = caught(judged(happened), truth)
    share = (~is_good(found["qc"])).mean() if len(found) else 0.0
    print(f"{event:>14}: {share:.4%} of {len(found):,} readings flagged")
    assert len(found) > 0 and share <= 0.005


def plain_pandas(readings: pd.DataFrame) -> pd.Series:
    "The counts of `history` by groupby and rolling, as one would write them first; gaps left out."
    by = readings.groupby(["sensor_id", "value_type"], sort=False)["value"]
    return by.rolling(HISTORY).max().eq(by.rolling(HISTORY).min()).droplevel([0, 1]).sort_index()


def test_speed() -> None:
    readings = judged(city(SEEDS[1], sensors=400, days=2)).reset_index(drop=True)
    spent = {}
    for name, work in (("history", history), ("plain pandas", plain_pandas)):
        before = time.process_time()
        result = work(readings)
        spent[name] = len(readings) / (time.process_time() - before)
        print(f"{name:>14}: {spent[name]:,.0f} readings per CPU second")
    same = history(readings)["held"] >= HISTORY
    assert (same & ~result).sum() == 0
    assert spent["history"] >= spent["plain pandas"]
