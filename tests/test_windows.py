"""What a model sees: nothing from the future, the right moments, the right clock; and what came."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cities import START, city, judged, panel_of, said, sites

from sensorlib.core import KINDS, VALUE_TYPES
from sensorlib.grids import STEP_S, to_grids
from sensorlib.sqlite import SqliteStore
from sensorlib.windows import AHEAD, CONTEXT_SUN, FRESH, HORIZONS_MIN, PAST, SIBLINGS, Moments, Panel
from sensorlib.windows import channels_of, inputs, issued_s, make_panel, moments, read_panel, site_values
from sensorlib.windows import station_numbers, targets, value_types_of

DAYS, SPLIT_DAYS = 4, 2.5
SPLIT = START + timedelta(days=SPLIT_DAYS)


def gappy() -> pd.DataFrame:
    "Readings of the city with holes and faults."
    readings = said(DAYS)
    random = np.random.default_rng(1)
    return readings[random.random(len(readings)) < 0.8].assign(qc=lambda frame: random.choice([0, 0, 0, 2], len(frame)))


def shifted(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(value=late["value"] * 3 + 17)


def shuffled(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(value=np.random.default_rng(2).permutation(late["value"]))


def later(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(ts=late["ts"] + timedelta(hours=5))


def cut_off(late: pd.DataFrame) -> pd.DataFrame:
    return late.head(0)


def silent(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(value=np.nan)


def faulty(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(qc=2)


def huge(late: pd.DataFrame) -> pd.DataFrame:
    return late.assign(value=np.random.default_rng(3).choice([1e30, -1e30, np.inf, -np.inf], len(late)))


FUTURES = [shifted, shuffled, later, cut_off, silent, faulty, huge]


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("future", FUTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_from_the_future(kind: str, future: object) -> None:
    assert callable(future)
    readings = gappy()
    late = readings["ts"] >= SPLIT
    other = panel_of(kind, pd.concat([readings[~late], future(readings[late])]), DAYS)
    unchanged_until(kind, readings, other)


def unchanged_until(kind: str, readings: pd.DataFrame, other: Panel) -> None:
    "Check that all examples up to the split see the same, bit for bit."
    panel = panel_of(kind, readings, DAYS)
    step = panel.step_at(SPLIT)
    examples, others = moments(panel, 0, step), moments(other, 0, step)
    assert len(examples) > 100
    assert issued_s(panel, examples).max() == SPLIT.timestamp()
    for name in ("value_type", "row", "step"):
        np.testing.assert_array_equal(getattr(examples, name), getattr(others, name))
    for before, after in zip(inputs(panel, examples), inputs(other, others), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(targets(panel, examples), targets(other, examples), equal_nan=True)


@pytest.mark.parametrize("future", [shifted, cut_off])
def test_nothing_from_the_future_of_neighbours(future: object) -> None:
    "Only the others change: one sensor after the other is asked what it sees."
    assert callable(future)
    readings, names = gappy(), ["P1", "P2", "temperature", "humidity"]
    readings = readings[readings["value_type"].isin(names)]
    panel = panel_of("particulates", readings, DAYS)
    for row, sensor in enumerate(panel.sites["P1"]["sensor_id"][:4]):
        late = (readings["ts"] >= SPLIT) & (readings["sensor_id"] != sensor)
        other = panel_of("particulates", pd.concat([readings[~late], future(readings[late])]), DAYS)
        examples = moments(panel, 0, panel.step_at(SPLIT))
        examples = examples[(examples.row == row)]
        np.testing.assert_array_equal(inputs(panel, examples)[0], inputs(other, examples)[0])


def test_an_example_changes_with_its_last_step() -> None:
    "The test above can fail: what is known at the last moment does reach the inputs."
    readings = gappy()
    last = (readings["ts"] >= SPLIT - timedelta(seconds=STEP_S)) & (readings["ts"] < SPLIT)
    other = panel_of("particulates", readings.assign(value=readings["value"] + 1000 * last), DAYS)
    with pytest.raises(AssertionError):
        unchanged_until("particulates", readings, other)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_end_and_targets_begin_at_the_moment_of_issue(kind: str) -> None:
    readings = said(DAYS)
    panel = panel_of(kind, readings, DAYS)
    examples = moments(panel, PAST + 5, panel.steps, every=7)
    past, came, issued = inputs(panel, examples)[0], targets(panel, examples), issued_s(panel, examples)
    second, ids = readings["ts"].astype("int64") // 10**9, site_values(panel, examples, "sensor_id")
    said_at = dict(
        zip(zip(readings["sensor_id"], readings["value_type"], second, strict=True), readings["value"], strict=True)
    )
    for at in range(0, len(examples), 97):
        name = value_types_of(kind)[examples.value_type[at]]

        def told(end_s: float, key: tuple = (ids[at], name)) -> float:
            "What was said in the ten minutes that end at a moment."
            return said_at.get((*key, int(end_s) - STEP_S), np.nan)

        wanted = [told(issued[at] + 60 * minutes) for minutes in HORIZONS_MIN]
        np.testing.assert_allclose(came[at], wanted, rtol=1e-6)
        wanted = [told(issued[at] - STEP_S * back) for back in range(PAST - 1, -1, -1)]
        np.testing.assert_allclose(past[at, :, 0], wanted, rtol=1e-6)


def lone(values: np.ndarray, start_s: int = 0, lon: float = 0.0, lat: float = 50.0) -> Panel:
    "A panel of one series of PM10."
    channels = np.full((1, len(values), len(channels_of("particulates"))), np.nan, "float32")
    channels[0, :, 0] = values
    place = sites().head(1).assign(lon=lon, lat=lat)
    return Panel("particulates", start_s, {"P1": place}, {"P1": channels})


def test_moments_want_something_of_the_last_hour_and_a_day_before() -> None:
    values = np.full(4 * PAST, np.nan)
    values[[0, 100, 200, 207, 300]] = 5
    found = moments(lone(values), 0, 4 * PAST).step.tolist()
    assert found == [*range(200, 200 + FRESH), *range(207, 207 + FRESH), *range(300, 300 + FRESH)]
    values[PAST - 3] = 5
    assert moments(lone(values), 0, 4 * PAST).step[0] == PAST - 1
    assert moments(lone(values), 203, 302).step.tolist() == [203, 204, 205, *range(207, 207 + FRESH), 300, 301]


def test_every_counts_from_midnight_and_not_from_the_panel() -> None:
    panel = lone(np.ones(3 * PAST), start_s=5 * STEP_S)
    issued = issued_s(panel, moments(panel, 0, 3 * PAST, every=6))
    assert {*((issued - STEP_S) % 3600)} == {0}
    assert np.diff(issued).tolist() == [3600] * (len(issued) - 1)


def test_beyond_the_ends_of_a_panel_nothing_is_known() -> None:
    panel = lone(np.arange(2.0 * PAST))
    early, late = (Moments(np.array([2]), np.array([0]), np.array([step])) for step in (3, 2 * PAST - 1))
    assert value_types_of("particulates")[2] == "P2"
    early, late = (replace(one, value_type=np.array([1])) for one in (early, late))
    past = inputs(panel, early)[0][0, :, 0]
    assert (np.isnan(past).sum(), past[-4:].tolist()) == (PAST - 4, [0, 1, 2, 3])
    assert targets(panel, early)[0].tolist() == [3 + ahead for ahead in AHEAD]
    assert np.isnan(targets(panel, late)).all()


def test_the_clock_is_that_of_the_sun() -> None:
    noon = int(START.timestamp()) + 12 * 3600
    for lon in (0.0, 90.0, -120.0):
        local = noon - int(lon / 360 * 86_400)
        panel = lone(np.ones(PAST), start_s=local - 86_400, lon=lon)
        context = inputs(panel, moments(panel, 0, PAST))[1][0]
        assert issued_s(panel, moments(panel, 0, PAST)).tolist() == [local]
        np.testing.assert_allclose(context[[0, 3]], [0, -1], atol=1e-4)  # half of a turn
        sun = dict(zip((0, *HORIZONS_MIN), context[CONTEXT_SUN - 1 : CONTEXT_SUN + len(AHEAD)], strict=True))
        assert max(sun, key=lambda minutes: sun[minutes] - (minutes == 1440)) == 0
        np.testing.assert_allclose(
            [sun[0], sun[720]], [np.sin(np.radians(40 - 21.2)), -np.sin(np.radians(61.2))], atol=0.02
        )
        assert sun[1440] == pytest.approx(sun[0], abs=0.01)


def test_week_and_year_turn() -> None:
    days = pd.date_range("2026-01-01", "2026-12-31", tz="UTC")
    panel = lone(np.ones((days[-1] - days[0]).days * PAST + PAST), start_s=int(days[0].timestamp()) - PAST * STEP_S)
    examples = moments(panel, 0, panel.steps, every=1)
    midnight = examples[np.flatnonzero(issued_s(panel, examples) % 86_400 == 0)]
    context = inputs(panel, midnight)[1]
    dates = pd.to_datetime(issued_s(panel, midnight), unit="s", utc=True)
    week, year = (np.arctan2(context[:, at], context[:, at + 3]) / (2 * np.pi) % 1 for at in (1, 2))
    for day in range(7):
        assert np.ptp(week[dates.dayofweek == day]) < 1e-3
    assert np.ptp((week - (dates.dayofweek.to_numpy() - 3) / 7 + 0.5) % 1) < 1e-3
    assert np.ptp((year - dates.dayofyear.to_numpy() / 365.25 + 0.5) % 1) < 1e-3


def test_the_context_tells_the_value_type_and_bears_an_unknown_position() -> None:
    panel = panel_of("noise", said(DAYS), DAYS)
    examples = moments(panel, 0, panel.steps, every=36)
    which = inputs(panel, examples)[1][:, CONTEXT_SUN + len(AHEAD) :]
    assert which.argmax(axis=1).tolist() == examples.value_type.tolist()
    assert which.sum(axis=1).tolist() == [1] * len(examples)
    nowhere = lone(np.ones(PAST), lon=np.nan, lat=np.nan)
    assert np.isfinite(inputs(nowhere, moments(nowhere, 0, PAST))[1]).all()


def test_sensors_are_numbered_by_the_vocabulary() -> None:
    vocabulary, ids = np.array([2, 5, 900_007]), np.array([0, 1, 2, 3, 5, 6, 900_007, 900_008])
    numbers = station_numbers(vocabulary, ids)
    assert (numbers.tolist(), numbers.dtype) == ([0, 0, 1, 0, 2, 0, 3, 0], np.dtype("int32"))
    assert station_numbers(np.array([], "int64"), ids).tolist() == [0] * len(ids)
    assert station_numbers(vocabulary, np.array([], "int64")).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_of_nothing(kind: str) -> None:
    panel = make_panel(kind, {}, sites())
    examples = moments(panel, 0, 1000)
    past, context = inputs(panel, examples)
    assert (panel.steps, len(examples)) == (0, 0)
    assert past.shape == (0, PAST, len(channels_of(kind)))
    assert context.shape == (0, CONTEXT_SUN + len(AHEAD) + len(value_types_of(kind)))
    assert targets(panel, examples).shape == (0, len(AHEAD))


@pytest.mark.parametrize("missing", [*VALUE_TYPES])
def test_a_missing_value_type_is_a_channel_of_gaps(missing: str) -> None:
    readings = said(DAYS)
    there = readings[readings["value_type"] != missing]
    assert missing == "P0" or len(there) < len(readings)
    for kind in KINDS:
        whole, panel = panel_of(kind, readings, DAYS), panel_of(kind, there, DAYS)
        assert {*panel.channels} == {*whole.channels} - {missing}
        for name, block in panel.channels.items():
            channels = channels_of(kind)
            lost = [
                at
                for at, channel in enumerate(channels)
                if missing in (channel, channel == "sibling" and SIBLINGS[name])
            ]
            assert np.isnan(block[:, :, lost]).all()
            kept = [at for at in range(len(channels)) if at not in lost]
            np.testing.assert_array_equal(block[:, :, kept], whole.channels[name][:, :, kept])
        past, _ = inputs(panel, moments(panel, 0, panel.steps, every=60))
        assert np.isfinite(past[:, -1, 0]).all()


def test_channels_say_what_their_names_say() -> None:
    panel = panel_of("particulates", said(DAYS), DAYS)
    grids, place = to_grids(said(DAYS), START, START + timedelta(days=DAYS)), city().sensors.set_index("sensor_id")
    names = dict(enumerate(channels_of("particulates")))
    assert names == {0: "own", 1: "around", 2: "sibling", 3: "temperature", 4: "humidity"}
    damp = {
        place["location_id"][sensor]: grids["humidity"].values[row]
        for row, sensor in enumerate(grids["humidity"].sensor_ids)
    }
    for row, sensor in enumerate(grids["P1"].sensor_ids):
        other = grids["P2"].sensor_ids.tolist().index(sensor)
        np.testing.assert_array_equal(panel.channels["P1"][row, :, 0], grids["P1"].values[row])
        np.testing.assert_array_equal(panel.channels["P1"][row, :, 2], grids["P2"].values[other])
        if place["location_id"][sensor] in damp:
            np.testing.assert_array_equal(panel.channels["P1"][row, :, 4], damp[place["location_id"][sensor]])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    "A store of the city without noise."
    with closing(SqliteStore(tmp_path_factory.mktemp("store") / "readings.db")) as store:
        readings = said(DAYS)
        store.write(judged(readings[~readings["value_type"].str.startswith("noise")]))
        yield store


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_gives_the_panel_of_its_readings(kind: str, store: SqliteStore) -> None:
    panel = read_panel(store, kind, START, START + timedelta(days=DAYS))
    wanted = panel_of(kind, said(DAYS), DAYS)
    assert {*panel.channels} == (set() if kind == "noise" else {*wanted.channels})
    for name in panel.channels:
        np.testing.assert_array_equal(panel.channels[name], wanted.channels[name])
        assert panel.sites[name]["lat"].tolist() == wanted.sites[name]["lat"].tolist()


def test_an_empty_store_gives_an_empty_panel(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "readings.db")) as store:
        panel = read_panel(store, "pressure", START, START + timedelta(days=2))
    assert (panel.channels, panel.steps) == ({}, 0)
