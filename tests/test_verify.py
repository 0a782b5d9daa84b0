"""Verification against cases whose answer is known: perfect, equal, scaled, shuffled, silent and lucky forecasts."""

from collections.abc import Callable
from datetime import timedelta
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import SettingError
from sensorlib.verify import (
    BASELINES,
    FEWEST_DAYS,
    LEAST_DAYS,
    compare,
    crps,
    gate,
    levels_of,
    pinball,
    ratio,
    reliability,
    rolling_origins,
    score,
    seasons,
    skill,
    spacing,
    stand_ins,
    strangers,
)

START = pd.Timestamp("2026-03-01", tz="UTC")
HORIZONS = (10, 60, 1440)
NORMAL = NormalDist()
FAN = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


def forecasts(days: int = 20, sensors: int = 4, seed: int = 0, value_type: str = "temperature") -> pd.DataFrame:
    "Forecasts with normal errors; the network's is half of the baselines', and its quantiles are the true ones."
    rng = np.random.default_rng(seed)
    key = pd.MultiIndex.from_product([range(sensors), range(days * 24), HORIZONS])
    frame = pd.DataFrame({"sensor_id": key.get_level_values(0), "horizon_min": key.get_level_values(2)})
    issued = START + pd.to_timedelta(key.get_level_values(1).to_numpy(), unit="h")
    network = rng.normal(10, 5, len(frame))
    frame = frame.assign(value_type=value_type, issued=issued, lat=52.5, network=network)
    frame["observed"] = network + rng.normal(size=len(frame))
    for number, name in enumerate(BASELINES):
        frame[name] = frame["observed"] + (2 + 0.1 * number) * rng.normal(size=len(frame))
    return frame.assign(**{name: network + NORMAL.inv_cdf(level) for name, level in FAN.items()})


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=3)


def values_of(frame: pd.DataFrame) -> list[str]:
    "Columns in the unit of the value."
    return ["observed", "network", *BASELINES, *FAN]


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    "Errors of the network and of `daily` where both spoke, cell by cell, the slow way."
    rows = []
    for (kind, horizon), cell in frame.groupby(["value_type", "horizon_min"]):
        both = cell[cell[["observed", "network", "daily"]].notna().all(axis=1)]
        errors = [(both["observed"] - both[name]).abs().mean() for name in ("network", "daily")]
        rows.append((kind, horizon, len(both), *errors))
    return pd.DataFrame(rows, columns=["value_type", "horizon_min", "n", "mae_model", "mae"])


@pytest.mark.parametrize("gap", [timedelta(0), timedelta(days=3)])
def test_folds_keep_test_inputs_away_from_training_targets(gap: timedelta) -> None:
    frame = forecasts(days=60)
    ahead = pd.to_timedelta(frame["horizon_min"], unit="min")
    folds = rolling_origins(START, START + timedelta(days=61), folds=4, test=timedelta(days=7), gap=gap)
    for fold in folds:
        train, test = (
            fold.trains(frame["issued"], frame["horizon_min"]),
            fold.tests(frame["issued"], frame["horizon_min"]),
        )
        assert train.any() and test.any()
        assert (frame["issued"] + ahead)[train].max() <= frame["issued"][test].min() - gap


def test_folds_move_forward_and_end_where_the_data_do() -> None:
    folds = rolling_origins(START, START + timedelta(days=40), folds=3, test=timedelta(days=10))
    assert [(fold.test_from - START).days for fold in folds] == [10, 20, 30]
    assert folds[-1].test_until == START + timedelta(days=40)
    assert {fold.train_until - fold.test_from for fold in folds} == {timedelta(days=-2)}


@pytest.mark.parametrize("wrong", [{"folds": 0}, {"folds": 5}, {"test": timedelta(0)}, {"gap": timedelta(days=-1)}])
def test_impossible_folds_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingError, match="nothing to learn from"):
        rolling_origins(START, START + timedelta(days=40), **({"test": timedelta(days=9)} | wrong))


def test_test_targets_end_with_the_test() -> None:
    fold = rolling_origins(START, START + timedelta(days=40), folds=1, test=timedelta(days=10))[0]
    last = pd.Series([START + timedelta(days=39), START + timedelta(days=39, minutes=10)])
    assert fold.tests(last, 1440).tolist() == [True, False]


def test_strangers_keep_locations_whole_and_follow_moved_sensors() -> None:
    sensors = pd.DataFrame({"sensor_id": np.arange(3000), "location_id": np.arange(3000) // 3})
    moved = pd.DataFrame({"sensor_id": [0, 3, 6], "location_id": [1, 2, 3]})  # ties locations 0, 1, 2 and 3
    for seed in range(20):
        held = np.isin(np.arange(3000), strangers(pd.concat([moved, sensors]), seed=seed)).reshape(-1, 3)
        assert (held.all(axis=1) == held.any(axis=1)).all()
        assert len({*held[:4, 0]}) == 1
        assert held.mean() == pytest.approx(0.2, abs=0.06)


def test_strangers_depend_on_the_seed_alone() -> None:
    sensors = pd.DataFrame({"sensor_id": np.arange(500), "location_id": np.arange(500)})
    assert strangers(shuffled(sensors)).tolist() == strangers(sensors).tolist()
    assert {*strangers(sensors.iloc[::2])} == {*strangers(sensors)} & {*range(0, 500, 2)}
    assert {*strangers(sensors, seed=1)} != {*strangers(sensors)}
    assert [len(strangers(sensors, share)) for share in (0, 1)] == [0, 500]


def test_a_sensor_without_location_is_refused() -> None:
    with pytest.raises(SettingError, match="no location_id"):
        strangers(pd.DataFrame({"sensor_id": [1, 2], "location_id": [7, None]}))


@pytest.mark.parametrize("level", FAN.values())
def test_pinball_is_least_at_the_quantile(level: float) -> None:
    drawn = np.random.default_rng(0).normal(size=40_000)
    guesses = np.linspace(-2.5, 2.5, 101)
    best = guesses[np.argmin([pinball(drawn, guess, level).mean() for guess in guesses])]
    assert best == pytest.approx(NORMAL.inv_cdf(level), abs=0.08)


@pytest.mark.parametrize("observed", [-3.0, 0.0, 0.7, 2.5])
def test_crps_of_many_quantiles_is_the_integral(observed: float) -> None:
    "Against the definition: the squared distance of two distribution functions, integrated by brute force."
    levels = (np.arange(999) + 0.5) / 999
    fan = [np.array([NORMAL.inv_cdf(level)]) for level in levels]
    grid = np.linspace(-9, 9, 18_001)
    squares = (np.array([NORMAL.cdf(x) for x in grid]) - (grid >= observed)) ** 2
    assert crps(np.array([observed]), fan, levels)[0] == pytest.approx(np.trapezoid(squares, grid), abs=2e-3)


def test_crps_of_one_number_is_its_absolute_error() -> None:
    observed = np.array([1.0, 5.0, -2.0])
    assert crps(observed, [np.full(3, 2.0)] * 5, [*FAN.values()]) == pytest.approx(np.abs(observed - 2))
    assert spacing([0.5]) == pytest.approx([1.0])
    assert spacing([*FAN.values()]).sum() == pytest.approx(1)


def test_true_quantiles_cover_nominally() -> None:
    frame = forecasts(days=100)
    scores = score(frame, ["value_type"]).iloc[0]
    assert [scores["coverage_50"], scores["coverage_90"]] == pytest.approx([0.5, 0.9], abs=0.01)
    assert scores["width_90"] == pytest.approx(2 * NORMAL.inv_cdf(0.95))
    table = reliability(frame)
    assert table["at_most"].tolist() == pytest.approx([*FAN.values()], abs=0.01)
    assert table["n"].tolist() == [len(frame)] * 5


def test_values_in_lumps_are_told_from_below_and_from_above() -> None:
    frame = forecasts().assign(observed=100.0, **dict.fromkeys(FAN, 100.0))
    assert reliability(frame)[["below", "at_most"]].drop_duplicates().to_numpy().tolist() == [[0, 1]]


def test_a_perfect_forecast_has_no_error_and_all_skill() -> None:
    frame = forecasts()
    frame = frame.assign(network=frame["observed"], **dict.fromkeys(FAN, frame["observed"]))
    scores, gains = score(frame), skill(frame)
    assert scores[["mae_network", "crps", "pinball", "width_90"]].to_numpy().tolist() == [[0, 0, 0, 0]] * 3
    assert scores["coverage_90"].tolist() == [1, 1, 1]
    assert gains[["skill", "low", "high"]].to_numpy().tolist() == [[1, 1, 1]] * 3
    assert gate(frame, START).published


def test_the_baseline_itself_has_no_skill() -> None:
    frame = forecasts()
    frame = frame.assign(network=frame["persistence"])
    assert skill(frame, baseline="persistence")[["skill", "low", "high"]].to_numpy().tolist() == [[0, 0, 0]] * 3
    assert (skill(frame)["skill"] <= 0).all()
    assert ratio(frame) == 1


def test_two_perfect_forecasts_are_equal() -> None:
    frame = forecasts()
    frame = frame.assign(network=frame["observed"], damped=frame["observed"])
    assert ratio(frame, "network", "damped") == 1
    assert "does not beat damped" in gate(frame, START).reason
    assert {*stand_ins(frame)["temperature"].values()} == {"damped"}


@pytest.mark.parametrize("judge", [score, compare, skill, reliability])
def test_the_order_of_rows_says_nothing(judge: Callable) -> None:
    frame = forecasts()
    frame = frame.assign(daily=frame["daily"].where(frame.index % 3 > 0))
    pd.testing.assert_frame_equal(judge(shuffled(frame)), judge(frame))


def test_units_do_not_change_skill() -> None:
    frame = forecasts()
    scaled = frame.assign(**{name: 1000 * frame[name] for name in values_of(frame)})
    pd.testing.assert_frame_equal(skill(scaled), skill(frame))
    assert score(scaled)["crps"].tolist() == pytest.approx((1000 * score(frame)["crps"]).tolist())
    both = pd.concat([scaled.assign(value_type="pressure"), frame])
    assert ratio(both) == pytest.approx(ratio(frame))


def test_ratio_is_over_the_cells_where_both_spoke() -> None:
    frame = forecasts()
    part = frame.assign(lightgbm=frame["daily"].where(frame["horizon_min"] != 60))
    assert ratio(part, "network", "lightgbm") == pytest.approx(
        ratio(frame[frame["horizon_min"] != 60], reference="daily")
    )
    with pytest.raises(SettingError, match="network and lightgbm never spoke"):
        ratio(frame.assign(lightgbm=np.nan), "network", "lightgbm")


def test_errors_are_compared_where_both_spoke() -> None:
    frame = forecasts()
    rng = np.random.default_rng(5)
    for name in ("observed", "network", "daily"):
        frame[name] = frame[name].where(rng.random(len(frame)) < 0.8)
    duels, expected = compare(frame, against=["daily"]), plain(frame)
    pd.testing.assert_frame_equal(duels[expected.columns], expected)
    assert duels[["spoke", "silent"]].to_numpy() == pytest.approx(np.tile([0.8, 0.2], (3, 1)), abs=0.04)
    scores = score(frame)
    assert scores["skill_daily"].tolist() == pytest.approx((1 - expected["mae_model"] / expected["mae"]).tolist())
    assert scores["n_daily"].tolist() == expected["n"].tolist()
    assert skill(frame, baseline="daily")["n"].tolist() == expected["n"].tolist()


def test_value_types_are_not_averaged_together() -> None:
    both = pd.concat([forecasts(), forecasts(value_type="pressure")])
    with pytest.raises(SettingError, match=r"\['temperature', 'pressure'\] cannot be averaged together"):
        score(both, ["horizon_min"])
    assert len(score(both)) == 6
    assert len(score(forecasts(), [])) == 1


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SettingError, match="lacks \\['network'\\]"):
        gate(forecasts().drop(columns="network"), START)
    with pytest.raises(SettingError, match="lacks \\['lat'\\]"):
        score(forecasts().drop(columns="lat"), ["value_type", "season"])
    with pytest.raises(SettingError, match="nobody to compare"):
        stand_ins(forecasts().drop(columns=[*BASELINES]))


@pytest.mark.parametrize(("month", "north", "south"), [(1, "winter", "summer"), (3, "spring", "autumn")])
def test_seasons_turn_at_the_equator(month: int, north: str, south: str) -> None:
    moments = pd.Series(pd.to_datetime([f"2026-{month:02}-01"] * 3, utc=True), index=[7, 8, 9])
    assert seasons(moments, pd.Series([0.0, -0.1, np.nan])).to_dict() == {7: north, 8: south, 9: "unknown"}


def test_a_season_is_that_of_the_moment_forecast_for() -> None:
    frame = forecasts(days=1).assign(issued=pd.Timestamp("2026-02-28T23:30:00Z"))
    found = score(frame, ["value_type", "horizon_min", "season"]).set_index("horizon_min")["season"]
    assert found.to_dict() == {10: "winter", 60: "spring", 1440: "spring"}


def test_days_that_hang_together_widen_the_interval() -> None:
    frame = forecasts(days=40)
    lucky = np.random.default_rng(1).lognormal(0, 0.8, 40)[(frame["issued"] - START).dt.days]
    frame = frame.assign(network=frame["observed"] + (frame["network"] - frame["observed"]) * lucky)
    alone = frame.assign(issued=START + pd.to_timedelta(frame.index // len(HORIZONS), unit="D"))
    days, naive = skill(frame), skill(alone, draws=200)
    assert days["skill"].tolist() == pytest.approx(naive["skill"].tolist())
    assert ((days["high"] - days["low"]) > 3 * (naive["high"] - naive["low"])).all()


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    "Skill of 90 made months, whose errors are of half the size and share a factor in each day."
    rng, held = np.random.default_rng(4), []
    day = np.repeat(np.arange(30), 24)
    for _ in range(90):
        error, other = rng.normal(size=(2, 720)) * rng.lognormal(0, 0.5, (2, 30))[:, day]
        made = {"observed": 0.0, "network": error, "daily": 2 * other, "issued": START + pd.to_timedelta(day, unit="D")}
        row = skill(pd.DataFrame(made).assign(value_type="P2", horizon_min=60), draws=300).iloc[0]
        held.append(row["low"] <= 0.5 <= row["high"])
    assert 0.78 <= np.mean(held) <= 0.97


def test_the_interval_is_the_same_each_time_and_absent_for_few_days() -> None:
    frame = forecasts(days=FEWEST_DAYS)
    pd.testing.assert_frame_equal(skill(frame), skill(frame))
    assert skill(frame, seed=1)["low"].tolist() != skill(frame)["low"].tolist()
    fewer = skill(frame[frame["issued"] < START + timedelta(days=FEWEST_DAYS - 1)])
    assert fewer[["low", "high"]].isna().all(axis=None)
    assert fewer["skill"].notna().all()


def test_the_best_baseline_is_the_hardest_that_spoke_often() -> None:
    frame = forecasts()
    rarely = frame["observed"].where(frame.index % 4 == 0)  # right each time, but rarely there
    assert {*skill(frame)["baseline"]} == {"persistence"}
    assert {*skill(frame.assign(damped=rarely))["baseline"]} == {"persistence"}
    assert {*skill(frame.assign(damped=frame["observed"]))["baseline"]} == {"damped"}


def test_stand_ins_are_chosen_cell_by_cell() -> None:
    frame = forecasts()
    frame["network"] += np.where(frame["horizon_min"] == 60, 2, 0)
    expected = {"temperature": {10: "network", 60: "persistence", 1440: "network"}}
    assert stand_ins(frame) == gate(frame, START).served == expected
    assert {*stand_ins(frame, least=len(frame))["temperature"].values()} == {"persistence"}
    assert {*stand_ins(frame.assign(network=np.nan))["temperature"].values()} == {"persistence"}


def test_gate_publishes_what_beats_all_and_says_the_figures() -> None:
    frame = forecasts()
    serving = frame["observed"] + 1.5 * (frame["network"] - frame["observed"])
    ahead = frame.tail(1).assign(issued=START + timedelta(days=40), observed=np.nan)  # nothing came yet
    decision = gate(pd.concat([frame.assign(serving=serving), ahead]), START)
    assert decision.published
    assert f"serving {1 / 1.5:.4f} ({len(frame):,} forecasts, 3 cells)" in decision.reason
    assert "on 20 days" in decision.reason
    assert decision.served == {"temperature": dict.fromkeys(HORIZONS, "network")}


def test_the_serving_model_stands_in_nowhere() -> None:
    frame = forecasts()
    off = (frame["network"] - frame["observed"]) * np.where(frame["horizon_min"] == 60, 0.5, 3)
    decision = gate(frame.assign(serving=frame["observed"] + off), START)
    assert decision.served == {"temperature": dict.fromkeys(HORIZONS, "network")}


def test_gate_refuses_what_does_not_beat_the_serving_model() -> None:
    frame = forecasts()
    for factor in (1.0, 0.99):
        decision = gate(
            frame.assign(serving=frame["observed"] + factor * (frame["network"] - frame["observed"])), START
        )
        assert not decision.published
        assert f"does not beat serving; its error over theirs: serving {1 / factor:.4f}" in decision.reason
        assert decision.served == {}


def test_gate_refuses_what_one_baseline_beats() -> None:
    frame = forecasts()
    decision = gate(frame.assign(climatology=frame["observed"] + 0.5), START)
    assert not decision.published
    assert "does not beat climatology;" in decision.reason


def test_gate_weighs_cells_by_ratio_not_by_unit() -> None:
    "Ten times better in degrees outweighs a tenth worse in pascals, however many pascals that is."
    degrees, pascals = forecasts(), forecasts(value_type="pressure", seed=1)
    degrees["network"] = degrees["observed"] + 0.1 * (degrees["persistence"] - degrees["observed"])
    pascals["network"] = pascals["observed"] + 1.1 * (pascals["persistence"] - pascals["observed"])
    pascals = pascals.assign(**{name: 1e4 * pascals[name] for name in values_of(pascals)})
    decision = gate(pd.concat([degrees, pascals]), START)
    assert f"persistence {np.sqrt(0.11):.4f}" in decision.reason
    assert decision.served["pressure"] == dict.fromkeys(HORIZONS, "persistence")


@pytest.mark.parametrize("hole", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["network", "p95"])
def test_gate_refuses_a_model_that_falls_silent(column: str, hole: float) -> None:
    frame = forecasts()
    frame.loc[[3, 500], column] = hole
    decision = gate(frame, START)
    assert not decision.published
    assert f"for 2 of {len(frame):,}" in decision.reason


def test_gate_does_not_mind_silence_where_nothing_was_observed() -> None:
    frame = forecasts()
    frame.loc[[3, 500], ["network", "observed"]] = np.nan
    assert gate(frame, START).published
    frame = forecasts()
    frame.loc[[3, 500], ["network", *BASELINES]] = np.nan  # nobody could say
    assert gate(frame, START).published


def test_gate_waits_for_days_and_for_forecasts() -> None:
    frame = forecasts(days=LEAST_DAYS)
    assert gate(frame, START).published
    assert "6 days" in gate(frame[frame["issued"] < START + timedelta(days=LEAST_DAYS - 1)], START).reason
    rare = frame[(frame["horizon_min"] != 60) | (frame["issued"].dt.hour == 0)]
    ended = frame.assign(observed=frame["observed"].where(frame["issued"] < START + timedelta(days=3)))
    assert "of 3 days" in gate(ended, START).reason
    assert "28 forecasts of temperature 60 min ahead" in gate(rare, START).reason
    just = frame[(frame["horizon_min"] != 60) | (frame.groupby("horizon_min").cumcount() % 6 == 0)]
    assert gate(just, START, least=112).published
    assert "112 forecasts of temperature 60 min ahead" in gate(just, START, least=113).reason
    unseen = frame.assign(observed=frame["observed"].where(frame["horizon_min"] != 60))
    assert "0 forecasts of temperature 60 min ahead" in gate(unseen, START).reason
    assert "0 days" in gate(frame.head(0), START).reason


def test_gate_refuses_forecasts_of_the_training_days() -> None:
    decision = gate(forecasts(), START + timedelta(hours=1))
    assert decision.reason.startswith("12 of 5,760 forecasts were issued before its training ended")


def test_gate_needs_somebody_to_compare_with() -> None:
    silent = forecasts().assign(**dict.fromkeys(BASELINES, np.nan))
    assert "nobody to compare with" in gate(silent, START).reason
    barely = forecasts().assign(daily=np.nan)
    assert gate(barely, START).published
    assert "daily said too little" in gate(barely, START).reason


def test_lightgbm_is_told_but_has_no_vote() -> None:
    frame = forecasts()
    frame = frame.assign(lightgbm=frame["observed"])
    assert gate(frame, START).published
    assert "lightgbm" in {*compare(frame)["against"]}


def test_every_quantile_column_is_found() -> None:
    frame = forecasts().assign(p99=0.0, place="p12", p1=0.0)
    assert levels_of(frame) == FAN | {"p99": 0.99}
