"""The test of forecasts: its numbers as JSON, nothing of the test in the training, and strangers that stay strange."""

import importlib.util
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cities import START, Told, waves

for needed in ("tensorflow", "keras"):
    pytest.importorskip(needed, reason=f"needs {needed}: pip install sensorlib[forecast]")

from sensorlib import cli, evaluate
from sensorlib.core import READING_COLUMNS, SettingError
from sensorlib.evaluate import EVALUATED_MIN, Evaluation, as_text, cells, fit_lightgbm, summary
from sensorlib.network import Network, Recipe
from sensorlib.windows import HORIZONS_MIN, PAST, Panel, make_panel, read_kinds

DAYS, TRAIN_DAYS = 20, 14
SPLIT, END = START + timedelta(days=TRAIN_DAYS), START + timedelta(days=DAYS)
TINY = Recipe(members=1, folds=2, units=4, width=8, epochs=1, batches=8, batch=32)
NAMES = ("network", "persistence", "daily", "climatology", "damped", "lightgbm")


class Halt(Exception):
    "What is trained is known, and need not be."


def tried(readings: pd.DataFrame, reference: bool = False, **changes: Any) -> Evaluation | None:
    told = {"kind": "pressure", "train_until": SPLIT, "test_from": SPLIT, "test_until": END, "train_from": START}
    return evaluate.evaluate(Told(readings), **told | changes, recipe=TINY, reference=reference)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    "What was trained, in order."
    kept, train = [], evaluate.train
    monkeypatch.setattr(evaluate, "train", lambda *given: kept.append(train(*given)) or kept[-1])
    return kept


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Panel]:
    "What would have been trained on, in order; nothing is."
    kept: list[Panel] = []

    def train(panel: Panel, *given: object) -> Network:
        kept.append(panel)
        raise Halt

    monkeypatch.setattr(evaluate, "train", train)
    return kept


def garbage(readings: pd.DataFrame, since: datetime = SPLIT) -> pd.DataFrame:
    "The same readings with anything at all after the training."
    anything = np.random.default_rng(1).uniform(0, 1e5, len(readings))
    return readings.assign(value=readings["value"].where(readings["ts"] < since, anything))


def test_nothing_of_the_test_reaches_the_training(networks: list[Network]) -> None:
    one, other = tried(waves(DAYS)), tried(garbage(waves(DAYS)))
    assert one is not None and other is not None
    assert one.served == other.served and {*one.served["pressure"]} == {*HORIZONS_MIN}
    for mine, theirs in zip(*(network.model.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(networks[0].vocabulary, networks[1].vocabulary)
    assert not one.forecasts["observed"].equals(other.forecasts["observed"])


def test_nothing_of_the_test_reaches_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    "The training is shorter than the weeks on which trees are chosen, and the test is longer."
    pytest.importorskip("lightgbm", reason="needs lightgbm: pip install lightgbm")
    monkeypatch.setattr(evaluate, "_MOST_TREES", 3)
    readings, split, grown = waves(40, 16), START + timedelta(days=9), []
    for told in (readings, garbage(readings, split)):
        span = START, START + timedelta(days=40)
        panel = make_panel("pressure", *read_kinds(Told(told), ("pressure",), *span))
        trees = fit_lightgbm(panel, "pressure", 0, panel.step_at(split))
        grown.append([one.booster.model_to_string() for one in trees])
    assert grown[0] == grown[1] and len(grown[0]) == len(EVALUATED_MIN)


def test_too_little_grows_no_tree() -> None:
    pytest.importorskip("lightgbm", reason="needs lightgbm: pip install lightgbm")
    panel = make_panel("pressure", *read_kinds(Told(waves(DAYS)), ("pressure",), START, END))
    assert fit_lightgbm(panel, "pressure_at_sealevel", 0, panel.steps) == []


def test_what_is_tested_is_issued_in_the_test_and_comes_in_it() -> None:
    found = tried(waves(DAYS), test_from=SPLIT + timedelta(days=1))
    assert found is not None
    issued = found.forecasts["issued"]
    assert issued.min() > SPLIT + timedelta(days=1) and issued.max() <= END - timedelta(days=1)
    assert {*found.forecasts["horizon_min"]} == {*EVALUATED_MIN}
    assert found.forecasts["observed"].notna().all()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_strangers_are_neither_learnt_from_nor_heard_around(share: float, panels: list[Panel]) -> None:
    with pytest.raises(Halt):
        tried(waves(DAYS, 10), held_out=share)
    known = {*panels[0].sites["pressure"]["sensor_id"]}
    strange = {*range(1, 11)} - known
    assert known and strange
    readings = waves(DAYS, 10)
    wild = readings.assign(value=readings["value"].where(readings["sensor_id"].isin(known), -7.0))
    with pytest.raises(Halt):
        tried(wild, held_out=share)
    np.testing.assert_array_equal(panels[0].channels["pressure"], panels[1].channels["pressure"])


def test_strangers_alone_are_tested(networks: list[Network]) -> None:
    found = tried(waves(DAYS, 10), held_out=0.5)
    assert found is not None
    tested = {*found.forecasts["sensor_id"]}
    assert tested and not tested & {*networks[0].vocabulary} and tested | {*networks[0].vocabulary} == {*range(1, 11)}


@pytest.mark.parametrize("share", [-0.1, 1.0, 7.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(SettingError, match="expected a share of the locations"):
        tried(waves(DAYS), held_out=share)


def test_nobody_left_to_test_or_to_learn_from_is_told_before_the_training(panels: list[Panel]) -> None:
    for changes in ({"held_out": 1e-9}, {"held_out": 0.999999}, {"test_until": SPLIT + timedelta(hours=12)}):
        with pytest.raises(SettingError, match="pressure: the test from 2026-01-29 to 2026-0"):
            tried(waves(DAYS), **changes)
    assert panels == []


@pytest.mark.parametrize(
    "changes",
    [{"train_until": END}, {"test_until": SPLIT}, {"train_from": SPLIT}, {"test_from": SPLIT - timedelta(days=1)}],
)
def test_times_out_of_order_are_refused(changes: dict) -> None:
    with pytest.raises(SettingError, match="the times are not in order"):
        tried(waves(DAYS), **changes)


def test_a_kind_that_nobody_measures_is_none() -> None:
    assert tried(waves(DAYS), kind="noise") is None


def test_the_time_before_the_first_reading_is_left_out() -> None:
    grids, _ = read_kinds(Told(waves(3)), ("pressure",), START - timedelta(days=5), START + timedelta(days=3))
    cut = evaluate.trimmed(grids)
    assert {grid.start_s for grid in cut.values()} == {START.timestamp()}
    assert {grid.steps for grid in cut.values()} == {3 * PAST}
    assert evaluate.trimmed({}) == {}


# A row a cell


def made(**errors: float) -> Evaluation:
    "Forecasts of one value type, a horizon well compared and another never."
    many = 40
    frame = {"value_type": "P1", "horizon_min": np.repeat([10, 60], many), "sensor_id": 1, "issued": START}
    observed = np.where(np.arange(2 * many) < many, 10.0, np.nan)
    frame |= {"observed": observed, **{name: observed + error for name, error in errors.items()}}
    fan = zip(("p05", "p25", "p50", "p75", "p95"), range(-2, 3), strict=True)
    frame |= {name: observed + off for name, off in fan}
    return Evaluation(pd.DataFrame(frame), {"P1": {10: "network"}}, 1.5)


def test_cells_hold_what_was_compared_and_null_where_nothing_was() -> None:
    first, second = cells(made(network=1, persistence=2, daily=3, climatology=4, damped=5, lightgbm=0.5))
    assert first == {
        "value_type": "P1", "horizon_min": 10, "n": 40, "coverage_90": 1.0, "served": "network",
        "mae": {"network": 1, "persistence": 2, "daily": 3, "climatology": 4, "damped": 5, "lightgbm": 0.5},
    }  # fmt: skip
    assert second["mae"] == dict.fromkeys(NAMES) and second["coverage_90"] is None
    assert (second["n"], second["served"]) == (0, "persistence")
    json.dumps([first, second], allow_nan=False)


def test_a_summary_pools_the_ratios() -> None:
    both = cells(made(network=1, persistence=2, lightgbm=0.5)) + cells(made(network=1, persistence=2, lightgbm=2))
    assert summary(both, 3.0)["ratio_to_lightgbm"] == pytest.approx(1.0)
    alone = summary(cells(made(network=1, persistence=2)), 3.0)
    assert alone["ratio_to_lightgbm"] is None and alone["train_s"] == 3.0
    assert alone["cells"][0]["mae"]["lightgbm"] is None


def test_the_table_has_a_column_for_who_took_part() -> None:
    text = as_text(summary(cells(made(network=1, persistence=2)), 61.0)).splitlines()
    assert text[1].split() == ["value", "type", "minutes", "n", "network", "persistence", "in", "90", "%", "served"]
    assert text[2].split() == ["P1", "10", "40", "1.000", "2.000", "100.0", "%", "network"]
    assert text[3].split() == ["P1", "60", "0", "-", "-", "-", "persistence"]
    assert len({len(line) for line in text[1:4]}) == 1
    assert text[-1] == "the networks were trained in 61 s"


# The command


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "Files of a history; what trains on them is tiny."
    write_history(tmp_path / "history", waves(DAYS), "pressure")
    monkeypatch.setattr(evaluate, "Recipe", lambda: TINY)
    return tmp_path / "history"


def write_history(folder: Path, readings: pd.DataFrame, kind: str) -> None:
    where = Told(readings).latest(kind).drop_duplicates("sensor_id").drop(columns=["ts", "value_type", "value", "qc"])
    rows = readings.merge(where, on="sensor_id").reindex(columns=[*READING_COLUMNS])
    path = folder / f"kind={kind}" / "month=2026-01" / "1.parquet"
    path.parent.mkdir(parents=True)
    rows.to_parquet(path)


def words(history: Path, *more: str) -> list[str]:
    times = {"--train-until": SPLIT, "--test-from": SPLIT, "--test-until": END}
    told = [word for name, when in times.items() for word in (name, f"{when:%Y-%m-%d}")]
    return ["evaluate", "--history", str(history), *told, *more]


def test_the_command_prints_the_contract(
    history: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightgbm", reason="needs lightgbm: pip install lightgbm")
    monkeypatch.setattr(evaluate, "_MOST_TREES", 3)
    assert cli.main(words(history, "--kind", "pressure", "--json")) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=None)
    assert {*result} == {"cells", "ratio_to_lightgbm", "train_s"}
    assert result["train_s"] > 0 and result["ratio_to_lightgbm"] > 0
    for cell in result["cells"]:
        assert {*cell} == {"value_type", "horizon_min", "n", "mae", "coverage_90", "served"}
        assert {*cell["mae"]} == {*NAMES} and cell["served"] in ("network", *NAMES[1:5])
    told = {cell["horizon_min"]: cell for cell in result["cells"] if cell["value_type"] == "pressure"}
    assert {*told} == {*EVALUATED_MIN}
    assert all(error > 0 for error in told[60]["mae"].values())
    assert 0 < told[60]["coverage_90"] <= 1 and told[60]["n"] > 1000


def test_without_lightgbm_its_errors_are_null(
    history: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "lightgbm")
    assert cli.main(words(history, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ratio_to_lightgbm"] is None
    assert {cell["mae"]["lightgbm"] for cell in result["cells"]} == {None}


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))


def test_without_tensorflow_the_command_says_what_to_install(
    history: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "tensorflow")
    assert cli.main(words(history)) == 1
    assert "training needs TensorFlow: pip install 'sensorlib[forecast]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--kind heat pressure", "--kind is heat, expected some of temperature, humidity"),
        ("--kind pressure --test-until 2026-01-29", "the times are not in order"),
        ("--test-until yesterday", "--test-until"),
        ("--kind noise", "holds nothing good of noise in that time"),
        ("--held-out 2", "expected a share"),
        ("--device tpu:7", "no device 'tpu:7' for training, expected one of"),
    ],
)
def test_what_cannot_be_is_refused(history: Path, capsys: pytest.CaptureFixture[str], more: str, says: str) -> None:
    assert cli.main(words(history, *more.split())) == 1
    told = capsys.readouterr()
    assert told.out == "" and says in told.err


def test_a_kind_with_too_few_days_does_not_stop_the_others(
    history: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, "lightgbm")
    late = waves(DAYS).query("value_type == 'pressure'").assign(value_type="humidity")
    write_history(history, late[late["ts"] >= SPLIT - timedelta(days=1)], "humidity")
    assert cli.main(words(history, "--json")) == 0
    assert {cell["value_type"] for cell in json.loads(capsys.readouterr().out)["cells"]} == {"pressure"}
    assert "left out: humidity: " in caplog.text and "take a longer window" in caplog.text
    assert cli.main(words(history, "--kind", "humidity")) == 1
