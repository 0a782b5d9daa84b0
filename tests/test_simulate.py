"""A made city: shape of its records, their determinism, their physics, and the truth of the faults."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from sensorlib.archive import open_files, read_file
from sensorlib.core import SettingError
from sensorlib.simulate import (
    ARRIVALS,
    EPISODES,
    EVENTS,
    FAULTS,
    INSTRUMENTS,
    City,
    Event,
    Record,
    answer,
    draw_events,
    inject,
    inject_events,
    inject_pieces,
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
        lambda: draw_events(["miracle"], 1, MORNING, MORNING),
    ],
)
def test_what_cannot_be_simulated_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(SettingError, match="expected"):
        call()


EVERY = [*FAULTS, *EPISODES, *ARRIVALS]
Value = tuple[int, str, str]


@pytest.fixture(scope="module")
def days(city: City) -> list[Record]:
    "Every sixth record of six days of 24 sensors."
    return records(make_city(sensors=24, seed=3), MORNING, MORNING + timedelta(days=6))[::6]


@pytest.fixture(scope="module")
def aberdeen(shared_data: Path) -> list[Record]:
    "Records of the published archive: the first 60 day files, one after the other."
    files = open_files(shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst")
    return [r for _, (name, data) in zip(range(60), files, strict=False) for r in read_file(name, data).records]


def told(truth: pd.DataFrame) -> list[Value]:
    "Keys of the truth, in order."
    when = truth["ts"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return sorted(zip(truth["sensor_id"].tolist(), truth["value_type"], when, strict=True))


def changed(before: list[Record], after: list[Record]) -> list[Value]:
    "Keys of all values that differ, or stand at another place, height (pressures) or moment."
    found = []
    for old, new in zip(before, after, strict=True):
        place = [[r["location"][k] for k in ("latitude", "longitude")] + [r["timestamp"]] for r in (old, new)]
        height = old["location"]["altitude"] != new["location"]["altitude"]
        for a, b in zip(old["sensordatavalues"], new["sensordatavalues"], strict=True):
            moved = place[0] != place[1] or (height and a["value_type"].startswith("pressure"))
            if a != b or moved:
                found.append((int(new["sensor"]["id"]), a["value_type"], new["timestamp"].replace("T", " ")))
    return sorted(found)


def runs(before: list[Record], after: list[Record], value_type: str) -> pd.DataFrame:
    "Value before and after, and the sensor, of each record that has this value type and was changed."
    rows = [
        (old["sensor"]["id"], float(a["value"]), float(b["value"]), old["timestamp"], new["timestamp"])
        for old, new in zip(before, after, strict=True)
        for a, b in zip(old["sensordatavalues"], new["sensordatavalues"], strict=True)
        if a["value_type"] == value_type and old != new
    ]
    return pd.DataFrame(rows, columns=["sensor_id", "old", "new", "ts", "told"])


@pytest.mark.parametrize("name", [*EPISODES])
def test_truth_of_an_episode_is_exactly_what_changed(days: list[Record], name: str) -> None:
    honest = msgspec.json.encode(days)
    spoilt, truth = inject(days, [name], seed=2, share=1.0)
    assert msgspec.json.encode(days) == honest
    assert told(truth) == changed(days, spoilt) != []
    assert {*truth["fault"]} == {name}


def test_truth_is_exact_when_all_happens_at_once(days: list[Record]) -> None:
    names = [name for name in [*FAULTS, *EPISODES] if name != "position"]  # its height spoils all values
    spoilt, truth = inject(days, names, seed=2, share=0.4)
    assert told(truth) == changed(days, spoilt)
    assert {*truth["fault"]} == {*names}


def test_what_is_spoilt_keeps_the_shape_of_the_feed(days: list[Record]) -> None:
    spoilt, _ = inject(days, EVERY, seed=2, share=0.5)
    shapes = {json.dumps(shape(r)) for r in days}
    assert {json.dumps(shape(r)) for r in spoilt} == shapes
    assert all(
        "." in v["value"] and len(v["value"].split(".")[1]) == 2
        for r in spoilt
        for v in r["sensordatavalues"]
        if "id" in v
    )


@pytest.mark.parametrize("names", [EVERY, ["delayed"], ["stuck"], ["spike", "duplicate"]])
def test_a_run_in_pieces_is_the_run_at_once(days: list[Record], names: list[str]) -> None:
    whole, truth = inject(days, names, seed=7, share=0.3)
    cuts = [0, 1, 500, 501, 2000, len(days)]
    pieces = [*inject_pieces([days[a:b] for a, b in pairwise(cuts)], names, seed=7, share=0.3)]
    assert [r for made, _ in pieces for r in made] == whole
    pd.testing.assert_frame_equal(pd.concat([t for _, t in pieces], ignore_index=True), truth)


def test_another_seed_spoils_others(days: list[Record]) -> None:
    first, again, other = (inject(days, EVERY, seed=seed, share=0.2) for seed in (1, 1, 2))
    assert first[0] == again[0] and first[1].equals(again[1])
    assert {*told(first[1])} != {*told(other[1])}


def test_stuck_holds_what_was_true_just_before(days: list[Record]) -> None:
    spoilt, _ = inject(days, ["stuck"], seed=2, share=1.0)
    held = runs(days, spoilt, "temperature")
    sensor = held[held["sensor_id"] == held["sensor_id"].iloc[0]]
    honest = {float(v["value"]) for r in days for v in r["sensordatavalues"] if v["value_type"] == "temperature"}
    assert sensor["new"].nunique() < len(sensor) / 5 and {*sensor["new"]} <= honest


@pytest.mark.parametrize(
    "name, value_type, holds",
    [
        ("stuck_limit", "humidity", lambda d: d["new"].isin([99.9, 100.0]).all()),
        ("stuck_limit", "P1", lambda d: (d["new"] <= 0.3).all()),
        ("dead_fan", "P1", lambda d: {*d["new"]} == {1999.9, 0.0}),
        ("offset", "temperature", lambda d: (d["new"] - d["old"]).median() > 14),
        ("offset", "pressure", lambda d: (d["new"] - d["old"]).between(1499, 2501).mean() > 0.8),
        ("drift", "humidity", lambda d: (d["new"] < d["old"]).all()),
        ("drift", "P2", lambda d: (d["new"] > d["old"]).all()),
        ("wrong_height", "pressure_at_sealevel", lambda d: (d["new"] - d["old"]).between(3000, 13_000).all()),
        ("wrong_place", "temperature", lambda d: (d["new"] == d["old"]).all()),
        ("frozen_clock", "temperature", lambda d: (d["told"] < d["ts"]).all()),
    ],
)
def test_each_episode_does_what_it_says(
    days: list[Record], name: str, value_type: str, holds: Callable[[pd.DataFrame], bool]
) -> None:
    spoilt, _ = inject(days, [name], seed=2, share=1.0)
    found = runs(days, spoilt, value_type)
    touched = found if name in ("wrong_place", "frozen_clock") else found[found["old"] != found["new"]]
    assert len(touched) > 5 and holds(touched)


def test_a_drift_grows_all_the_time(days: list[Record]) -> None:
    spoilt, _ = inject(days, ["drift"], seed=2, share=1.0)
    found = runs(days, spoilt, "temperature").query("old != new")
    found = found[found["sensor_id"] == found["sensor_id"].value_counts().index[0]]
    growth = (found["new"] - found["old"]).round(1).diff().dropna()
    assert (growth.between(-0.1001, 0.5) | (growth < -5)).all()  # a new one begins where an old one ends


def test_a_spike_is_short_and_far(made: list[Record]) -> None:
    spoilt, truth = inject(made, ["spike"], seed=2, share=0.5)
    found = runs(made, spoilt, "temperature").query("old != new")
    assert ((found["new"] - found["old"]).abs() > 15).all()
    assert truth.groupby(["sensor_id", "value_type"]).size().max() <= 6  # in two hours two slots begin at most


def order_of(listed: list[Record]) -> list[int]:
    return [record["id"] for record in listed]


def test_a_duplicate_comes_once_more_and_later(made: list[Record]) -> None:
    spoilt, truth = inject(made, ["duplicate"], seed=4, share=0.1)
    seen: set[int] = set()
    repeats = [r for r in spoilt if r["id"] in seen or seen.add(r["id"])]
    assert [r for r in spoilt if not any(r is again for again in repeats)] == made
    values = sorted(
        (r["sensor"]["id"], v["value_type"], r["timestamp"]) for r in repeats for v in r["sensordatavalues"]
    )
    assert values == told(truth) and len(spoilt) == len(made) + len(repeats)


def test_a_delayed_record_passes_reports_of_its_sensor(made: list[Record]) -> None:
    spoilt, truth = inject(made, ["delayed"], seed=4, share=0.1)
    assert sorted(order_of(spoilt)) == sorted(order_of(made)) and order_of(spoilt) != order_of(made)
    late = {(sensor, ts) for sensor, _, ts in told(truth)}
    rest = [r["id"] for r in spoilt if (r["sensor"]["id"], r["timestamp"]) not in late]
    assert rest == [r["id"] for r in made if (r["sensor"]["id"], r["timestamp"]) not in late]
    for sensor, ts in sorted(late)[:20]:
        mine = [r["timestamp"] for r in spoilt if r["sensor"]["id"] == sensor]
        assert mine.index(ts) == len(mine) - 1 or mine[mine.index(ts) + 1] > ts or mine[mine.index(ts) - 1] >= ts


def test_the_same_injector_works_on_the_archive(aberdeen: list[Record]) -> None:
    names = [name for name in EVERY if name not in ("position", "wrong_height", "unit", *ARRIVALS)]
    honest = msgspec.json.encode(aberdeen)
    spoilt, truth = inject(aberdeen, names, seed=3, share=0.3)
    assert msgspec.json.encode(aberdeen) == honest and len(spoilt) == len(aberdeen)
    assert told(truth) == changed(aberdeen, spoilt)
    assert {*truth["fault"]} >= {"code", "stuck", "spike", "offset", "frozen_clock"}
    assert truth["sensor_id"].dtype == "int64"


def test_day_files_of_several_sensors_keep_late_records_within_their_sensor(aberdeen: list[Record]) -> None:
    spoilt, truth = inject(aberdeen, [*ARRIVALS], seed=3, share=0.05)
    twice = truth[truth["fault"] == "duplicate"].drop_duplicates(["sensor_id", "ts"])
    assert len(truth) > 100 and abs(len(spoilt) - len(aberdeen) - len(twice)) <= 2  # one moment may be published twice


def test_what_cannot_be_read_is_left_alone(made: list[Record]) -> None:
    odd = [made[0] | {"timestamp": "yesterday"}, made[1] | {"sensor": made[1]["sensor"] | {"id": "x"}}]
    blank = made[2] | {"sensordatavalues": [{"value": "nan", "value_type": "P1"}]}
    spoilt, truth = inject([*odd, blank], [n for n in EVERY if n not in ("position", "wrong_place", *ARRIVALS)], 1, 1.0)
    assert spoilt == [*odd, blank] and len(truth) == 0


@pytest.fixture(scope="module")
def nights() -> list[Record]:
    return records(make_city(sensors=80, seed=3), MORNING, MORNING + timedelta(days=2))[::3]


@pytest.mark.parametrize("name", [*EVENTS])
def test_truth_of_an_event_is_exactly_what_changed(nights: list[Record], name: str) -> None:
    honest = msgspec.json.encode(nights)
    lively, truth = inject_events(nights, draw_events([name], 4, MORNING, MORNING + timedelta(days=2)))
    assert msgspec.json.encode(nights) == honest and {*truth["event"]} == {name}
    if name != "power_cut":
        assert told(truth) == changed(nights, lively)


def test_events_are_shared_by_neighbours_and_not_by_the_far(nights: list[Record]) -> None:
    events = draw_events(["fireworks", "storm"], 4, MORNING, MORNING + timedelta(days=2))
    near, everywhere = (inject_events(nights, [event])[1]["sensor_id"].nunique() for event in events)
    assert 4 < near < everywhere


def test_a_power_cut_silences_an_area_and_all_are_back_at_once(nights: list[Record]) -> None:
    cut = draw_events(["power_cut"], 4, MORNING, MORNING + timedelta(days=2))[0]
    lively, truth = inject_events(nights, [cut])
    end = cut.start + timedelta(hours=cut.hours)
    kept = set(order_of(lively))
    gone = [r for r in nights if r["id"] not in kept]
    assert gone and [r for r in nights if r["id"] in kept] == lively
    moments = pd.to_datetime([r["timestamp"] for r in gone], utc=True)
    assert moments.min() >= cut.start and moments.max() < end
    missing = sorted((r["sensor"]["id"], v["value_type"], r["timestamp"]) for r in gone for v in r["sensordatavalues"])
    assert missing == told(truth[truth["ts"] < end]) and (truth["ts"] < end + timedelta(minutes=10)).all()


def test_events_come_in_any_pieces(nights: list[Record]) -> None:
    events = draw_events([*EVENTS], 4, MORNING, MORNING + timedelta(days=2))
    whole, _ = inject_events(nights, events)
    assert [r for a in range(0, len(nights), 4999) for r in inject_events(nights[a : a + 4999], events)[0]] == whole


def test_relations_hold_through_events(nights: list[Record]) -> None:
    lively, _ = inject_events(nights, draw_events([*EVENTS], 4, MORNING, MORNING + timedelta(days=2)))
    for record in lively:
        values = {v["value_type"]: float(v["value"]) for v in record["sensordatavalues"]}
        assert values.get("P2", 0) <= values.get("P1", 0)
        assert values.get("noise_LA_min", 0) <= values.get("noise_LAeq", 0) <= values.get("noise_LA_max", 0)


def test_an_event_is_what_it_was_said_to_be(nights: list[Record]) -> None:
    noon = MORNING + timedelta(hours=6)
    storm = Event("storm", noon, hours=3, lat=48.78, lon=9.18, radius_km=float("inf"))
    lively, _ = inject_events(nights, [storm])
    for value_type, falls in (("temperature", -5), ("pressure", -250)):
        found = runs(nights, lively, value_type)
        assert (found["new"] - found["old"]).min() < falls and (found["new"] <= found["old"]).all()
