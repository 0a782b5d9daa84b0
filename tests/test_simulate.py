"""A made city: shape of its records, their determinism, their physics, and the truth of the faults."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from sensorlib.core import SettingError
from sensorlib.simulate import (
    FAULTS,
    INSTRUMENTS,
    City,
    Record,
    answer,
    inject,
    make_city,
    measure,
    records,
    reports,
    sealevel_pressure,
)

MORNING = datetime(2024, 3, 5, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def city() -> City:
    return make_city(sensors=60, seed=3)


@pytest.fixture(scope="module")
def made(city: City) -> list[Record]:
    return records(city, MORNING, MORNING + timedelta(hours=2))


def flat(listed: list[Record]) -> pd.DataFrame:
    "One row per value."
    rows = [
        (r["id"], r["sensor"]["id"], r["sensor"]["sensor_type"]["name"], r["timestamp"], v["value_type"], v["value"])
        for r in listed
        for v in r["sensordatavalues"]
    ]
    return pd.DataFrame(rows, columns=["record_id", "sensor_id", "sensor_type", "ts", "value_type", "value"])


def shape(value: object) -> object:
    "Types of a JSON value, names of its members, without their order."
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(member) for member in value]
    return type(value).__name__


def test_records_have_the_shape_of_the_modern_feed(shared_data: Path, made: list[Record]) -> None:
    real = json.loads((shared_data / "odd" / "python_luftdaten_sensor_152_2021-11-07.json").read_text())[0]
    mine = next(r for r in made if r["sensor"]["sensor_type"]["name"] == "DHT22")
    assert shape(mine) == shape(real)


def test_sealevel_pressure_is_the_one_the_feed_computed(shared_data: Path) -> None:
    packed = (shared_data / "api" / "2019-04-16_mongoexport_data.ndjson.gz").read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")
    for record in (json.loads(line.rstrip(",")) for line in lines if "pressure_at_sealevel" in line):
        values = {v["value_type"]: float(v["value"]) for v in record["sensordatavalues"]}
        height = float(record["location"]["altitude"])
        mine = sealevel_pressure(values["pressure"], values["temperature"], height)
        assert mine == pytest.approx(values["pressure_at_sealevel"], abs=0.006)


def test_sealevel_pressure_follows_from_the_printed_values(made: list[Record]) -> None:
    checked = 0
    for record in made:
        values = {v["value_type"]: v["value"] for v in record["sensordatavalues"]}
        if "pressure_at_sealevel" in values:
            printed = float(values["pressure"]), float(values["temperature"]), float(record["location"]["altitude"])
            assert values["pressure_at_sealevel"] == round(sealevel_pressure(*printed), 2)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("minutes", [1, 7, 60])
def test_windows_join_without_gap_or_overlap(city: City, made: list[Record], minutes: int) -> None:
    starts = [MORNING + timedelta(minutes=m) for m in range(0, 120, minutes)]
    ends = [*starts[1:], MORNING + timedelta(hours=2)]
    pieces = {start: records(city, start, end) for start, end in reversed([*zip(starts, ends, strict=True)])}
    assert [r for start in starts for r in pieces[start]] == made


def test_the_seed_decides_everything(made: list[Record]) -> None:
    window = MORNING, MORNING + timedelta(hours=2)
    assert records(make_city(sensors=60, seed=3), *window) == made
    assert records(make_city(sensors=60, seed=4), *window) != made


def test_a_larger_city_keeps_the_sensors_of_a_smaller_one(made: list[Record]) -> None:
    larger = records(make_city(sensors=90, seed=3), MORNING, MORNING + timedelta(hours=2))
    ids = {r["id"]: r for r in larger}
    assert all(ids[r["id"]] == r for r in made)


def test_ids_are_unique_positive_and_safe_in_javascript() -> None:
    many = records(
        make_city(sensors=3000), datetime(2099, 12, 31, tzinfo=UTC), datetime(2099, 12, 31, 0, 5, tzinfo=UTC)
    )
    ids = [v["id"] for r in many for v in r["sensordatavalues"] if "id" in v]
    assert len({r["id"] for r in many}) == len(many) and len({*ids}) == len(ids)
    assert min(ids) > 0 and max(ids) < 2**53


def test_nothing_is_shared_between_records(city: City) -> None:
    window = MORNING, MORNING + timedelta(minutes=10)
    spoilt = records(city, *window)
    for record in spoilt:
        record["location"].clear()
        record["sensor"]["sensor_type"].clear()
    assert records(city, *window)[0]["location"]["country"] == "DE"


def test_values_keep_to_steps_limits_and_order(city: City) -> None:
    who, when = reports(city, int(MORNING.timestamp()), int(MORNING.timestamp()) + 3 * 86400)
    types = city.sensors["sensor_type"].to_numpy()[who]
    for name, instrument in INSTRUMENTS.items():
        values = measure(city, name, who[types == name], when[types == name])
        for value_type, scale in instrument.scales.items():
            steps = values[value_type] / scale.step
            assert np.allclose(steps, np.rint(steps), atol=1e-5)
            assert ((values[value_type] >= scale.low) & (values[value_type] <= scale.high)).all()
        if "P1" in values:
            assert (values["P2"] <= values["P1"]).all()
        if "noise_LAeq" in values:
            assert (values["noise_LA_min"] <= values["noise_LAeq"]).all()
            assert (values["noise_LAeq"] <= values["noise_LA_max"]).all()


def test_cadence_and_losses_are_those_of_the_archive(city: City) -> None:
    who, when = reports(city, int(MORNING.timestamp()), int(MORNING.timestamp()) + 10 * 86400)
    steps = pd.Series(when).groupby(who).diff().dropna()
    assert steps.median() == 148 and steps.min() > 130
    assert 0.005 < (steps > 200).mean() < 0.03 and (steps > 3600).any()


def test_the_feed_repeats_records_and_forgets_them_after_five_minutes(city: City, made: list[Record]) -> None:
    polls = [{r["id"] for r in answer(city, MORNING + timedelta(minutes=5 + m))} for m in range(6)]
    assert polls[0] & polls[4] and not polls[0] & polls[5]
    assert set.union(*polls) == {r["id"] for r in made if r["timestamp"] < "2024-03-05 06:10:00"}


def test_an_empty_window_is_an_empty_list(city: City) -> None:
    assert records(city, MORNING, MORNING) == []
    assert len(inject([], [*FAULTS], seed=1)[1]) == 0


def test_truth_names_exactly_the_values_that_changed(made: list[Record]) -> None:
    names = [name for name in FAULTS if name != "position"]
    spoilt, truth = inject(made, names, seed=5, share=0.2)
    before, after = flat(made), flat(spoilt)
    changed = after[before["value"].astype(str) != after["value"].astype(str)]
    told = zip(truth["sensor_id"], truth["value_type"], truth["ts"].dt.strftime("%Y-%m-%d %H:%M:%S"), strict=True)
    assert {*told} == {*zip(changed["sensor_id"], changed["value_type"], changed["ts"], strict=True)}
    assert len(truth) == len(changed) and {*truth["fault"]} == {*names}


@pytest.mark.parametrize("name", [*FAULTS])
def test_each_fault_alone_and_on_every_record_it_fits(made: list[Record], name: str) -> None:
    honest = msgspec.json.encode(made)
    spoilt, truth = inject(made, [name], seed=1, share=1.0)
    assert msgspec.json.encode(made) == honest
    changed = sum(old != new for old, new in zip(made, spoilt, strict=True))
    assert changed == len(truth[["sensor_id", "ts"]].drop_duplicates()) > 0
    assert len(truth) == len(truth.drop_duplicates(["sensor_id", "value_type", "ts"]))


def test_faults_do_not_depend_on_the_order_or_on_the_neighbours(made: list[Record]) -> None:
    whole, _ = inject(made, [*FAULTS], seed=2, share=0.1)
    backwards, _ = inject(made[::-1], [*FAULTS], seed=2, share=0.1)
    single = [inject([record], [*FAULTS], seed=2, share=0.1)[0][0] for record in made[:300]]
    assert backwards[::-1] == whole and single == whole[:300]


def test_share_is_kept(made: list[Record]) -> None:
    _, truth = inject(made, ["position"], seed=1, share=0.1)
    assert len(truth[["sensor_id", "ts"]].drop_duplicates()) / len(made) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "call",
    [
        lambda: make_city(sensors=0),
        lambda: make_city(sensors=100_001),
        lambda: records(make_city(sensors=2), datetime(2024, 1, 1), MORNING),
        lambda: records(make_city(sensors=2), datetime(1999, 1, 1, tzinfo=UTC), MORNING),
        lambda: inject([], ["gremlins"], seed=1),
        lambda: inject([], ["code"], seed=1, share=2.0),
    ],
)
def test_what_cannot_be_simulated_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(SettingError, match="expected"):
        call()
