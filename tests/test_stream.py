"""The same SQL over files, in batch mode, on the real Flink."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sensorlib.core import SensorlibError
from sensorlib.feed import measurements
from sensorlib.places import enrich
from sensorlib.quality import judge
from sensorlib.simulate import FAULTS, inject, make_city, records
from sensorlib.stream import run_batch

KEY = ["sensor_id", "value_type", "ts"]


def spoilt_hour() -> list[dict[str, Any]]:
    noon = datetime(2026, 1, 15, 12, tzinfo=UTC)
    made = records(make_city(60, seed=2), noon, noon.replace(hour=13))
    return [enrich(record, "2026-06-01T00:00:00Z") for record in inject(made, list(FAULTS), seed=2, share=0.2)[0]]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    "Records that went in as a file with three bad lines, and every row that came out."
    folder, made = tmp_path_factory.mktemp("batch"), spoilt_hour()
    lines = [json.dumps(record) for record in made] + ["<html>", "[1]", '{"id": 3}']
    (folder / "raw.ndjson").write_text("\n".join(lines) + "\n")
    command = [
        sys.executable,
        "-m",
        "sensorlib.cli",
        "stream",
        "--batch",
        folder / "raw.ndjson",
        "--out",
        folder / "out",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    parts = [
        (p.parent.name.removeprefix("topic="), line) for p in (folder / "out").glob("*/part-*") for line in p.open()
    ]
    return made, pd.DataFrame([{"topic": topic, **json.loads(line)} for topic, line in parts])


def test_batch_judges_as_python_does(batch: tuple[list[dict[str, Any]], pd.DataFrame]) -> None:
    made, rows = batch
    python = judge(measurements(made)).sort_values(KEY).reset_index(drop=True)
    flink = rows[rows["qc"].notna()].assign(ts=lambda r: pd.to_datetime(r["ts"], utc=True)).sort_values(KEY)
    assert flink["qc"].astype(int).tolist() == python["qc"].tolist()
    assert flink["value"].tolist() == python["value"].tolist()
    assert set(python["qc"]) > {0}


def test_batch_buries_what_is_no_record(batch: tuple[list[dict[str, Any]], pd.DataFrame]) -> None:
    _, rows = batch
    dead = rows[rows["topic"] == "sensor.dead"]
    assert sorted(dead["reason"]) == ["no_values", "not_json", "not_json"]


def test_batch_without_input_says_so(tmp_path: Path) -> None:
    with pytest.raises(SensorlibError, match=r"no such file or folder: .*nowhere"):
        run_batch(tmp_path / "nowhere", tmp_path / "out")
