"""The jobs of the local system: when they run, what becomes of them, and that nothing is left of them."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import psutil
import pytest

from sensorlib import local
from sensorlib.core import Reading, Settings
from sensorlib.local import TRAIN_DAYS, Schedule, lacking, model_note, newest_issue, next_predict
from sensorlib.rows import FORECAST_COLUMNS
from sensorlib.store import open_store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARK = "SENSORLIB_TEST_JOB"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[SimpleNamespace]:
    "What a schedule needs of a local system: a folder, settings and a store."
    settings = Settings(store=f"sqlite:///{tmp_path / 'readings.db'}", models=str(tmp_path / "models"))
    store = open_store(settings.store)
    yield SimpleNamespace(folder=tmp_path, settings=settings, store=store)
    store.close()


def program(text: str) -> list[str]:
    "A job that is this much Python; `name` is the job."
    return [sys.executable, "-c", f"import os, sys, time\nname = sys.argv[2]\n{text}"]


def follow(jobs: Schedule, now: datetime, done: Callable[[], object], patience_s: float = 60) -> None:
    "Let a schedule work at one moment until something is done."
    deadline = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < deadline, jobs.told()
        jobs.step(now, stored=1)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("began", "issued", "due"),
    [(3, None, 4), (3, 0, 11), (11, 0, 12), (11, 10, 21), (12.5, None, 13.5), (13, None, 21), (20.5, 10, 21), (30.9, 30, 31)],
)  # fmt: skip
def test_a_forecast_is_due_every_minute_until_one_is_fresh_then_every_ten(began: float, issued: int | None, due: float) -> None:  # fmt: skip
    known = None if issued is None else NOON + minutes(issued)
    assert next_predict(NOON + minutes(began), NOON + minutes(3), known) == NOON + minutes(due)


def test_newest_forecast_is_found_by_what_was_said_a_day_ahead(system: SimpleNamespace) -> None:
    assert newest_issue(system.store, NOON + minutes(3)) is None
    value = dict.fromkeys(("p05", "p25", "p50", "p75", "p95"), 1.0)
    rows = [
        {
            "sensor_id": 1,
            "value_type": "P2",
            "ts": NOON + minutes(h - ago),
            "horizon_min": h,
            "model": "damped",
            **value,
        }
        | {"issued": NOON - minutes(ago)}
        for h in (10, 1440)
        for ago in (0, 10)
    ]
    frame = pd.DataFrame(rows).reindex(columns=list(FORECAST_COLUMNS))
    system.store.write_forecasts(frame)
    assert newest_issue(system.store, NOON + minutes(9)) == NOON
    assert newest_issue(system.store, NOON + minutes(45)) is None


def test_nothing_runs_before_readings_came(system: SimpleNamespace) -> None:
    with Schedule(system, print, program("print('{}')")) as jobs:
        jobs.step(NOON, stored=0)
        assert (jobs.next_run, jobs.running) == (None, None)
        jobs.step(NOON, stored=1)
        assert (jobs.next_run, jobs.running) == (NOON + timedelta(seconds=20), None)


def test_one_job_runs_at_a_time_and_verify_follows_predict(system: SimpleNamespace) -> None:
    log = system.folder / "order"
    text = f"""with open({str(log)!r}, 'a') as f:
    print(name, 'begins', *sys.argv[3:], file=f, flush=True); time.sleep(0.2); print(name, 'ends', file=f)
print('{{"by": "%s"}}' % name)"""
    with Schedule(system, print, program(text)) as jobs:
        jobs.step(NOON, stored=1)
        follow(jobs, NOON + minutes(1), lambda: jobs.tallies["verify"].runs)
        assert [line.split()[:2] for line in log.read_text().splitlines()] == [
            ["predict", "begins"], ["predict", "ends"], ["verify", "begins"], ["verify", "ends"],
        ]  # fmt: skip
        assert jobs.next_run == NOON + minutes(2)
    assert f"-p store {system.settings.store} -p models {system.settings.models}" in log.read_text()
    assert jobs.told()["verify"] == {"runs": 1, "failed": 0, "last": {"by": "verify"}}
    assert jobs.told()["train"] == {"runs": 0, "failed": 0, "last": {}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "sys.exit('sensorlib run: job predict failed in cell 3: no such table, %f' % time.time())",
            "job predict failed in cell 3",
        ),
        ("print('no result')", "ended with code 0 and without a result"),
        ("os.kill(os.getpid(), 9)", "ended with code -9"),
    ],
)
def test_a_job_that_fails_is_told_once_and_tried_again(system: SimpleNamespace, text: str, says: str) -> None:
    said: list[str] = []
    with Schedule(system, said.append, program(text)) as jobs:
        jobs.step(NOON, stored=1)
        for turn in (1, 2, 3):
            follow(jobs, NOON + minutes(2 * turn), lambda turn=turn: jobs.tallies["predict"].runs == turn)
        assert (len(said), len(jobs.troubles()), says in said[0], says in jobs.troubles()[0]) == (1, 1, True, True)
        assert (jobs.tallies["predict"].failed, jobs.tallies["verify"].runs) == (3, 0)
        jobs.program = program("print('{}')")
        follow(jobs, NOON + minutes(8), lambda: jobs.tallies["predict"].runs == 4)
        assert jobs.troubles() == []


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[int]]:
    "Processes that were started by this test."
    monkeypatch.setenv(MARK, str(tmp_path))

    def found() -> list[int]:
        pids = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE:
                    pids.append(process.pid)
            except psutil.Error:
                continue
        return sorted({*pids} - {os.getpid()})

    return found


def gone(marked: Callable[[], list[int]], patience_s: float = 10) -> bool:
    deadline = time.monotonic() + patience_s
    while marked() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not marked()


def test_the_end_takes_what_a_job_started_along(system: SimpleNamespace, marked: Callable[[], list[int]]) -> None:
    text = "import subprocess\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)"
    with Schedule(system, print, program(text)) as jobs:
        jobs.step(NOON, stored=1)
        follow(jobs, NOON + minutes(1), lambda: len(marked()) == 2)
    assert gone(marked)
    assert jobs.told()["predict"]["runs"] == 0


def test_what_a_job_leaves_behind_ends_with_it(system: SimpleNamespace, marked: Callable[[], list[int]]) -> None:
    text = "import subprocess\nsubprocess.Popen(['sleep', '60'])\nprint('{}')"
    with Schedule(system, print, program(text)) as jobs:
        jobs.step(NOON, stored=1)
        follow(jobs, NOON + minutes(1), lambda: jobs.tallies["predict"].runs)
    assert gone(marked)


def write_job(folder: Path, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / name)


@pytest.fixture
def command_line(tmp_path: Path) -> list[str]:
    "The real command line, over a folder of tiny jobs."
    pytest.importorskip("papermill", reason="needs papermill to run a job")
    (folder := tmp_path / "nbs").mkdir()
    told = 'store = ""  # URL\nmodels = ""  # Folder'
    write_job(folder, "21_predict.ipynb", told, "from sensorlib.jobs import Result\nResult(store=store, models=models)")
    write_job(folder, "22_verify.ipynb", told, "import time\ntime.sleep(60)")
    script = tmp_path / "cli.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom sensorlib import cli, jobs\n"
        f"jobs.job_folder = lambda: Path({str(folder)!r})\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    return [sys.executable, str(script)]


def test_real_jobs_run_keep_their_notebook_and_leave_no_kernel(
    system: SimpleNamespace, command_line: list[str], marked: Callable[[], list[int]]
) -> None:
    with Schedule(system, print, command_line) as jobs:
        jobs.step(NOON, stored=1)
        follow(jobs, NOON + minutes(1), lambda: jobs.tallies["predict"].runs)
        assert jobs.tallies["predict"].last == {"store": system.settings.store, "models": system.settings.models}
        assert len(list((system.folder / "runs" / "predict").glob("*.ipynb"))) == 1
        follow(jobs, NOON + minutes(1), lambda: len(marked()) == 2)  # the job and its kernel
    assert gone(marked)


def test_without_papermill_the_demo_says_once_what_to_install(
    system: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"papermill", "onnxruntime"}
    monkeypatch.setattr(local, "find_spec", lambda name: None if name in absent else ModuleSpec(name, None))
    said: list[str] = []
    with Schedule(system, said.append, program("print('{}')")) as jobs:
        for second in range(100):
            jobs.step(NOON + timedelta(seconds=second), stored=1)
        assert (jobs.running, jobs.next_run, jobs.note) == (None, None, said[0])
    assert said == ["Forecasts need papermill and onnxruntime: pip install 'sensorlib[predict]'."]
    absent.clear()
    assert lacking() == ""


def test_training_waits_for_enough_days_and_comes_once_a_day(
    system: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_spec", lambda name: ModuleSpec(name, None))
    days = [NOON - timedelta(days=back) for back in range(TRAIN_DAYS)]
    system.store.write([Reading(1, day, "noise", "noise_LAeq", 50.0) for day in days[1:]])
    jobs = Schedule(system, print, program("print('{}')"))
    jobs.step(NOON, stored=1)
    assert ("train" in jobs.due, f"the store has {TRAIN_DAYS - 1}" in jobs.note) == (False, True)
    system.store.write([Reading(1, NOON, "noise", "noise_LAeq", 50.0)])
    before = system.folder / "runs" / "train" / "20260228T130000000001Z.failed.ipynb"
    before.parent.mkdir(parents=True)
    before.touch()
    follow(jobs, NOON + minutes(1), lambda: jobs.tallies["predict"].runs)
    assert jobs.due["train"] == NOON + minutes(60) + timedelta(microseconds=1)
    follow(jobs, NOON + minutes(61), lambda: jobs.tallies["train"].runs)
    jobs.stop()


def test_the_note_says_what_a_model_waits_for() -> None:
    notes = [
        model_note(TRAIN_DAYS, False, False),
        model_note(3, False, True),
        model_note(TRAIN_DAYS, False, True, NOON),
        model_note(TRAIN_DAYS, False, True),
        model_note(TRAIN_DAYS, False, True, NOON, "no room on the disk"),
    ]
    words = [
        "TensorFlow is not",
        "the store has 3",
        "begins at 2026-03-01 12:00",
        "being trained",
        "no room on the disk",
    ]
    assert [word in note for word, note in zip(words, notes, strict=True)] == [True] * 5
    assert model_note(0, True, False) == ""


def test_days_to_train_are_those_that_the_network_wants() -> None:
    network = pytest.importorskip("sensorlib.network", reason="needs Keras")
    recipe = network.Recipe()
    assert recipe.folds * recipe.block_days + 14 == TRAIN_DAYS


def test_what_a_schedule_tells_is_json(system: SimpleNamespace) -> None:
    told = Schedule(system, print).told()
    assert json.loads(json.dumps(told)) == told
    assert list(told) == ["predict", "train", "verify"]
