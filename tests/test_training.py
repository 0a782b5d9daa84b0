"""Training and the gate: what is published, what is refused and why, and that what was published is what predicts."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cities import START, Told, waves

for needed in ("tensorflow", "keras", "tf2onnx", "onnxruntime"):
    pytest.importorskip(needed, reason=f"needs {needed}: pip install sensorlib[forecast]")

from sensorlib import training
from sensorlib.core import Reading, RegistryError, SettingError
from sensorlib.forecasts import load_forecaster, observe, predict
from sensorlib.network import Network, Recipe
from sensorlib.registry import Registry, newest, open_registry, versions
from sensorlib.sqlite import SqliteStore
from sensorlib.training import Trained, train_and_publish
from sensorlib.windows import HORIZONS_MIN, QUANTILES

DAYS, GATE_DAYS = 26, 9
UNTIL = START + timedelta(days=DAYS)
QUICK = Recipe(members=1, folds=2, units=16, width=32, epochs=3, batches=100, batch=64, rate=4e-3)
HASTY = replace(QUICK, units=4, width=8, epochs=1, batches=5)


@dataclass(frozen=True)
class First:
    "The first model of a registry."

    registry: Registry
    trained: Trained
    network: Network


def attempt(registry: Registry, recipe: Recipe = QUICK, **changes: Any) -> Trained | None:
    told = {"source": Told(waves(DAYS)), "kind": "pressure", "until": UNTIL, "gate_days": GATE_DAYS} | changes
    return train_and_publish(registry=registry, recipe=recipe, **told)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    "A network that learnt how pressure swings."
    registry, kept = open_registry(f"{tmp_path_factory.mktemp('registry')}/models"), []
    train = training.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda *given: kept.append(train(*given)) or kept[-1])
        trained = attempt(registry)
    assert trained is not None
    yield First(registry, trained, kept[0])


@pytest.fixture
def empty(tmp_path: Path) -> Registry:
    return open_registry(f"{tmp_path}/models")


def states(registry: Registry, kind: str = "pressure") -> list[str]:
    return [line.state for line in versions(registry, kind)]


def test_who_foresees_what_nobody_guesses_is_published(first: First) -> None:
    assert first.trained.published and first.trained.reason.startswith("network, on 7 days, beats all")
    artefact = newest(first.registry, "pressure")
    assert artefact is not None and artefact.manifest.version == first.trained.version
    manifest = artefact.manifest
    assert (manifest.horizons_min, manifest.quantiles) == (HORIZONS_MIN, QUANTILES)
    assert (manifest.trained_from, manifest.trained_until) == (START, UNTIL - timedelta(days=GATE_DAYS))
    assert manifest.vocabulary == {"sensor_ids": [1, 2, 3, 4, 5, 6]}
    assert manifest.served["pressure"][60] == "network"


def test_a_value_type_that_hardly_anybody_measures_stays_with_now(first: First) -> None:
    "Sea level was told for five days of the training, and never on the days of the gate."
    manifest = newest(first.registry, "pressure").manifest
    assert manifest.value_types == ("pressure", "pressure_at_sealevel")
    assert manifest.served["pressure_at_sealevel"] == dict.fromkeys(HORIZONS_MIN, "persistence")


def test_the_manifest_keeps_the_errors_as_json(first: First) -> None:
    cells = newest(first.registry, "pressure").manifest.metrics["cells"]
    told = {cell["horizon_min"]: cell for cell in cells if cell["value_type"] == "pressure"}
    assert {*told} == {*HORIZONS_MIN}
    assert told[120]["mae_network"] < told[120]["mae_persistence"]
    assert "NaN" not in json.dumps(cells)


def test_the_gate_is_asked_after_the_training(first: First) -> None:
    issued = first.trained.forecasts["issued"]
    assert issued.min() > UNTIL - timedelta(days=GATE_DAYS - 1)
    assert issued.max() <= UNTIL - timedelta(days=1)


def test_what_was_published_is_what_predicts(first: First, tmp_path: Path) -> None:
    "From the registry over a store and back: the forecasts are those of the network, and good ones."
    now, later = UNTIL + timedelta(minutes=4), waves(DAYS + 2)
    with closing(SqliteStore(tmp_path / "readings.db")) as store:
        write(store, later[later["ts"].between(UNTIL - timedelta(days=2), UNTIL, "left")])
        done = predict(store, first.registry, now)
        assert done.by_model == {first.trained.version: 6 * len(HORIZONS_MIN)}
        write(store, later[later["ts"] >= UNTIL])
        assert observe(store, now + timedelta(days=1, minutes=10)).waiting == 0
        seen = store.forecasts("pressure", UNTIL, UNTIL + timedelta(days=2))
    off = (seen[["p50", "persistence", "daily"]].sub(seen["observed"], axis=0)).abs().mean()
    assert off["p50"] < off[["persistence", "daily"]].min() / 2
    assert 0.7 < seen["observed"].between(seen["p05"], seen["p95"]).mean() <= 1


def write(store: SqliteStore, readings: pd.DataFrame) -> None:
    rows = readings.itertuples()
    where = {"sensor_type": "BMP280", "lat": 50.0, "country": "DE"}
    made = [
        Reading(
            r.sensor_id, r.ts.to_pydatetime(), "pressure", r.value_type, r.value, r.qc,
            location_id=r.sensor_id + 1000, lon=9 + r.sensor_id / 50, **where,
        )
        for r in rows
    ]  # fmt: skip
    assert store.write(made) == []


def test_the_file_says_what_the_network_says(first: First) -> None:
    forecaster = load_forecaster(first.registry, "pressure")
    assert forecaster is not None
    random = np.random.default_rng(1)
    past = random.normal(100_000, 200, (30, *first.network.model.inputs[0].shape[1:])).astype("float32")
    context = random.normal(size=(30, first.network.model.inputs[1].shape[1])).astype("float32")
    station = random.integers(0, 7, 30).astype("int32")
    there, here = forecaster.run(past, context, station), np.asarray(first.network.model([past, context, station]))
    np.testing.assert_allclose(there, here, rtol=1e-5)


def test_a_hasty_candidate_does_not_replace_the_one_that_serves(first: First) -> None:
    second = attempt(first.registry, HASTY)
    assert second is not None and not second.published
    assert "does not beat serving" in second.reason
    assert states(first.registry)[:2] == ["refused", "serving"]
    assert versions(first.registry, "pressure")[0].reason == second.reason
    assert newest(first.registry, "pressure").manifest.version == first.trained.version
    theirs = second.forecasts.dropna(subset=["observed", "serving"])
    assert (theirs["serving"] - theirs["observed"]).abs().mean() < (theirs["network"] - theirs["observed"]).abs().mean()


def test_who_serves_is_compared_as_it_serves(first: First, empty: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    "The same network again is as good as itself, but for the rounding of the file."
    monkeypatch.setattr(training, "train", lambda *given: first.network)
    assert attempt(empty).published
    again = attempt(empty).forecasts
    np.testing.assert_allclose(again["serving"], again["network"].where(again["value_type"] == "pressure"), rtol=1e-6)


def test_a_bad_candidate_is_refused_with_the_reason(empty: Registry) -> None:
    trained = attempt(empty, HASTY)
    assert trained is not None and not trained.published
    assert "does not beat" in trained.reason
    assert states(empty) == ["refused"] and newest(empty, "pressure") is None
    assert versions(empty, "pressure")[0].reason == trained.reason


def test_a_file_that_says_something_else_is_not_published(
    first: First, empty: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_onnx = training.run_onnx
    monkeypatch.setattr(training, "train", lambda *given: first.network)
    monkeypatch.setattr(training, "run_onnx", lambda model: lambda *given: run_onnx(model)(*given) * 1.001)
    with pytest.raises(RegistryError, match="the network and its ONNX file differ by up to"):
        attempt(empty)
    assert states(empty) == []


def test_a_network_that_falls_silent_is_refused(first: First, empty: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    say = Network.say
    monkeypatch.setattr(training, "train", lambda *given: first.network)
    monkeypatch.setattr(Network, "say", lambda *given: np.where(say(*given) > 1e5, np.nan, say(*given)))
    trained = attempt(empty)
    assert trained is not None and not trained.published and "no finite forecast" in trained.reason


def test_too_few_days_are_refused_before_anything_is_trained(empty: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", None)
    for changes in ({"gate_days": 8}, {"gate_days": DAYS}, {"until": START + timedelta(days=GATE_DAYS)}):
        with pytest.raises(SettingError, match="pressure: gate_days is"):
            attempt(empty, **changes)
    assert states(empty) == []


def test_too_few_days_to_learn_from_are_refused(empty: Registry) -> None:
    with pytest.raises(SettingError, match="take a longer window"):
        attempt(empty, days=3)


def test_a_kind_that_nobody_measures_is_none(empty: Registry) -> None:
    assert attempt(empty, kind="noise") is None
    assert attempt(empty, until=START) is None
    assert states(empty) == []


def test_too_few_observations_to_judge_are_a_reason(
    first: First, empty: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    "On the days of the gate nobody said anything but at the very end."
    monkeypatch.setattr(training, "train", lambda *given: first.network)
    readings = waves(DAYS)
    quiet = readings["ts"].between(UNTIL - timedelta(days=GATE_DAYS), UNTIL - timedelta(hours=2))
    trained = attempt(empty, source=Told(readings[~quiet]))
    assert trained is not None and not trained.published
    assert trained.reason == "no value type has enough observations"
    assert states(empty) == ["refused"]
