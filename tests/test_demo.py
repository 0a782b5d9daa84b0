"""The demo as its user runs it: a command of its own, and what is left when it has ended."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sensorlib import cli
from sensorlib.archive import open_files, read_file
from sensorlib.feed import Answer, merge_records
from sensorlib.store import open_store

MARK = "SENSORLIB_TEST_DEMO"  # every process of a demo has it in its environment


@dataclass
class Demo:
    "A demo that runs, or has run, over one folder."

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        "What it printed on stderr."
        return (self.folder / "err").read_text()

    @property
    def result(self) -> dict[str, Any]:
        "The one JSON object that it printed on stdout."
        (line,) = (self.folder / "out").read_text().splitlines()
        return json.loads(line)

    @property
    def page(self) -> str:
        "Address of its page; empty before it has one."
        found = re.search(r"page: (http://\S+)/", self.said)
        return found[1] if found else ""

    def interrupt(self) -> None:
        "Press Ctrl-C: the terminal sends it to the whole group."
        os.killpg(self.process.pid, signal.SIGINT)

    def ask(self, target: str) -> httpx.Response:
        "Ask the page for something."
        return httpx.get(self.page + target, trust_env=False, timeout=20)

    def stored(self) -> int:
        "Readings that the page tells of; 0 before it answers."
        return self.ask("/status").json().get("stored", 0) if self.page else 0

    def processes(self) -> list[str]:
        "Command lines of its processes, children of children too."
        return [" ".join(p.cmdline())[-200:] for p in psutil.process_iter() if marked(p, self.folder)]


def marked(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(folder)
    except psutil.Error:
        return False


def begin(folder: Path, *words: object) -> Demo:
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "sensorlib.cli",
        "demo",
        "--dir",
        folder / "data",
        "--no-browser",
        "--json",
        *words,
    ]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=err,
            env={**os.environ, MARK: str(folder)},
            process_group=0,
        )
    return Demo(folder, process)


Start = Callable[..., Demo]


@contextmanager
def demos() -> Iterator[Start]:
    "Start demos, and end those that still run when the block is left."
    begun: list[Demo] = []

    def start(folder: Path, *words: object) -> Demo:
        begun.append(begin(folder, *words))
        return begun[-1]

    try:
        yield start
    finally:
        for demo in begun:
            demo.process.terminate()
        for demo in begun:
            demo.process.wait(60)


@pytest.fixture
def start() -> Iterator[Start]:
    with demos() as starting:
        yield starting


def finished(demo: Demo, patience_s: float = 120.0) -> int:
    "Exit code of a demo that ends by itself and leaves nothing running."
    code = demo.process.wait(patience_s)
    wait_until(lambda: not demo.processes(), 5, demo)
    return code


def wait_until(done: Callable[[], object], patience_s: float, demo: Demo) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < deadline, f"still running: {demo.processes()}; it said: {demo.said}"
        time.sleep(0.2)


class Links(HTMLParser):
    "Collects what the tags of a page load or link to."

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [target or "" for name, target in attrs if name in ("src", "href")]


def links_of(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text())
    return links


def values_of(answers: Iterable[Answer]) -> int:
    return sum(len(record["sensordatavalues"]) for found in answers for record in merge_records(found.records))


def on_topics(result: dict[str, Any]) -> int:
    return sum(result["kinds"].values()) + result["other"]


def faults(result: dict[str, Any]) -> dict[str, int]:
    return {name: result[name] for name in ("lost", "duplicates", "dead")}


NO_FAULTS = {"lost": 0, "duplicates": 0, "dead": 0}


def test_a_file_is_replayed_once_however_often_it_is_given(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "city.ndjson"
    assert cli.main(["simulate", "--sensors", "20", "--hours", "1", "--out", str(file)]) == 0
    content = read_file(file.name, file.read_bytes())
    values = values_of([content])

    first = start(tmp_path, "--source", file)
    assert finished(first) == 0, first.said
    told = first.result
    assert (told["fetched"], told["raw"], told["repeated"]) == (len(content.records), len(content.records), 0)
    assert (faults(told), on_topics(told)) == (NO_FAULTS, values)
    assert 0 < told["p50_s"] <= told["p99_s"]
    for page in ("page", "forecasts_page"):
        links = links_of(Path(told[page]))
        assert "script" in links.tags
        assert not [target for target in links.targets if re.match("(https?:)?//", target)]
    assert told["jobs"] == {name: {"runs": 0, "failed": 0, "last": {}} for name in ("predict", "train", "verify")}

    second = start(tmp_path, "--source", file)
    assert finished(second) == 0, second.said
    again = second.result
    assert (again["stored"], again["raw"], again["repeated"]) == (0, 0, values)
    assert faults(again) == NO_FAULTS


def test_published_answers_come_through_whole(start: Start, tmp_path: Path, shared_data: Path) -> None:
    names = (
        "odd/truncated_2017-08-10_data.json.gz",
        "api/2019-04-16_mongoexport_data.ndjson.gz",
        "api/2017-10-29_sensor_2125_2126_polls.tar.zst",
    )
    files = [shared_data / name for name in names]
    answers = [read_file(name, data) for file in files for name, data in open_files(file)]
    demo = start(tmp_path, "--source", *files)
    assert finished(demo) == 0, demo.said
    told = demo.result
    assert told["fetched"] == sum(len(found.records) for found in answers)
    assert (faults(told), on_topics(told) + told["repeated"]) == (NO_FAULTS, values_of(answers))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Demo]]:
    "Three demos beside each other, each with readings in its store."
    with demos() as start:
        folders = [tmp_path_factory.mktemp("beside") for _ in range(3)]
        begun = [start(folder, "--source", "simulate", "--sensors", 50) for folder in folders]
        for demo in begun:
            wait_until(lambda demo=demo: demo.stored() or demo.process.poll() is not None, 180, demo)
            assert demo.process.poll() is None, demo.said
        yield begun


def test_a_part_that_dies_ends_the_demo_and_is_named(three: list[Demo]) -> None:
    demo = three[1]
    (collect,) = (p for p in psutil.Process(demo.process.pid).children() if "collect" in p.cmdline())
    collect.kill()
    assert finished(demo, 60) == 1
    assert "sensorlib demo: collect ended with code -9" in demo.said
    assert "Traceback" not in demo.said


def test_a_killed_demo_takes_its_parts_along(three: list[Demo]) -> None:
    demo = three[2]
    assert len(demo.processes()) >= 6
    demo.process.kill()
    demo.process.wait()
    wait_until(lambda: not demo.processes(), 40, demo)


def test_ctrl_c_ends_a_demo_in_order_and_keeps_the_data(three: list[Demo]) -> None:
    demo = three[0]
    pages = [demo.ask(target) for target in ("/", "/figure/map?value_type=P2")]
    assert [page.status_code for page in pages] == [200, 200]
    wait_until(lambda: "predict" in demo.said or (demo.folder / "data" / "logs" / "predict.log").exists(), 60, demo)
    forecast = demo.ask("/forecast?dark=1")
    assert (forecast.status_code, forecast.text.startswith("<h2>Forecasts</h2>")) == (200, True)
    demo.interrupt()
    assert finished(demo, 60) == 0, demo.said
    assert faults(demo.result) == NO_FAULTS
    assert {name: sorted(told) for name, told in demo.result["jobs"].items()} == {
        name: ["failed", "last", "runs"] for name in ("predict", "train", "verify")
    }
    store = open_store(f"sqlite:///{demo.folder / 'data' / 'readings.db'}")
    assert sum(store.counts().values()) == demo.result["stored"] > 0
    now = datetime.now(UTC)
    rows = store.completeness(now - timedelta(hours=2), now)
    assert rows["received"].sum() == demo.result["raw"]
    store.close()


@pytest.mark.parametrize("moment", ["", "starting stream and collector"])
def test_ctrl_c_while_starting_ends_everything(start: Start, tmp_path: Path, moment: str) -> None:
    demo = start(tmp_path, "--source", "simulate")
    wait_until(lambda: moment in demo.said, 60, demo)
    time.sleep(2)
    demo.interrupt()
    assert finished(demo, 30) == 1
    assert "sensorlib demo: stopped" in demo.said
    assert "Traceback" not in demo.said
