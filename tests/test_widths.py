"""Widths of fans: they follow what came and nothing later, are kept beside the version that serves, and never stop a run."""

import logging
from datetime import UTC, datetime, timedelta
from math import exp, log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sensorlib.registry import About, Manifest, Registry, newest, note, noted, open_registry, prune, publish, withdraw
from sensorlib.rows import DAY, QUANTILE_COLUMNS
from sensorlib.widths import GAIN, Widths, factors_of, follow, keep_following, load_widths, replay, widen
from sensorlib.windows import HORIZONS_MIN, QUANTILES

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOURS = 24 * 40
FAR_TOO_WIDE = b'{"until": "2026-03-01T00:00:00Z", "factors": {"P2": {"60": 400.0}}}'


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    "A registry without models."
    return open_registry(f"{tmp_path}/models")


def put(registry: Registry, **widths: float) -> Manifest:
    "Publish a version whose widths begin so, one hour ahead."
    about = About(
        trained_from=NOW - 60 * DAY,
        trained_until=NOW,
        value_types=("P1", "P2"),
        horizons_min=HORIZONS_MIN,
        quantiles=QUANTILES,
        widths={name: {60: width} for name, width in widths.items()},
    )
    return publish(registry, "particulates", {"model.onnx": b"weights"}, about)


def came(outside: float, issued: datetime = NOW, many: int = 100) -> pd.DataFrame:
    "Forecasts of P2 an hour ahead, of which a share fell outside."
    observed = np.where(np.arange(many) < outside * many, 50.0, 10.0)
    told = {"value_type": "P2", "horizon_min": 60, "issued": pd.Timestamp(issued), "p05": 5.0, "p95": 20.0}
    return pd.DataFrame({"observed": observed}).assign(**told)


def month(spread: np.ndarray, seed: int = 0, minutes: int = 60) -> pd.DataFrame:
    "Forecasts issued every half hour, promised for a spread of 1."
    issued = pd.date_range(NOW, periods=len(spread), freq="30min", tz="UTC")
    observed = np.random.default_rng(seed).normal(0, spread)
    frame = pd.DataFrame({"value_type": "temperature", "issued": issued, "horizon_min": minutes, "observed": observed})
    fan = dict(zip(QUANTILE_COLUMNS, (-1.645, -0.674, 0.0, 0.674, 1.645), strict=True))
    return frame.assign(**fan)


def share_inside(frame: pd.DataFrame) -> float:
    return float(frame["observed"].between(frame["p05"], frame["p95"]).mean())


# One step


@pytest.mark.parametrize("outside", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("hours", [1, 6, 24])
def test_a_width_grows_with_the_share_outside_and_with_the_time(outside: float, hours: int) -> None:
    found = follow(Widths(NOW, {"P2": {60: 1.3}}), came(outside), NOW + timedelta(hours=hours))
    assert log(found.factors["P2"][60] / 1.3) == pytest.approx(GAIN * hours / 24 * (outside - 0.1))
    assert found.until == NOW + timedelta(hours=hours)


def test_a_long_break_counts_as_a_day() -> None:
    assert follow(Widths(NOW, {}), came(1.0), NOW + 30 * DAY).factors["P2"][60] == pytest.approx(exp(0.9))


def test_widths_have_ends() -> None:
    wide, narrow, at = Widths(NOW, {}), Widths(NOW, {}), NOW
    for _ in range(40):
        at += DAY
        wide, narrow = follow(wide, came(1.0), at), follow(narrow, came(0.0), at)
    assert (wide.factors["P2"][60], narrow.factors["P2"][60]) == (4.0, 0.25)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    before = Widths(NOW, {"P2": {60: 1.3}})
    assert follow(before, came(1.0), NOW - timedelta(hours=3)) == before


def test_what_nobody_measured_moves_nothing() -> None:
    before = Widths(NOW, {"P2": {60: 1.3}, "P1": {10: 0.7}})
    assert follow(before, came(1.0).assign(observed=np.nan), NOW + DAY).factors == before.factors
    assert follow(before, came(1.0)[:0], NOW + DAY).factors == before.factors


# A fan


@pytest.mark.parametrize("kind", ["temperature", "particulates"])
@pytest.mark.parametrize("factor", [0.25, 0.9, 1.0, 1.7, 4.0])
def test_a_widened_fan_keeps_its_median_and_its_order(kind: str, factor: float) -> None:
    fans = np.sort(np.random.default_rng(2).gamma(2, 10, (50, 10, 5)), axis=2)
    wide = widen(kind, fans, np.full((50, 10), factor))
    np.testing.assert_allclose(wide[:, :, 2], fans[:, :, 2], rtol=1e-12)
    assert (np.diff(wide, axis=2) >= 0).all() and not (kind == "particulates" and (wide < 0).any())
    assert np.array_equal(wide, fans) == (factor == 1.0)


def test_each_value_type_and_horizon_has_its_factor() -> None:
    table = factors_of({"P1": {10: 2.0}, "P2": {1440: 3.0}}, np.array(["P2", "P1", "P2"], object))
    assert table.shape == (3, len(HORIZONS_MIN)) and table[1, 0] == 2.0 and (table[[0, 2], -1] == 3.0).all()
    assert table.sum() == 3 * len(HORIZONS_MIN) + 1 + 2 + 2


# A month again


@pytest.mark.parametrize("spread", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_bands_that_follow_hold_what_they_promise(spread: float) -> None:
    frame = month(np.full(2 * HOURS, spread))
    followed, widths = replay("temperature", frame)
    assert share_inside(followed[HOURS // 2 :]) == pytest.approx(0.9, abs=0.015)
    assert widths.factors["temperature"][60] == pytest.approx(spread, rel=0.2)
    pd.testing.assert_series_equal(followed["p50"], frame["p50"])


@pytest.mark.parametrize("minutes", [10, 60, 1440])
def test_no_band_knows_what_comes_after_its_issue(minutes: int) -> None:
    frame = month(np.ones(800), minutes=minutes)
    due = frame["issued"] + pd.Timedelta(minutes=minutes)
    middle = frame["issued"][400].floor("h")
    other = frame.assign(observed=frame["observed"].where(due < middle, 1e6))
    mine, theirs = (replay("temperature", one)[0] for one in (frame, other))
    before = frame["issued"] < middle + pd.Timedelta("1h")
    pd.testing.assert_frame_equal(mine[before][[*QUANTILE_COLUMNS]], theirs[before][[*QUANTILE_COLUMNS]])
    assert (theirs["p95"].iloc[-1] > mine["p95"].iloc[-1]) and len(mine) == len(frame)


def test_a_shuffled_table_and_an_empty_one_are_replayed_alike() -> None:
    frame = month(np.full(300, 2.0))
    frame.index = frame.index + 7
    shuffled = frame.sample(frac=1, random_state=1)
    mine, theirs = replay("temperature", frame)[0], replay("temperature", shuffled)[0]
    pd.testing.assert_frame_equal(mine, theirs.sort_index())
    assert replay("temperature", frame[:0])[0].empty


# Beside a version


def test_widths_begin_as_the_manifest_says_and_follow(registry: Registry) -> None:
    made = put(registry, P2=1.5)
    assert load_widths(registry, made).factors == {"P2": {60: 1.5}}
    keep_following(registry, made.made + DAY, "particulates", came(0.3, made.made))
    assert load_widths(registry, made).factors["P2"][60] == pytest.approx(1.5 * exp(0.2))
    keep_following(registry, made.made + 2 * DAY, "particulates", came(0.0, made.made))
    assert load_widths(registry, made).factors["P2"][60] == pytest.approx(1.5 * exp(0.1))


def test_what_an_older_version_said_does_not_count(registry: Registry) -> None:
    made = put(registry)
    keep_following(registry, made.made + DAY, "particulates", came(1.0, made.made - timedelta(seconds=1)))
    assert load_widths(registry, made).factors == {}


def test_each_version_has_its_own(registry: Registry) -> None:
    first = put(registry)
    keep_following(registry, first.made + DAY, "particulates", came(0.5, first.made))
    second = put(registry, P1=0.8)
    assert load_widths(registry, second).factors == {"P1": {60: 0.8}}
    withdraw(registry, "particulates", second.version, "a test")
    keep_following(registry, first.made + 2 * DAY, "particulates", came(0.5, first.made))
    assert load_widths(registry, first).factors["P2"][60] == pytest.approx(exp(0.8))


def test_without_a_model_nothing_is_noted(registry: Registry) -> None:
    keep_following(registry, NOW, "particulates", came(1.0))
    assert not Path(registry.root).exists()


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"until": "yesterday", "factors": {}}', b'{"factors": 3}', FAR_TOO_WIDE, bytes(100)]
)
def test_a_damaged_note_is_told_and_widths_begin_anew(
    text: bytes, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    made = put(registry, P2=1.5)
    note(registry, "particulates", made.version, "widths.json", text)
    with caplog.at_level(logging.ERROR):
        assert load_widths(registry, made) == Widths(made.made, {"P2": {60: 1.5}})
    assert "cannot be read" in caplog.text and made.version in caplog.text
    keep_following(registry, made.made + DAY, "particulates", came(0.1, made.made))
    assert load_widths(registry, made).factors["P2"][60] == pytest.approx(1.5)


def test_notes_neither_spoil_a_version_nor_outlive_it(registry: Registry) -> None:
    first = put(registry)
    keep_following(registry, first.made + DAY, "particulates", came(1.0, first.made))
    assert newest(registry, "particulates").manifest == first
    put(registry)
    assert prune(registry, "particulates", keep=1) == [first.version]
    assert noted(registry, "particulates", first.version, "widths.json") is None
