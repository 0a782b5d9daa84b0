"""What the README says, done: its commands one after the other in one folder, as somebody would who reads it."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from cities import START, judged, said
from influx import needed_influxd, running_influxd
from test_backfill import day_file, put

from sensorlib import cli
from sensorlib.jobs import checked, find_job, parameters_of
from sensorlib.sqlite import SqliteStore

README = (Path(__file__).parents[1] / "README.md").read_text()


def commands(chapter: str) -> list[str]:
    "Commands of a chapter, without what is said of them."
    text = README.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines()]


def do(command: str, folder: Path, **settings: str) -> str:
    "Run a command in a folder; what it says on stdout."
    words = [sys.executable, "-m", "sensorlib.cli", *shlex.split(command)[1:]]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SENSORLIB_")} | settings
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:^|`)sensorlib (\w+)", README, re.MULTILINE))))
def test_each_command_of_the_page_is_there(name: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0


def test_judging_files_and_asking_what_is_wrong(tmp_path: Path) -> None:
    for command in commands("Judge files"):
        told = do(command, tmp_path)
    assert told.splitlines()[0] in README, "the counts that the page shows are those that the command prints"
    for command in commands("What is wrong with my sensor?"):
        do(command, tmp_path)
    assert {"city.ndjson", "truth.csv", "readings.parquet", "health.html"} <= {file.name for file in tmp_path.iterdir()}


def test_keeping_years(tmp_path: Path) -> None:
    days = [f"2018-{month:02}-01" for month in range(1, 13)]
    put(tmp_path / "2018", {f"{day}_sds011_sensor_{n}.csv": day_file(day, n) for day in days for n in range(1, 4)})
    *local, setup = commands("Keep years of it")
    for command in local:
        do(command, tmp_path)
    hours = pd.read_parquet(tmp_path / "hours.parquet")
    assert len(hours) == len(days) * 3 * 2 * 7
    assert int(hours["count"].sum()) == len(days) * 3 * 2 * 40
    assert setup.startswith("sensorlib setup")


def test_setting_influxdb_up(tmp_path: Path) -> None:
    with running_influxd(needed_influxd(), tmp_path / "influxd", set_up=False) as server:
        command = commands("Keep years of it")[-1]
        command = command.replace("HOST:8086", server.address.removeprefix("http://")).replace(
            "org=ORG", f"org={server.org}"
        )
        do(command, tmp_path, SENSORLIB_INFLUX_TOKEN=server.token)
    assert {file.suffix for file in (tmp_path / "tokens").iterdir()} == {".token"}


def test_forecasting(tmp_path: Path) -> None:
    "Predict, verify and models are run; what trains is asked whether it would take these words."
    now = datetime.now(UTC)
    made = said(1.5, 4).assign(ts=lambda frame: frame["ts"] + (now - START - timedelta(days=1.5)))
    with closing(SqliteStore(tmp_path / "years.db")) as store:
        store.write(judged(made, 4))
    for command in commands("Forecast"):
        words = shlex.split(command)[1:]
        asked = cli._parser().parse_args(words)
        if asked.command == "run":
            checked(asked.job, parameters_of(find_job(asked.job)), dict(asked.given))
        if words[:2] != ["run", "train"] and asked.command != "evaluate":
            told = do(command, tmp_path)
            assert told
    with closing(SqliteStore(tmp_path / "years.db")) as store:
        assert len(store.forecasts("temperature", now, now + timedelta(days=2))) > 0


ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "k8s").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_targets_of_every_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE)) <= targets


def test_the_operators_page_names_the_secrets_that_the_script_makes() -> None:
    told = set(re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|", (ROOT / "k8s" / "README.md").read_text(), re.MULTILINE))
    made = set(re.findall(r"^  make_secret ([\w-]+) (\w+)$", (ROOT / "k8s" / "minikube").read_text(), re.MULTILINE))
    assert told == made
