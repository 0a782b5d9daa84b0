"""The network: ordered quantiles whatever the weights, the same numbers in ONNX, and nothing from after its window."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from multiprocessing import active_children
from typing import Any

import numpy as np
import pytest
from cities import panel_of, said

for needed in ("tensorflow", "keras"):
    pytest.importorskip(needed, reason=f"needs {needed}: pip install sensorlib[forecast]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install sensorlib[predict]")

import keras

from sensorlib.baselines import last_value, to_scale
from sensorlib.core import KINDS, PartDied, SettingError
from sensorlib.network import (
    _SPANS,
    _calibrated,
    _chances,
    _in_season,
    _Plan,
    _planned,
    _started,
    _told,
    Network,
    Recipe,
    Scaling,
    build_networks,
    join_networks,
    measure_scaling,
    pinball,
    stretch,
    to_onnx,
    train,
)
from sensorlib.windows import (
    AHEAD,
    CONTEXT_TURNS,
    PAST,
    QUANTILES,
    Moments,
    Panel,
    channels_of,
    inputs,
    moments,
    targets,
    value_types_of,
)

DAYS, STOP, SENSORS = 18, 16 * PAST, 16
TINY = Recipe(members=1, lanes=1, folds=2, units=4, width=8, epochs=2, batches=4, batch=32, block_days=3)


@cache
def panel(kind: str) -> Panel:
    "Days of the city; the first sensor of each value type comes late."
    whole = panel_of(kind, said(DAYS, SENSORS), DAYS, SENSORS)
    for block in whole.channels.values():
        block[0, : 5 * PAST, 0] = np.nan
    return whole


@cache
def trained(kind: str) -> Network:
    return train(panel(kind), PAST, STOP, replace(TINY, members=2 if kind == "particulates" else 1))


def with_gaps(kind: str, count: int, seed: int = 1) -> list[np.ndarray]:
    "Inputs of some examples, half of everything missing, a few companions missing whole; and who they are of."
    examples, random = moments(panel(kind), PAST, STOP), np.random.default_rng(seed)
    past, context = inputs(panel(kind), examples[random.choice(len(examples), count)])
    newest = past[:, -1, 0].copy()
    past[random.random(past.shape) < 0.5] = np.nan
    past[random.random(count) < 0.3, :, 1:] = np.nan
    past[:, -1, 0] = newest
    return [past, context, random.integers(0, 4, count).astype("int32")]


def says(model: keras.Model, given: list[np.ndarray]) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(given, training=False))


@cache
def scaling(kind: str) -> Scaling:
    examples = moments(panel(kind), PAST, STOP, every=12)
    return measure_scaling(kind, inputs(panel(kind), examples)[0], targets(panel(kind), examples))


def untrained(kind: str, stations: int, name: str = "member") -> keras.Model:
    "A member as it is before any training."
    return join_networks(build_networks(kind, scaling(kind), stations, TINY, name), name)


def wild(kind: str, seed: int, size: float = 1.0, name: str = "member") -> keras.Model:
    "A member of random weights."
    member = untrained(kind, 3, name)
    random = np.random.default_rng(seed)
    member.set_weights([random.normal(0, size, weights.shape) for weights in member.get_weights()])
    return member


@cache
def calibrated(kind: str) -> keras.Model:
    "A whole model: two members of random weights, stretched anyhow."
    value_types = len(value_types_of(kind))
    factors = np.random.default_rng(3).uniform(0.5, 4, (value_types, len(AHEAD), len(QUANTILES)))
    members = [wild(kind, seed, 0.5, f"member_{seed}") for seed in range(2)]
    for member in members:  # The more is added up, the smaller the weights, as at the start of a training
        member.set_weights([w / np.sqrt(len(w)) if w.ndim == 2 else w for w in member.get_weights()])
    return _calibrated(kind, members, factors)


@pytest.mark.parametrize("size", [0.3, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_never_cross_whatever_the_weights(kind: str, size: float) -> None:
    past, context, station = with_gaps(kind, 200)
    for seed in range(3):
        said_then = says(wild(kind, seed, size), [past, context, station])
        assert said_then.shape == (200, len(AHEAD), len(QUANTILES))
        assert np.isfinite(said_then).all()
        assert (np.diff(said_then, axis=2) >= 0).all()
        assert np.ptp(said_then) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_before_any_training_it_says_as_now(kind: str) -> None:
    past, context, station = with_gaps(kind, 50)
    member = untrained(kind, 30)
    now = to_scale(kind, last_value(past[:, :, 0]))
    middle = says(member, [past, context, station])[:, :, 2]
    np.testing.assert_allclose(middle, np.repeat(now[:, None], len(AHEAD), axis=1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_companions_of_nothing_but_gaps_leave_an_answer(kind: str) -> None:
    past, context, station = with_gaps(kind, 20)
    past[:, :, 1:] = np.nan
    past[:, :-1, 0] = np.nan
    said_then = says(calibrated(kind), [past, context, station])
    assert np.isfinite(said_then).all()
    assert (np.diff(said_then, axis=2) >= 0).all()


def test_what_is_beyond_a_gap_does_not_matter_and_what_was_said_does() -> None:
    past, context, station = with_gaps("temperature", 20)
    model = wild("temperature", 4)
    before = says(model, [past, context, station * 0])
    louder = np.where(np.isnan(past), np.nan, past + 1)
    assert abs(says(model, [louder, context, station * 0]) - before).min(axis=(1, 2)).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_says_what_keras_says(kind: str) -> None:
    model = calibrated(kind)
    session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
    unit = scaling(kind).ahead[0] if kind != "particulates" else 1.0
    for count in (1, 1000):
        given = with_gaps(kind, count)
        (again,) = session.run(None, dict(zip(("past", "context", "station"), given, strict=True)))
        wanted = says(model, given)
        assert again.shape == wanted.shape == (count, len(AHEAD), len(QUANTILES))
        assert (np.diff(again, axis=2) >= 0).all()
        np.testing.assert_allclose(again, wanted, rtol=1e-5 if kind == "particulates" else 1e-6, atol=1e-4 * unit)


@pytest.mark.parametrize("kind", KINDS)
def test_humidity_does_not_hear_the_week_and_pressure_not_the_year_either(kind: str) -> None:
    past, context, station = with_gaps(kind, 20)
    model, changes = calibrated(kind), {}
    for at, turn in enumerate(CONTEXT_TURNS):
        turned = context.copy()
        turned[:, [at, at + len(CONTEXT_TURNS)]] *= -1  # half a turn on
        changes[turn] = np.ptp(says(model, [past, turned, station]) - says(model, [past, context, station]))
    heard = {"humidity": {"day", "year"}, "pressure": {"day"}}.get(kind, {"day", "week", "year"})
    assert {turn for turn, change in changes.items() if change > 0} == heard


def test_a_name_changes_only_what_is_said_of_its_sensor() -> None:
    past, context, _ = with_gaps("temperature", 30)
    model, nobody = wild("temperature", 2), np.zeros(30, "int32")
    plain = says(model, [past, context, nobody])
    named = says(model, [past, context, np.where(np.arange(30) < 15, nobody, 3)])
    np.testing.assert_allclose(named[:15], plain[:15], rtol=1e-5, atol=1e-5)
    assert np.median(abs(named[15:] - plain[15:]).max(axis=(1, 2))) > 1e-3


def with_own(whole: Panel, change: Any) -> Panel:
    "The same panel with all channels changed."
    return replace(whole, channels={name: change(block.copy()) for name, block in whole.channels.items()})


def spoilt(block: np.ndarray) -> np.ndarray:
    "Garbage before and after the window."
    random = np.random.default_rng(5)
    for part in (block[:, :PAST], block[:, STOP:]):
        part[:] = random.normal(1e4, 1e4, part.shape)
    return block


def assert_same_network(one: Network, other: Network) -> None:
    "Check weights, calibration, vocabulary and held-out forecasts."
    np.testing.assert_array_equal(one.vocabulary, other.vocabulary)
    np.testing.assert_array_equal(one.held.examples.step, other.held.examples.step)
    np.testing.assert_array_equal(one.held.quantiles, other.held.quantiles)
    for mine, theirs in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    given = with_gaps("temperature", 50)
    np.testing.assert_array_equal(says(one.model, given), says(other.model, given))


def last_day(block: np.ndarray) -> np.ndarray:
    block[:, STOP - PAST : STOP, 0] += 1000
    return block


def test_training_sees_nothing_but_its_window_and_draws_the_same_again() -> None:
    assert_same_network(trained("temperature"), train(with_own(panel("temperature"), spoilt), PAST, STOP, TINY))


def test_training_sees_all_of_its_window() -> None:
    "The test above can fail."
    other = train(with_own(panel("temperature"), last_day), PAST, STOP, TINY)
    with pytest.raises(AssertionError):
        assert_same_network(trained("temperature"), other)


def test_every_horizon_is_answered_once_by_a_network_that_learns_it() -> None:
    numbers = np.arange(len(AHEAD))
    assert np.concatenate([numbers[answer] for answer, _ in _SPANS]).tolist() == numbers.tolist()
    assert all({*numbers[answer]} <= {*numbers[learn]} and answer.stop == learn.stop for answer, learn in _SPANS)


def test_a_series_with_four_times_as_many_examples_is_drawn_twice_as_often() -> None:
    row = np.repeat([0, 1, 0], [400, 100, 100])
    examples = Moments(np.repeat([0, 0, 1], [400, 100, 100]), row, np.arange(600))
    chances = _chances(examples)
    assert chances.sum() == pytest.approx(1)
    assert [chances[:400].sum(), chances[400:500].sum(), chances[500:].sum()] == pytest.approx([0.5, 0.25, 0.25])


def test_training_tells_of_every_epoch() -> None:
    told = []
    recipe = replace(TINY, members=2)
    train(panel("temperature"), PAST, STOP, recipe, lambda done, says: told.append((done, says)))
    assert [done for done, _ in told] == [*range(1, recipe.turns + 1)]
    assert re.fullmatch(r"member 2, held-out losses (\d\.\d{4}(, )?){3}", told[-1][1])


def test_members_are_the_same_however_many_are_trained_at_once() -> None:
    "Also where the processes hear of the Ctrl-C of whoever waits for them."
    recipe, told = replace(TINY, members=3, folds=3), []

    def interrupt(done: int, says: str) -> None:
        told.append(done)
        if done == recipe.turns - 1:  # By now both are past their imports
            for process in active_children():
                os.kill(process.pid or 0, signal.SIGINT)

    apart = train(panel("temperature"), PAST, STOP, replace(recipe, lanes=2), interrupt)
    assert told == [*range(1, recipe.turns + 1)]
    assert not active_children()
    assert_same_network(train(panel("temperature"), PAST, STOP, recipe), apart)


def planned() -> _Plan:
    examples = moments(panel("temperature"), 2 * PAST, STOP - PAST)
    return _planned(panel("temperature"), examples, np.array([], "int64"), replace(TINY, members=2))


def test_a_process_that_dies_is_told_and_no_other_is_left() -> None:
    with (
        pytest.raises(PartDied, match="temperature: a process that trains members ended with -9, expected"),
        _started(planned(), 2) as processes,
    ):
        next(iter(processes.values())).kill()
        list(_told("temperature", processes))
    assert not active_children()


def test_ctrl_c_leaves_no_process_behind() -> None:
    with pytest.raises(KeyboardInterrupt), _started(planned(), 2) as processes:
        assert all(process.is_alive() for process in processes.values())
        raise KeyboardInterrupt
    assert not active_children()


@pytest.mark.parametrize("kind", ["temperature", "particulates"])
def test_held_out_forecasts_are_those_of_their_own_weeks(kind: str) -> None:
    held = trained(kind).held
    assert held.quantiles.shape == (len(held.examples), len(AHEAD), len(QUANTILES))
    assert (np.diff(held.quantiles, axis=2) >= 0).all()
    assert held.examples.step.min() >= 2 * PAST - 1
    assert held.examples.step.max() + PAST < STOP


def test_bands_hold_what_they_should_of_the_weeks_that_were_held_out() -> None:
    held = trained("temperature").held
    came = targets(panel("temperature"), held.examples)
    for low, high, share in ((0, 4, 0.9), (1, 3, 0.5)):
        inside = (came >= held.quantiles[:, :, low]) & (came <= held.quantiles[:, :, high])
        assert inside.mean() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    ("first", "stop"), [(0, 100), (0, 3 * PAST), (0, 2 * PAST), (15 * PAST, STOP), (5 * PAST, 2 * PAST)]
)
def test_too_little_is_refused(first: int, stop: int) -> None:
    with pytest.raises(SettingError, match=r"temperature: .* expected 32 and 1 or more; take a longer window"):
        train(panel("temperature"), first, stop, TINY)


def test_a_window_in_which_nothing_can_be_held_out_is_refused() -> None:
    "Without held-out weeks no epoch is better than another, and no band can be checked."
    with pytest.raises(SettingError, match=r"and 0 held out in 16 days for a member, expected 32 and 1 or more"):
        train(panel("temperature"), 0, STOP, replace(TINY, members=3, folds=30))


def test_an_empty_panel_is_refused() -> None:
    with pytest.raises(SettingError, match="noise: 0 examples to learn from"):
        train(Panel("noise", 0, {}, {}), 0, STOP, TINY)


def test_sensors_are_known_by_name_from_fourteen_days_on() -> None:
    ids = panel("temperature").sites["temperature"]["sensor_id"]
    assert trained("temperature").vocabulary.tolist() == ids[1:].tolist()


@pytest.mark.parametrize("level", [0.05, 0.25, 0.75, 0.95])
@pytest.mark.parametrize("wrong", [0.6, 1.0, 2.5])
def test_stretch_calibrates_a_known_distribution(level: float, wrong: float) -> None:
    random = np.random.default_rng(1)
    spread = random.uniform(0.5, 3, 100_000)  # Each forecast has a spread of its own
    off = random.normal(0, spread)
    off[::7] = np.nan
    z = {0.05: -1.6449, 0.25: -0.6745, 0.75: 0.6745, 0.95: 1.6449}[level]
    factor = stretch(off, z * spread / wrong, level, random.uniform(0.1, 1, 100_000))
    assert factor == pytest.approx(wrong, rel=0.03)
    known = ~np.isnan(off)
    assert np.mean(off[known] <= factor * z * spread[known] / wrong) == pytest.approx(level, abs=0.005)


def test_stretch_keeps_within_limits_and_needs_enough() -> None:
    off, alike = np.linspace(-50, 50, 1001), np.ones(1001)
    assert [stretch(off, np.full(1001, size), 0.95, alike) for size in (0.1, 1000.0)] == [4.0, 0.5]
    assert stretch(off[:199], np.ones(199), 0.95, alike[:199]) == 1.0
    assert stretch(off, np.zeros(1001), 0.95, alike) == 1.0
    assert stretch(np.full(1001, np.nan), np.ones(1001), 0.05, alike) == 1.0
    assert stretch(off, np.ones(1001), 0.95, np.exp(-np.arange(1001) / 10)) == 1.0  # Hardly 20 of them count


def test_stretch_follows_the_errors_that_count() -> None:
    "Calm weeks of weight 9 beside wild ones of weight 1: the bands are nearly those of the calm ones."
    random = np.random.default_rng(4)
    calm = np.arange(20_000) < 10_000
    off = random.normal(0, np.where(calm, 1.0, 3.0))
    alone = stretch(off[calm], np.ones(10_000), 0.95, np.ones(10_000))
    both, leaning = (stretch(off, np.ones(20_000), 0.95, np.where(calm, size, 1.0)) for size in (1, 9))
    assert alone == pytest.approx(1.645, rel=0.03)
    assert alone < leaning < 1.25 * alone < both


def test_weeks_of_the_same_season_count_most() -> None:
    days = np.array([1000, 1000 - 45, 1000 - 182, 1000 - 365, 1000 - 365 - 45])
    weight = _in_season(days * PAST, 1000 * PAST)
    np.testing.assert_allclose(weight, [1, 0.607, 0, 1, 0.607], atol=0.01)


def test_the_loss_is_the_pinball_loss_and_leaves_gaps_out() -> None:
    size = replace(scaling("temperature"), ahead=np.full(len(AHEAD), 2.0))
    random = np.random.default_rng(1)
    came, said_then = random.normal(size=(6, 10)).astype("float32"), random.normal(size=(6, 10, 5)).astype("float32")
    came[random.random((6, 10)) < 0.4] = np.nan
    lost = [
        max(level * (came[i, h] - said_then[i, h, q]), (level - 1) * (came[i, h] - said_then[i, h, q])) / 2
        for i in range(6) for h in range(10) for q, level in enumerate(QUANTILES) if not np.isnan(came[i, h])
    ]  # fmt: skip
    assert float(pinball(size)(came, said_then)) == pytest.approx(np.mean(lost), rel=1e-5)
    assert float(pinball(size)(came * np.nan, said_then)) == 0


def test_scaling_does_without_gaps_and_bears_what_never_moves() -> None:
    shape = (50, PAST, len(channels_of("temperature")))
    still = np.full(shape, 5.0, "float32")
    still[:, :, 2:] = np.nan
    made = measure_scaling("temperature", still, np.full((50, len(AHEAD)), np.nan))
    assert (made.spread, made.level) == (1, (5, 1))
    for part in (made.by_step, made.ahead, made.others[1]):
        assert (part == 1).all()


def test_a_missing_value_type_does_not_disturb_the_others() -> None:
    examples = Moments(np.array([1]), np.array([0]), np.array([PAST]))
    said_then = says(trained("particulates").model, [*inputs(panel("particulates"), examples), np.array([0], "int32")])
    assert np.isfinite(said_then).all()


def test_prediction_needs_neither_tensorflow_nor_keras() -> None:
    code = "import sys, sensorlib.baselines, sensorlib.windows, sensorlib.registry, sensorlib.forecasts\n"
    code += "print([name for name in ('tensorflow', 'keras', 'tf2onnx', 'lightgbm', 'sensorlib.network') if name in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"
