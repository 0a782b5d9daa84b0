"""The three jobs as they run: one object, forecasts in the store, and a page with a table and a picture."""

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from cities import START, judged, said, waves

from sensorlib import cli
from sensorlib.core import KINDS, JobFailed, SettingError
from sensorlib.jobs import JobRun, find_job, parameters_of, run_job
from sensorlib.registry import newest, open_registry
from sensorlib.rows import DAY
from sensorlib.sqlite import SqliteStore
from sensorlib.windows import HORIZONS_MIN

SENSORS, SECRET = 8, "a-secret-that-nobody-reads"
ISSUED = START + timedelta(days=3, hours=7)


@dataclass(frozen=True)
class Jobs:
    "A store of a made city, and what became of it."

    folder: Path
    predicted: JobRun
    verified: JobRun

    def forecasts(self) -> pd.DataFrame:
        with closing(SqliteStore(self.folder / "readings.db")) as store:
            return pd.concat([store.forecasts(kind, ISSUED, ISSUED + 2 * DAY) for kind in KINDS], ignore_index=True)


def given(folder: Path, at: Any, *models: str) -> dict[str, str]:
    return {"store": f"sqlite:///{folder}/readings.db", "at": f"{at:%Y-%m-%dT%H:%M:%SZ}"} | dict.fromkeys(
        models, f"{folder}/models"
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    "Forecasts at seven in the morning, compared in the afternoon."
    folder = tmp_path_factory.mktemp("jobs")
    with closing(SqliteStore(folder / "readings.db")) as store:
        assert store.write(judged(said(3.6, SENSORS), SENSORS)) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENSORLIB_INFLUX_TOKEN", SECRET)
        moments = (ISSUED + timedelta(minutes=4), ISSUED + timedelta(hours=6, minutes=15))
        predicted = run_job("predict", given(folder, moments[0], "models"), folder / "runs")
        verified = run_job("verify", given(folder, moments[1], "models"), folder / "runs")
    return Jobs(folder, predicted, verified)


def shown(run: JobRun) -> dict[str, list[str]]:
    "Outputs of an executed notebook by their type."
    found: dict[str, list[str]] = {}
    for cell in nbformat.read(run.notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            for mime, data in output.get("data", {}).items():
                found.setdefault(mime, []).append(data if isinstance(data, str) else json.dumps(data))
    return found


def test_predict_writes_forecasts_and_tells_of_them(jobs: Jobs) -> None:
    result = jobs.predicted.result
    assert {*result} == {"issued", "series", "forecasts", "silent", "unsure", "models", "by_model"}
    assert result["issued"] == ISSUED.strftime("%Y-%m-%dT%H:%M:%SZ") and result["models"] == dict.fromkeys(KINDS)
    assert result["forecasts"] == len(jobs.forecasts()) == len(HORIZONS_MIN) * result["series"]
    assert sum(result["by_model"].values()) == result["forecasts"]


def test_verify_compares_them(jobs: Jobs) -> None:
    result, series = jobs.verified.result, jobs.predicted.result["series"]
    assert {*result} == {"compared", "waiting", "forecasts", "skill"}
    assert (result["compared"], result["waiting"]) == (6 * series, 0)
    assert jobs.forecasts()["observed"].notna().sum() == result["compared"] == result["forecasts"]
    assert {row["horizon_min"] for row in result["skill"]} == {10, 30, 60, 120, 180, 360}
    assert {"value_type", "n", "mae", "persistence", "daily", "coverage_90", "verdict"} <= {*result["skill"][0]}


@pytest.mark.parametrize(("which", "pictures"), [("predicted", 5), ("verified", 2)])
def test_the_page_has_a_table_and_a_picture_and_no_secret(which: str, pictures: int, jobs: Jobs) -> None:
    run = getattr(jobs, which)
    outputs = shown(run)
    assert any("<table" in text for text in outputs["text/html"])
    assert len(outputs["application/vnd.plotly.v1+json"]) == pictures
    assert SECRET not in run.notebook.read_text() and run.notebook.stat().st_size < 1_000_000


def test_a_store_without_forecasts_is_no_error(tmp_path: Path) -> None:
    at = ISSUED + timedelta(hours=1)
    assert run_job("predict", given(tmp_path, at, "models"), tmp_path / "runs").result["forecasts"] == 0
    result = run_job("verify", given(tmp_path, at, "models"), tmp_path / "runs").result
    assert result == {"compared": 0, "waiting": 0, "forecasts": 0, "skill": []}


@pytest.mark.parametrize("job", ["train", "predict", "verify"])
def test_every_parameter_has_help(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", job, "--parameters", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {*told} == {*parameters_of(find_job(job))}
    assert [name for name, known in told.items() if len(known["help"]) < 10] == []


def test_train_says_which_days_it_would_need(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="needs tensorflow: pip install sensorlib[forecast]")
    (tmp_path / "readings.db").unlink(missing_ok=True)
    with closing(SqliteStore(tmp_path / "readings.db")) as store:
        store.write(judged(said(1, SENSORS), SENSORS))
    told = {
        "source": f"sqlite:///{tmp_path}/readings.db",
        "models": f"{tmp_path}/models",
        "until": "2026-01-16T00:00:00Z",
    }
    with pytest.raises(JobFailed, match="nothing could be trained: temperature: gate_days is 14 of 1 days"):
        run_job("train", told, tmp_path / "runs")
    assert not (tmp_path / "models").exists()


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "Files of a history; what trains on them is small."
    pytest.importorskip("tensorflow", reason="needs tensorflow: pip install sensorlib[forecast]")
    from test_evaluate import write_history
    from test_training import QUICK

    monkeypatch.setattr("sensorlib.network.Recipe", lambda: QUICK)
    write_history(tmp_path / "history", waves(26), "pressure")
    return tmp_path / "history"


def execute(job: str, **parameters: object) -> dict[str, Any]:
    "Run the cells of a job here, where its recipe can be a small one; its names."
    names: dict[str, Any] = {}
    for cell in nbformat.read(find_job(job), as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    return names


def test_train_publishes_what_it_can_and_tells_of_the_rest(history: Path) -> None:
    "Papermill would train three members of full size: the cells are run with a small recipe."
    until, models = "2026-02-10T00:00:00Z", f"{history.parent}/models"
    parameters = {"source": str(history), "models": models, "until": until, "kinds": "pressure, noise", "gate_days": 9}
    names = execute("train", **parameters, days=17, epochs=3)
    assert names["outcome"]["pressure"]["published"] and not names["outcome"]["noise"]["published"]
    assert names["outcome"]["noise"]["reason"] == "noise: no good readings in these days"
    manifest = newest(open_registry(models), "pressure").manifest
    assert manifest.version == names["outcome"]["pressure"]["version"]
    assert names["bar"].n == names["recipe"].turns == 3 and len(names["fig"].data) == 1


def test_train_knows_its_kinds(history: Path) -> None:
    with pytest.raises(SettingError, match="kinds is noize, expected all, or some of temperature"):
        execute("train", source=str(history), kinds="noize")
