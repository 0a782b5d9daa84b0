"""The simple guesses: each from what it may know, each at the right moment, with bands that do not cross."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from cities import START, panel_of, said

from sensorlib.baselines import BASELINES, CLIMATE_DAYS, Climate, dump_climates, fit_climates, from_scale, guess
from sensorlib.baselines import last_value, load_climates, to_scale, yesterday
from sensorlib.core import KINDS, SettingError
from sensorlib.grids import STEP_S
from sensorlib.windows import AHEAD, HORIZONS_MIN, PAST, QUANTILES, Moments, Panel, inputs, issued_s, moments, targets
from sensorlib.windows import value_types_of

DAYS, SENSORS = 45, 16
FIRST, STOP = 3 * PAST, 38 * PAST


@cache
def panel(kind: str) -> Panel:
    "Weeks of the city, a fifth of everything missing."
    whole = panel_of(kind, said(DAYS, SENSORS), DAYS, SENSORS)
    gaps = np.random.default_rng(1)
    return with_own(
        whole,
        {name: np.where(gaps.random(whole.own(name).shape) < 0.2, np.nan, whole.own(name)) for name in whole.channels},
    )


def with_own(whole: Panel, own: dict[str, np.ndarray]) -> Panel:
    "The same panel with other series."
    channels = {name: block.copy() for name, block in whole.channels.items()}
    for name, values in own.items():
        channels[name][:, :, 0] = values
    return replace(whole, channels=channels)


@cache
def climates(kind: str) -> dict[str, Climate]:
    return fit_climates(panel(kind), FIRST, STOP)


def unseen(kind: str) -> Moments:
    return moments(panel(kind), STOP, DAYS * PAST - PAST, every=6)


@pytest.mark.parametrize("kind", KINDS)
def test_bands_never_cross_and_hold_the_guess(kind: str) -> None:
    examples = unseen(kind)
    made = guess(climates(kind), panel(kind), examples, inputs(panel(kind), examples)[0])
    for name in BASELINES:
        for number, value_type in enumerate(value_types_of(kind)):
            mine = examples.value_type == number
            if mine.any():
                bands = climates(kind)[value_type].quantiles(kind, name, made[name][mine])
                known = ~np.isnan(made[name][mine])
                assert known.mean() > 0.9
                assert (np.diff(bands[known], axis=1) >= 0).all()
                np.testing.assert_allclose(bands[known][:, 2], made[name][mine][known], rtol=1e-5)
                assert np.isnan(bands[~known]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bands_hold_about_what_they_should(kind: str) -> None:
    examples = unseen(kind)
    past, came = inputs(panel(kind), examples)[0], targets(panel(kind), examples)
    made = guess(climates(kind), panel(kind), examples, past)
    number = examples.value_type[0]
    mine = examples.value_type == number
    bands = climates(kind)[value_types_of(kind)[number]].quantiles(kind, "persistence", made["persistence"][mine])
    inside = (came[mine] >= bands[:, :, 0]) & (came[mine] <= bands[:, :, 4])
    assert 0.75 < inside[~np.isnan(came[mine])].mean() < 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("far", [np.nan, 1e4, -1e4])
def test_only_the_window_is_fitted(kind: str, far: float) -> None:
    whole = panel(kind)
    spoilt = {}
    for name in whole.channels:
        spoilt[name] = whole.own(name).copy()
        spoilt[name][:, :FIRST] = spoilt[name][:, STOP:] = far
    again = fit_climates(with_own(whole, spoilt), FIRST, STOP)
    assert {*again} == {*climates(kind)} == {*whole.channels}
    for name, climate in climates(kind).items():
        assert_same_climate(climate, again[name])


def assert_same_climate(one: Climate, other: Climate) -> None:
    for name in ("sensor_ids", "profile", "keep"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert {*one.off} == {*other.off} == {*BASELINES}
    for name in BASELINES:
        np.testing.assert_array_equal(one.off[name], other.off[name])


@pytest.mark.parametrize("steps", [slice(FIRST, FIRST + PAST), slice(STOP - PAST, STOP)])
def test_all_of_the_window_is_fitted(steps: slice) -> None:
    "The test above can fail."
    whole = panel("temperature")
    changed = whole.own("temperature").copy()
    changed[:, steps] = 1e4
    again = fit_climates(with_own(whole, {"temperature": changed}), FIRST, STOP)["temperature"]
    assert (again.off["persistence"] != climates("temperature")["temperature"].off["persistence"]).any()


def test_the_usual_is_the_median_of_the_last_weeks_by_time_of_the_day() -> None:
    whole, climate = panel("temperature"), climates("temperature")["temperature"]
    said = whole.own("temperature")[:, STOP - CLIMATE_DAYS * PAST : STOP]
    beside = [np.pad(said, ((0, 0), (3, 3)), constant_values=np.nan)[:, at : at + said.shape[1]] for at in range(7)]
    days = np.concatenate([one.reshape(-1, CLIMATE_DAYS, PAST) for one in beside], axis=1)
    np.testing.assert_allclose(climate.profile[:-1], np.nanmedian(days, axis=1), rtol=1e-5, atol=1e-5)
    at = int(START.timestamp()) + np.array([[600, 7200]])
    found = climate.usual(climate.sensor_ids[:1], at)
    np.testing.assert_array_equal(found, climate.profile[:1, [0, 11]])


@pytest.mark.parametrize("start", [0, 1, 77, 143])
def test_the_usual_does_not_depend_on_where_the_panel_begins(start: int) -> None:
    whole = panel("temperature")
    cut = replace(
        whole, start_s=whole.start_s + start * STEP_S, channels={n: b[:, start:] for n, b in whole.channels.items()}
    )
    later = fit_climates(cut, FIRST - start, STOP - start)["temperature"]
    assert_same_climate(later, climates("temperature")["temperature"])


def test_a_new_sensor_is_the_middle_of_the_others() -> None:
    climate = climates("temperature")["temperature"]
    at = START.timestamp() + np.arange(1, PAST + 1)[None] * STEP_S
    new = climate.usual(np.array([1, 10**9]), np.repeat(at, 2, axis=0).astype("int64"))
    np.testing.assert_array_equal(new, climate.profile[[-1, -1]])
    known = climate.usual(climate.sensor_ids, np.repeat(at, len(climate.sensor_ids), axis=0).astype("int64"))
    assert (known.min(axis=0) <= new[0] + 0.5).all() and (new[0] <= known.max(axis=0) + 0.5).all()


def test_yesterday_is_the_same_time_of_the_day_at_every_horizon() -> None:
    steps = np.arange(PAST, dtype="float64")[None]
    ends_min = (steps[0] - (PAST - 1)) * 10  # Before the moment of issue
    assert ends_min[yesterday(steps)[0].astype(int)].tolist() == [minutes - 1440 for minutes in HORIZONS_MIN]


@pytest.mark.parametrize(("beside", "found"), [(-3, True), (3, True), (-4, False), (4, False)])
def test_yesterday_looks_half_an_hour_to_each_side(beside: int, found: bool) -> None:
    past = np.full((1, PAST), np.nan)
    past[0, AHEAD[5] - 1 + beside] = 7
    assert (yesterday(past)[0, 5] == 7) == found


def test_nothing_said_is_nothing_guessed() -> None:
    climate = climates("temperature")["temperature"]
    silent = np.full((2, PAST), np.nan)
    silent[1, 17] = 3.5
    assert last_value(silent).tolist()[1] == 3.5 and np.isnan(last_value(silent)[0])
    made = climate.guesses(climate.sensor_ids[:2], np.array([0, 0]), silent)
    assert {name: np.isfinite(values).sum(axis=1).tolist() for name, values in made.items()} == {
        "persistence": [0, 10],
        "daily": [0, int((abs(np.array(AHEAD) - 1 - 17) <= 3).sum())],
        "climatology": [10, 10],
        "damped": [0, 10],
    }
    assert last_value(np.empty((0, PAST))).shape == (0,)


def test_a_window_too_short_for_a_climate_says_nothing_of_the_usual() -> None:
    short = fit_climates(panel("temperature"), 0, 4 * PAST)["temperature"]
    assert np.isnan(short.profile).all()
    assert np.isnan(short.off["climatology"]).all()
    assert np.isfinite(short.off["persistence"]).all()
    less = fit_climates(panel("temperature"), 0, PAST - 10)["temperature"]
    assert np.isnan(less.off["persistence"]).all()


@pytest.mark.parametrize(("first", "stop"), [(-1, PAST), (PAST, PAST), (0, DAYS * PAST + 1)])
def test_a_window_outside_of_the_panel_is_refused(first: int, stop: int) -> None:
    with pytest.raises(
        SettingError, match=f"window of steps {first} to {stop}, expected one within 0 to {DAYS * PAST}"
    ):
        fit_climates(panel("temperature"), first, stop)


def test_errors_grow_where_too_little_was_compared() -> None:
    whole = panel("temperature")
    values = whole.own("temperature").copy()
    values[:, FIRST:] = np.nan
    values[:, FIRST : FIRST + 3 * PAST // 2] = np.random.default_rng(1).normal(size=(len(values), 3 * PAST // 2))
    off = fit_climates(with_own(whole, {"temperature": values}), FIRST, STOP)["temperature"].off["persistence"]
    assert np.isfinite(off).all()
    np.testing.assert_allclose(off[-1], off[-2] * np.sqrt(1440 / 1080), rtol=1e-6)
    assert np.ptp(off[-1]) > np.ptp(off[0]) > 0


def test_dumped_and_loaded_is_the_same() -> None:
    for kind in KINDS:
        back = load_climates(dump_climates(climates(kind)))
        assert [*back] == [*climates(kind)]
        for name, climate in climates(kind).items():
            assert_same_climate(climate, back[name])
    assert load_climates(dump_climates({})) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_leads_there_and_back(kind: str) -> None:
    values = np.array([0.0, 0.01, 1.0, 17.5, 1999.9, np.nan])
    np.testing.assert_allclose(from_scale(kind, to_scale(kind, values)), values, rtol=1e-12)
    below = from_scale(kind, to_scale(kind, np.array([-3.0])))
    assert below.tolist() == ([0.0] if kind == "particulates" else [-3.0])
    assert (np.diff(to_scale(kind, values[:-1])) > 0).all()


def test_decibels_fade_as_numbers() -> None:
    climate = climates("noise")["noise_LAeq"]
    past = np.full((1, PAST), 80.0)
    made = climate.guesses(climate.sensor_ids[:1], np.array([0]), past)
    usual, now = made["climatology"][0], climate.usual(climate.sensor_ids[:1], np.array([[0]]))[0]
    np.testing.assert_allclose(made["damped"][0], usual + climate.keep * (80 - now), rtol=1e-6)
    assert ((climate.keep >= 0) & (climate.keep <= 1)).all() and climate.keep[0] > climate.keep[4]
    bands = climate.quantiles("noise", "damped", made["damped"])
    np.testing.assert_allclose(bands, made["damped"][:, :, None] + climate.off["damped"], rtol=1e-9)


def test_dust_is_never_less_than_nothing() -> None:
    whole, name = panel("particulates"), "P1"
    ids = whole.sites[name]["sensor_id"].to_numpy("int64")
    profile = np.full((len(ids) + 1, PAST), 5.0)
    profile[:, 0] = 100  # Soon after midnight it should be dusty
    zero = np.zeros((len(AHEAD), len(QUANTILES)))
    climate = Climate(ids, profile, np.full(len(AHEAD), 0.9), dict.fromkeys(BASELINES, zero))
    examples = unseen("particulates")
    examples = examples[issued_s(whole, examples) % 86_400 == STEP_S]
    made = guess({name: climate}, whole, examples, inputs(whole, examples)[0])["damped"]
    assert np.nanmin(made) == 0
    assert np.isnan(made[examples.value_type != value_types_of("particulates").index(name)]).all()
