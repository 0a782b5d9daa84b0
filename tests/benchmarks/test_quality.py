"""How well the judge tells the made truth, and how fast it is beside plain pandas.

`python -m pytest tests/benchmarks -k quality -s` prints recall and precision for each fault, the share of readings
flagged in each innocent event and in a clean city, and readings per CPU second. Thresholds come from the Aberdeen
archive before September 2018, the world snapshot of 2017 and the seeds 501 to 506, never from these seeds.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sensorlib.feed import in_order, measurements
from sensorlib.places import enrich
from sensorlib.quality import ENOUGH, FLAGS, HISTORY, RECENT, VOICES, examine, is_good, judge, qc_sql
from sensorlib.quality import _answer, _with_partners
from sensorlib.simulate import EVENTS, draw_events, inject, inject_events, make_city, records

KEY = ["sensor_id", "value_type", "ts"]
START = datetime(2026, 5, 11, tzinfo=UTC)
SEEDS = (1001, 1002, 1003, 1004)
AT_ONCE = {"code": "code", "unit": "range", "swapped": "relation", "position": "position", "range": "range"}


def judged(made: Sequence[dict[str, Any]]) -> pd.DataFrame:
    measured = measurements(enrich(record, "2026-06-01T00:00:00Z") for record in made)
    return examine(measured).drop_duplicates(KEY, keep="last")


@cache
def city(seed: int, sensors: int = 120, days: float = 3) -> list[dict[str, Any]]:
    return records(make_city(sensors, seed=seed), START, START + timedelta(days=days))


def caught(readings: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    "The spoilt readings with their verdicts."
    return truth.drop_duplicates(KEY).merge(readings, on=KEY)


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


@cache
def clean(seed: int) -> pd.DataFrame:
    return judged(city(seed))


def robust_sigma(readings: pd.DataFrame) -> pd.Series:
    "Spread of honest readings around the median of their neighbours, by value type; robust."
    compared = readings[readings["others"] >= ENOUGH]
    apart = compared["comparable"] - compared["middle"]
    return apart.groupby(compared["value_type"]).agg(lambda a: 1.4826 * (a - a.median()).abs().median())


@pytest.mark.parametrize(("fault", "flag"), [("spike", "spike"), ("offset", "neighbours")])
def test_faults_that_neighbours_deny(fault: str, flag: str) -> None:
    "Those with four or more neighbours, off by more than five robust sigmas."
    hits: list[pd.DataFrame] = []
    right, flagged = 0, 0
    for seed in SEEDS:
        spoilt, truth = inject(city(seed), [fault], seed=seed, share=0.05)
        readings, honest = judged(spoilt), clean(seed)[[*KEY, "value"]].rename(columns={"value": "honest"})
        found = caught(readings, truth).merge(honest, on=KEY)
        off = (found["value"] - found["honest"]).abs() / found["value_type"].map(robust_sigma(clean(seed)))
        found = found[(found["others"] >= ENOUGH) & (found["known"] >= HISTORY) & (off > 5)]
        hits.append(found.assign(hit=found["qc"] & (FLAGS["spike"] | FLAGS["neighbours"]) > 0))
        marked = readings[(readings["others"] >= ENOUGH) & (readings["qc"] & FLAGS[flag] > 0)]
        marked = marked.merge(truth[KEY].drop_duplicates().assign(spoilt=True), how="left", on=KEY)
        right, flagged = right + int(marked["spoilt"].notna().sum()), flagged + len(marked)
    found = pd.concat(hits)
    told(fault, found["hit"].mean(), len(found), right / flagged)
    print(f"{'':>16}{found.groupby('value_type')['hit'].mean().round(2).to_dict()}")
    assert found["hit"].mean() >= 0.90 and right / flagged >= 0.90


def test_a_clean_city_is_left_alone() -> None:
    share = np.mean([(~is_good(clean(seed)["qc"])).mean() for seed in SEEDS])
    print(f"{'clean city':>14}: {share:.4%} of readings flagged")
    assert share <= 0.01


@pytest.mark.parametrize("event", EVENTS)
def test_innocent_events_are_left_alone(event: str) -> None:
    bad: list[np.ndarray] = []
    for seed in SEEDS:
        events = draw_events([event], seed=seed, start=START, end=START + timedelta(days=3))
        happened, truth = inject_events(city(seed), events)
        bad.append((~is_good(caught(judged(happened), truth)["qc"])).to_numpy())
    share, by_seed = np.concatenate(bad).mean(), [f"{some.mean():.2%}" for some in bad]
    print(f"{event:>14}: {share:.4%} of {sum(map(len, bad)):,} readings flagged, by seed {', '.join(by_seed)}")
    assert share <= 0.005


def plain_pandas(readings: pd.DataFrame) -> None:
    "The windows behind the checks by groupby and rolling, as one would write them first; without codes, gaps and verdicts."
    own = readings.groupby(["sensor_id", "value_type"], sort=False)["value"]
    own.rolling(HISTORY).max().eq(own.rolling(HISTORY).min())
    own.rolling(RECENT).median()
    for _, rows in readings.groupby(["cell", "value_type"], sort=False):
        for location, mine in rows.groupby("location_id"):
            others = rows.loc[rows["location_id"] != location, ["ts", "value"]]
            said = others["value"].rolling(VOICES, min_periods=1)
            quantiles = {f"q{share}": said.quantile(share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)}
            pd.merge_asof(mine[["ts", "value"]], others[["ts"]].assign(**quantiles), on="ts")


def record_local(measured: pd.DataFrame) -> pd.DataFrame:
    "The checks of one record alone; what they need of the history is given."
    readings = _with_partners(measured).assign(known=HISTORY, held=1, held_s=0)
    return _answer(readings, qc=qc_sql(asks_others=False))


def test_speed() -> None:
    made = city(SEEDS[0], sensors=400, days=2)
    measured = measurements(enrich(record, "2026-06-01T00:00:00Z") for record in in_order(made))
    rate = {}
    for name, work in (("one record", record_local), ("all checks", judge), ("plain pandas", plain_pandas)):
        work(measured.head(1000))
        before = time.process_time()
        work(measured)
        rate[name] = len(measured) / (time.process_time() - before)
        print(f"{name:>14}: {rate[name]:,.0f} readings per CPU second")
    print(f"{'':>16}all checks are {rate['all checks'] / rate['plain pandas']:.1f} times as fast as plain pandas")
    assert rate["all checks"] >= rate["plain pandas"]
