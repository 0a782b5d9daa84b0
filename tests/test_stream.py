"""The same SQL over files, in batch mode, on the real Flink; and that neither threads nor other processes disturb its start."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from py4j import java_gateway
from pyflink.java_gateway import get_gateway

from sensorlib import stream
from sensorlib.archive import open_files, read_file
from sensorlib.core import SensorlibError
from sensorlib.feed import in_order, measurements, merge_records
from sensorlib.places import enrich
from sensorlib.quality import FLAGS, flag_names, judge
from sensorlib.simulate import ARRIVALS, EPISODES, FAULTS, inject, make_city, records
from sensorlib.stream import run_batch

KEY = ["sensor_id", "value_type", "ts", "record_id", "value", "qc"]


def spoilt_day() -> list[dict[str, Any]]:
    "Half a day of a city with every fault, polled every minute; what is late is fetched late."
    start = datetime(2026, 4, 15, tzinfo=UTC)
    made = records(make_city(40, seed=17), start, start + timedelta(hours=12))
    fetched, now = [], ""
    for record in inject(made, [*FAULTS, *EPISODES, *ARRIVALS], seed=17, share=0.2)[0]:
        now = max(now, record["timestamp"].replace(" ", "T")[:16] + ":59Z")
        fetched.append(enrich(record, now))
    return sorted(in_order(fetched), key=lambda record: record["fetched_at"])


def odd_ends() -> list[dict[str, Any]]:
    "Records with a text that ends in what Java takes for the end of a line."
    made = []
    for number, end in enumerate(["\n", "\r", "\r\n", "\u0085", "\u2028", "\u2029"], 1):
        sensor = {"id": 800_000 + number, "sensor_type": {"name": "SDS011"}}
        values = [{"value_type": "P1", "value": "12"}, {"value_type": "P2", "value": "3" + end}]
        good = {"id": number, "timestamp": "2026-04-15 06:00:00", "sensor": sensor, "sensordatavalues": values}
        wrong = [{"id": f"{number}{end}"}, {"timestamp": good["timestamp"] + end}, {"sensor": {"id": f"5{end}"}}]
        made += [enrich({**good, **change}, "2026-04-15T12:00:00Z") for change in wrong]
    return made


def run_on(folder: Path, lines: list[str]) -> pd.DataFrame:
    "Every row that the command makes of a file."
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
    return pd.DataFrame([{"topic": topic, **json.loads(line)} for topic, line in parts])


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    "Records that went in as a file with five bad lines, and every row that came out."
    made = spoilt_day() + odd_ends()
    lines = [json.dumps(record) for record in made] + [
        "<html>",
        "[1]",
        '{"id": 3}',
        '{"id": 4}}]',
        '{"id": 5}, "a": 1}], 2',
    ]
    return made, run_on(tmp_path_factory.mktemp("batch"), lines)


def assert_same_verdicts(made: list[dict[str, Any]], rows: pd.DataFrame) -> set[str]:
    "Compare reading by reading; give back the names of all flags that were seen."
    python = judge(measurements(made)).sort_values(KEY, ignore_index=True)
    flink = rows[rows["qc"].notna()].assign(ts=lambda r: pd.to_datetime(r["ts"], utc=True)).sort_values(KEY)
    assert flink["value"].tolist() == python["value"].tolist()
    assert flink["qc"].astype(int).tolist() == python["qc"].tolist()
    return {name for qc in python["qc"].unique() for name in flag_names(qc)}


def test_batch_judges_a_day_with_every_fault_as_python_does(batch: tuple[list[dict[str, Any]], pd.DataFrame]) -> None:
    assert assert_same_verdicts(*batch) == {*FLAGS}


def test_batch_judges_real_readings_as_python_does(tmp_path: Path, shared_data: Path) -> None:
    snapshot = shared_data / "api" / "2017-08-10_world_data.json.gz"
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    week = [f"2018-11-{day:02}" for day in range(5, 12)]
    files = {
        "2017-08-10T12:00:00Z": list(open_files(snapshot)),
        "2018-11-12T00:00:00Z": [(name, data) for name, data in open_files(archive) if Path(name).name[:10] in week],
    }
    made = [
        enrich(record, fetched_at)
        for fetched_at, found in files.items()
        for record in in_order(r for name, data in found for r in merge_records(read_file(name, data).records))
    ]
    flags = assert_same_verdicts(made, run_on(tmp_path, [json.dumps(record) for record in made]))
    assert flags >= {"range", "code", "stuck", "spike", "neighbours", "relation", "humid", "short", "alone"}


def test_batch_buries_what_is_no_record(batch: tuple[list[dict[str, Any]], pd.DataFrame]) -> None:
    _, rows = batch
    dead = rows[rows["topic"] == "sensor.dead"]
    buried = {"no_values": 3, "not_json": 4, "value": 6, "time": 12, "sensor_id": 12}
    assert dead["reason"].value_counts().to_dict() == buried


def test_batch_without_input_says_so(tmp_path: Path) -> None:
    with pytest.raises(SensorlibError, match=r"no such file or folder: .*nowhere"):
        run_batch(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_other_thread_takes_ours_of_java_while_the_job_is_defined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define, free, freed_in = stream.statements, java_gateway._garbage_collect_object, []

    def freeing(*words: Any) -> None:
        freed_in.append(threading.current_thread().name)
        free(*words)

    def beside_another(tables: Mapping[str, str]) -> tuple[list[str], list[str]]:
        "Leave an object of Java as garbage, then need memory in another thread."
        ring: list[Any] = [get_gateway().jvm.java.util.ArrayList()]
        ring.append(ring)
        del ring
        other = threading.Thread(target=lambda: [[] for _ in range(10_000)], name="other")
        other.start()
        other.join()
        return define(tables)

    monkeypatch.setattr(java_gateway, "_garbage_collect_object", freeing)
    monkeypatch.setattr(stream, "statements", beside_another)
    (tmp_path / "raw.ndjson").write_text("[1]\n")
    run_batch(tmp_path / "raw.ndjson", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*/part-*"))) == 1
    assert "other" not in freed_in and "MainThread" in freed_in


def test_many_processes_find_the_jars_at_once() -> None:
    asking = "from sensorlib.stream import fetch_jars\nfor _ in range(10):\n    fetch_jars('connector')"
    begun = [subprocess.Popen([sys.executable, "-c", asking]) for _ in range(4)]
    assert [process.wait(120) for process in begun] == [0] * 4
