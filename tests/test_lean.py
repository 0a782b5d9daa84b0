"""Leaning towards what is usual: the share is found again, has ends, and moves fans without bending them."""

import numpy as np
import pandas as pd
import pytest

from sensorlib.baselines import from_scale, to_scale
from sensorlib.core import KINDS
from sensorlib.lean import lean, leaned, measure_leans
from sensorlib.rows import QUANTILE_COLUMNS
from sensorlib.windows import HORIZONS_MIN, value_types_of


def told(kind: str, share: float, many: int = 4000, seed: int = 0) -> pd.DataFrame:
    "Forecasts of the first value type a day ahead, of which so much of what is usual comes true."
    random = np.random.default_rng(seed)
    said, usual = to_scale(kind, random.gamma(4, 4, (2, many)))
    came = said + share * (usual - said) + random.normal(0, 0.1, many)
    frame = {"observed": came, "network": said, "climatology": usual}
    frame |= {name: said + 0.2 * at for at, name in enumerate(QUANTILE_COLUMNS, start=-2)}
    frame = {name: from_scale(kind, values) for name, values in frame.items()}
    return pd.DataFrame(frame).assign(value_type=value_types_of(kind)[0], horizon_min=1440)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_the_share_that_came_true_is_found(kind: str, share: float) -> None:
    assert measure_leans(kind, told(kind, share))[value_types_of(kind)[0]][1440] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_leans_neither_away_from_the_usual_nor_beyond_it(kind: str) -> None:
    assert measure_leans(kind, told(kind, -0.3)) == {}
    assert measure_leans(kind, told(kind, 1.4))[value_types_of(kind)[0]] == {1440: 1.0}


def test_each_value_type_and_horizon_has_its_share() -> None:
    parts = [told("particulates", share, seed=number) for number, share in enumerate((0.2, 0.4, 0.6))]
    cells = [("P1", 60), ("P1", 1440), ("P2", 60)]
    named = [part.assign(value_type=name, horizon_min=at) for part, (name, at) in zip(parts, cells, strict=True)]
    leans = measure_leans("particulates", pd.concat(named, ignore_index=True).sample(frac=1, random_state=1))
    assert {name: {*shares} for name, shares in leans.items()} == {"P1": {60, 1440}, "P2": {60}}
    assert [leans[name][at] for name, at in cells] == pytest.approx([0.2, 0.4, 0.6], abs=0.02)


def test_what_is_not_known_does_not_count() -> None:
    frame = told("temperature", 0.5)
    gaps = frame.assign(observed=frame["observed"].where(frame.index % 3 > 0, np.nan))
    gaps = gaps.assign(climatology=gaps["climatology"].where(gaps.index % 5 > 0, np.nan))
    assert measure_leans("temperature", gaps)["temperature"][1440] == pytest.approx(0.5, abs=0.02)
    assert measure_leans("temperature", frame.head(199)) == {}
    assert measure_leans("temperature", frame.head(300).assign(observed=np.nan)) == {}
    assert measure_leans("temperature", frame.head(0)) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fan_moves_as_a_whole(kind: str) -> None:
    random = np.random.default_rng(3)
    fans = np.sort(random.gamma(4, 4, (200, len(HORIZONS_MIN), 5)), axis=2)
    usual, share = random.gamma(4, 4, (2, 200, len(HORIZONS_MIN)))
    share = share / share.max()
    moved = lean(kind, fans, usual, share)
    there = to_scale(kind, fans[:, :, 2]) * (1 - share) + to_scale(kind, usual) * share
    np.testing.assert_allclose(to_scale(kind, moved[:, :, 2]), there, rtol=1e-9)
    assert (np.diff(moved, axis=2) >= 0).all()
    if kind == "particulates":
        assert (moved >= 0).all()
    else:
        np.testing.assert_allclose(moved - moved[:, :, 2:3], fans - fans[:, :, 2:3], atol=1e-9)


def test_without_a_share_or_anything_usual_nothing_moves() -> None:
    fans = np.sort(np.random.default_rng(4).normal(size=(20, 10, 5)).astype("float32"), axis=2)
    unknown, something = np.full((20, 10), np.nan), np.ones((20, 10))
    np.testing.assert_array_equal(lean("temperature", fans, something, np.zeros((20, 10))), fans)
    np.testing.assert_array_equal(lean("temperature", fans, unknown, something), fans)


def test_a_table_leans_like_its_arrays() -> None:
    frame = told("particulates", 0.3, many=50).assign(value_type="P1")
    both = pd.concat([frame, frame.assign(horizon_min=60)], ignore_index=True)
    made = leaned("particulates", both, {"P1": {1440: 0.3}, "P2": {60: 1.0}})
    names = [*QUANTILE_COLUMNS]
    expected = lean("particulates", frame[names].to_numpy(), frame["climatology"].to_numpy(), np.full(50, 0.3))
    np.testing.assert_allclose(made.loc[:49, names], expected)
    np.testing.assert_allclose(made.loc[50:, names], frame[names])
    assert made["network"].equals(made["p50"].rename("network"))
    kept = ["observed", "climatology", "value_type", "horizon_min"]
    pd.testing.assert_frame_equal(made[kept], both[kept])
