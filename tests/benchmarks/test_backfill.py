"""Backfill of a real archive beside a bare read of the same files, its memory, and ten kills.

`python -m pytest tests/benchmarks -k backfill -s` prints wall and CPU seconds, their ratio to the faster of polars and
DuckDB in the same run, the peak memory by number of files, and at how many files each kill came. A bare read gets the
columns of each head and their types; nothing is sniffed, judged or written.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sensorlib.archive import open_files
from sensorlib.backfill import read_manifest

POLARS = """
import sys, json, polars as pl
types = {"sensor_id": pl.Int64, "sensor_type": pl.String, "location": pl.Int64, "timestamp": pl.Datetime}
for head, files in json.load(sys.stdin).items():
    schema = {name: types.get(name, pl.Float64) for name in head.split(";")}
    print(len(pl.scan_csv(files, separator=";", schema=schema).collect()))
"""
DUCKDB = """
import sys, json, duckdb
duckdb.sql("SET enable_progress_bar = false")
types = {"sensor_id": "BIGINT", "sensor_type": "VARCHAR", "location": "BIGINT", "timestamp": "TIMESTAMP"}
for head, files in json.load(sys.stdin).items():
    columns = {name: types.get(name, "DOUBLE") for name in head.split(";")}
    options = f"delim = ';', header = true, auto_detect = false, quote = '', escape = '', columns = {columns!r}"
    print(duckdb.sql(f"SELECT * FROM read_csv({files!r}, {options})").to_arrow_table().num_rows)
"""


@dataclass
class Run:
    "What a process took."

    out: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def measured(command: list[str], given: Path | None = None) -> Run:
    "Run a process to its end."
    began = time.monotonic()
    with subprocess.Popen(command, stdin=given.open() if given else None, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout.read()  # type: ignore[union-attr]
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return Run(out, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def backfill_command(folder: Path, history: Path) -> list[str]:
    return [sys.executable, "-m", "sensorlib.cli", "backfill", str(folder), "--history", str(history), "--json"]


@pytest.fixture(scope="module")
def aberdeen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The archive of Aberdeen, unpacked."
    archive = Path(__file__).resolve().parents[3] / "shared/data/archive/aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    if not archive.exists():
        pytest.skip("the published readings (../shared/data) are not on this machine")
    folder = tmp_path_factory.mktemp("aberdeen")
    for name, data in open_files(archive):
        (folder / Path(name).name).write_bytes(data)
    return folder


def first(folder: Path, count: int, target: Path) -> Path:
    "A folder with so many of the files."
    target.mkdir()
    for path in sorted(folder.iterdir())[:count]:
        os.link(path, target / path.name)
    return target


def test_backfill_against_a_bare_read(aberdeen: Path, tmp_path: Path) -> None:
    heads: dict[str, list[str]] = {}
    for path in sorted(aberdeen.iterdir()):
        with path.open() as file:
            heads.setdefault(file.readline().strip(), []).append(str(path))
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    bare = {
        name: measured([sys.executable, "-c", code], tmp_path / "heads.json")
        for name, code in {"polars": POLARS, "DuckDB": DUCKDB}.items()
    }
    ours = measured(backfill_command(aberdeen, tmp_path / "history"))
    told = json.loads(ours.out)
    assert {sum(map(int, run.out.split())) for run in bare.values()} == {told["records"]}
    fastest = min(bare.values(), key=lambda run: run.wall_s)
    print()
    for name, run in {**bare, "backfill": ours}.items():
        print(f"{name:>10}: {run.wall_s:5.1f} s, {run.cpu_s:5.1f} CPU s, {run.peak_mb:6.0f} MB")
    print(
        f"{'ratio':>10}: {ours.wall_s / fastest.wall_s:.1f} of wall time, {ours.cpu_s / fastest.cpu_s:.1f} of CPU time"
    )
    print(f"{'':>10}  {told['readings'] / ours.cpu_s:,.0f} readings judged and written per CPU second")


def test_backfill_memory_is_flat(aberdeen: Path, tmp_path: Path) -> None:
    peaks = {}
    for count in (1_000, 3_000, 6_825):
        folder = first(aberdeen, count, tmp_path / str(count))
        peaks[count] = measured(backfill_command(folder, tmp_path / f"history {count}")).peak_mb
        print(f"\n{count:>10} files: {peaks[count]:6.0f} MB at most", end="")
    assert peaks[6_825] <= 1.15 * peaks[1_000]


def contents(history: Path) -> dict[str, bytes]:
    "Every part of a history, and the list of its gaps."
    kept: Callable[[Path], bool] = lambda path: path.suffix in (".parquet", ".csv")  # noqa: E731
    return {str(p.relative_to(history)): p.read_bytes() for p in history.rglob("*") if p.is_file() and kept(p)}


def test_backfill_killed_ten_times(aberdeen: Path, tmp_path: Path) -> None:
    whole = measured(backfill_command(aberdeen, tmp_path / "whole"))
    chance, killed = random.Random(2019), []
    while len(killed) < 10:
        with subprocess.Popen(backfill_command(aberdeen, tmp_path / "torn"), stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(1.0, 0.25 * whole.wall_s))
            ended = process.poll() is not None
            process.kill()
        killed.append(len(read_manifest(tmp_path / "torn").done))
        if ended:
            break
    last = measured(backfill_command(aberdeen, tmp_path / "torn"))
    print(f"\n{'killed at':>10}: {killed} files")
    assert {**json.loads(last.out), "skipped": 0} == json.loads(whole.out)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
