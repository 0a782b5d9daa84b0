"""Jobs: what is given is checked, what comes out is one object and a page, and nothing is left behind."""

import json
import math
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sensorlib import cli, jobs
from sensorlib.core import JobFailed, SettingError
from sensorlib.jobs import Result, job_folder, parameters_of, run_job, secrets_of

PARAMETERS = """
days = 3  # days of history
share = 0.5  # of the stations
fast = False  # skip the slow part
kinds = ["noise"]  # what to do
shifts = []
store: str = "sqlite:///a#b"  # where from
name = (
    "two"
    " lines"
)  # of text
"""
ECHO = "Result(days=days, share=share, fast=fast, kinds=kinds, shifts=shifts, store=store, name=name)"
DEFAULTS = {
    "days": 3,
    "share": 0.5,
    "fast": False,
    "kinds": ["noise"],
    "shifts": [],
    "store": "sqlite:///a#b",
    "name": "two lines",
}
RUNNER = """
import sys
from pathlib import Path
from sensorlib import cli, jobs
jobs.job_folder = lambda: Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""
SLEEP = "Path(sign).write_text(str(os.getpid()))\nprint('asleep', flush=True)\ntime.sleep(120)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    "A folder for job notebooks, which holds one that echoes its parameters."
    (made := tmp_path / "nbs").mkdir()
    write_job(made, "echo", ECHO, parameters=PARAMETERS)
    return made


def write_job(folder: Path, name: str, *sources: str, parameters: str = 'sign = ""  # file to write') -> Path:
    "Write a job notebook: parameters, imports, and these cells."
    imports = "import os, sys, time\nfrom pathlib import Path\nfrom sensorlib.jobs import Result"
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, imports, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    path = folder / f"20_{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def start(folder: Path, *words: object, **env: str) -> subprocess.Popen[str]:
    "Start `sensorlib run` over a folder of jobs."
    command = [sys.executable, "-c", RUNNER, folder, "run", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        list(map(str, command)), cwd=folder.parent, env={**os.environ, **env}, stdout=pipe, stderr=pipe, text=True
    )


def asleep(folder: Path, *words: object) -> tuple[subprocess.Popen[str], int]:
    "Start a job that sleeps; the process and the id of its kernel."
    sign = folder.parent / "sign"
    sign.unlink(missing_ok=True)
    write_job(folder, "sleep", SLEEP, "Result()")
    child = start(folder, "sleep", "-p", "sign", sign, *words)
    deadline = time.monotonic() + 60
    while not (sign.exists() and sign.read_text()):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.02)
    return child, int(sign.read_text())


def gone(process: int, patience_s: float = 15.0) -> bool:
    "Whether a process ends in time."
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def names(place: Path) -> list[str]:
    "Endings of the notebooks of a job, oldest first, without their times."
    return [path.name.split(".", 1)[1] for path in sorted(place.glob("*.ipynb"))]


def test_parameters_are_read_with_their_types_and_help(folder: Path) -> None:
    known = parameters_of(folder / "20_echo.ipynb")
    assert {name: p.default for name, p in known.items()} == DEFAULTS
    assert [p.help for p in known.values()] == [
        "days of history",
        "of the stations",
        "skip the slow part",
        "what to do",
        "",
        "where from",
        "of text",
    ]


def test_a_run_gives_the_object_and_the_page(folder: Path, tmp_path: Path) -> None:
    given = {"days": "7", "share": "1", "fast": "TRUE", "kinds": '["noise", "humidity"]', "shifts": "[1]", "name": "-x"}
    done = run_job("echo", given, tmp_path / "{runs}", folder)
    expected = {"days": 7, "share": 1.0, "fast": True, "kinds": ["noise", "humidity"], "shifts": [1], "name": "-x"}
    assert done.result == DEFAULTS | expected
    page = nbformat.read(done.notebook, as_version=4)
    assert page.cells[1].metadata.tags == ["injected-parameters"] and page.metadata.papermill.exception is None
    assert names(tmp_path / "{runs}" / "echo") == ["ipynb"]


def test_what_is_not_given_keeps_its_default(folder: Path, tmp_path: Path) -> None:
    assert run_job("echo", {"days": 4}, tmp_path / "runs", folder).result == DEFAULTS | {"days": 4}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("days", "3.5", "expected int such as 3: days of history"),
        ("days", True, "expected int"),
        ("days", "", "expected int"),
        ("share", "nan", "expected float"),
        ("share", "half", "expected float such as 0.5: of the stations"),
        ("fast", "1", "expected bool such as false"),
        ("kinds", "noise", "expected list such as"),
        ("kinds", "[1]", "expected list"),
        ("kinds", '{"a": 1}', "expected list"),
        ("store", 5, "expected str"),
        ("dayz", "3", "did you mean days?"),
        ("colour", "red", "has no parameter 'colour'. It has:"),
        ("influx_token", "x", "secrets come from the environment"),
        ("store", "influxdb://ann:hunter2@host", "holds a secret"),
        ("store", "influxdb://host?token=hunter2", "holds a secret"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    folder: Path, tmp_path: Path, name: str, value: object, says: str
) -> None:
    with pytest.raises(SettingError) as refused:
        run_job("echo", {name: value}, tmp_path / "runs", folder)
    assert says in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_parameter_is_answered_with_those_there_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as refused:
        run_job("echo", {"dayz": "3"}, tmp_path / "runs", folder)
    lines = str(refused.value).splitlines()
    assert len(lines) == 1 + len(DEFAULTS)
    assert lines[1].split() == ["days", "=", "3", "days", "of", "history"]


@pytest.mark.parametrize(
    "source",
    [
        "b = a",
        "a, b = 1, 2",
        "a = b = 1",
        "a = None",
        "a = {}",
        "a = 1 + 1",
        "import os",
        "a += 1",
        "a: int",
        "api_key = ''",
    ],
)
def test_parameters_are_plain_literals(folder: Path, source: str) -> None:
    with pytest.raises(SettingError, match=r"20_wrong\.ipynb has"):
        parameters_of(write_job(folder, "wrong", parameters=f"first = 1\n{source}"))


def test_a_job_has_one_cell_of_parameters(folder: Path) -> None:
    path = write_job(folder, "none")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(SettingError, match="has 0 cells tagged 'parameters', expected one"):
        parameters_of(path)


def test_an_unknown_job_is_answered_with_those_there_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no job 'eco', expected echo"):
        run_job("eco", {}, tmp_path, folder)


def test_a_failed_run_says_where_and_keeps_its_page(folder: Path, tmp_path: Path) -> None:
    write_job(folder, "fail", "print('so far')", "raise ValueError('no readings')", "Result()")
    with pytest.raises(JobFailed, match=r"job fail failed in cell 4: ValueError: no readings; its notebook") as failed:
        run_job("fail", {}, tmp_path / "runs", folder)
    page = Path(str(failed.value).rsplit(": ", 1)[1])
    assert page.name.endswith(".failed.ipynb") and "so far" in page.read_text()
    assert names(tmp_path / "runs" / "fail") == ["failed.ipynb"]


@pytest.mark.parametrize("last", ["{'a': 1}", "Result(a=1)\nNone"])
def test_a_job_without_a_result_has_failed(folder: Path, tmp_path: Path, last: str) -> None:
    write_job(folder, "mute", last)
    with pytest.raises(JobFailed, match="shows 0 results, expected its last cell to end in one Result"):
        run_job("mute", {}, tmp_path / "runs", folder)


def test_a_kernel_that_dies_has_failed(folder: Path, tmp_path: Path) -> None:
    write_job(folder, "die", "os.kill(os.getpid(), 9)", "Result()")
    with pytest.raises(JobFailed, match=r"job die failed: DeadKernelError"):
        run_job("die", {}, tmp_path / "runs", folder)
    assert names(tmp_path / "runs" / "die") == ["failed.ipynb"]


def test_results_are_json_whatever_the_job_measured() -> None:
    import numpy as np
    import pandas as pd

    result = Result(
        a=math.nan,
        b=np.float32(0.5),
        c=np.int64(3),
        d=pd.Timestamp("2026-01-01", tz="UTC"),
        e=np.arange(2),
        f=Path("g"),
    )
    plain = result._repr_json_()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert (plain["a"], plain["b"], plain["c"], plain["e"], plain["f"]) == (None, 0.5, 3, [0, 1], "g")
    assert plain["d"].startswith("2026-01-01T00:00:00")
    with pytest.raises(TypeError, match="a complex cannot be part of a result"):
        Result(a=1j)._repr_json_()


def test_the_newest_notebooks_are_kept(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "runs" / "echo"
    place.mkdir(parents=True)
    for n in range(5):
        (place / f"2026010{n}T000000000000Z.ipynb").write_text("{}")
    done = run_job("echo", {}, tmp_path / "runs", folder, keep=3)
    left = sorted(path.name for path in place.glob("*.ipynb"))
    assert left == ["20260103T000000000000Z.ipynb", "20260104T000000000000Z.ipynb", done.notebook.name]


def test_secrets_of_the_environment_are_found(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file-1\n")
    env = {
        "SENSORLIB_INFLUX_TOKEN": "influx-token-1",
        "SENSORLIB_INFLUX_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_SECRET_ACCESS_KEY": "amazon-secret",
        "SENSORLIB_REDIS_URL": "redis://:redis-password@host:1/0",
        "TOKENIZERS_PARALLELISM": "not-a-secret",
        "DB_PASSWORD": "short",
        "KEYBOARD": "not-a-secret",
    }
    assert secrets_of(env) == {"influx-token-1", "from-a-file-1", "amazon-secret", "redis-password"}


def test_no_secret_reaches_what_is_kept_or_printed(folder: Path, tmp_path: Path) -> None:
    token, told = 'to"ken/é=1234', tmp_path / "told"
    told.write_text("line-one-1234\nline-two-1234\n")
    leak = "secrets = [os.environ['MY_TOKEN'], *Path(os.environ['MY_TOKEN_FILE']).read_text().split()]"
    show = "print(secrets, *secrets)\nprint(*secrets, file=sys.stderr)\nsecrets"
    write_job(folder, "leak", leak, show, "Result(all=secrets, one=secrets[0])")
    write_job(folder, "burst", leak, show, "raise ValueError(secrets[0] + secrets[1])")
    for job in ("leak", "burst"):
        child = start(folder, job, "--json", MY_TOKEN=token, MY_TOKEN_FILE=str(told))
        out, err = child.communicate()
        assert child.returncode == (job == "burst"), err
        kept = [path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
        assert any("***" in text for text in kept) and "***" in err
        for secret in (token, json.dumps(token)[1:-1], "line-one-1234", "line-two-1234"):
            assert [text for text in (*kept, out, err) if secret in text] == []


def test_the_home_of_the_user_does_not_matter(folder: Path, tmp_path: Path) -> None:
    startup = tmp_path / "home" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("days = 99\nraise SystemExit")
    write_job(folder, "home", "Result(known='days' in globals())")
    child = start(folder, "home", "--json", HOME=str(tmp_path / "home"))
    out, err = child.communicate()
    assert json.loads(out) == {"known": False}, err
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [".ipython"]
    child = start(folder, "home", "--json", HOME="/nowhere/at/all")
    assert json.loads(child.communicate()[0]) == {"known": False}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_kernel_and_keeps_the_page(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    child, kernel = asleep(folder)
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 1 and out == ""
    assert f"job sleep was stopped by {number.name}; its notebook so far: " in err and "Traceback" not in err
    assert gone(kernel) and names(tmp_path / "runs" / "sleep") == ["failed.ipynb"]


def test_a_killed_run_takes_its_kernel_along_and_leaves_no_lock(folder: Path, tmp_path: Path) -> None:
    child, kernel = asleep(folder)
    child.kill()
    child.communicate()
    assert gone(kernel)
    assert names(tmp_path / "runs" / "sleep") == ["running.ipynb"]
    write_job(folder, "sleep", "Result(awake=True)")
    assert run_job("sleep", {}, tmp_path / "runs", folder).result == {"awake": True}
    assert names(tmp_path / "runs" / "sleep") == ["failed.ipynb", "ipynb"]


def test_a_run_that_takes_too_long_is_ended(folder: Path, tmp_path: Path) -> None:
    sign, before = tmp_path / "sign", signal.getsignal(signal.SIGTERM)
    write_job(folder, "sleep", SLEEP, "Result()")
    began = time.monotonic()
    with pytest.raises(JobFailed, match="took longer than 4 s; its notebook so far"):
        run_job("sleep", {"sign": str(sign)}, tmp_path / "runs", folder, timeout_s=4)
    assert time.monotonic() - began < 30
    assert gone(int(sign.read_text())) and names(tmp_path / "runs" / "sleep") == ["failed.ipynb"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_runs_of_a_job_do_not_collide(folder: Path, tmp_path: Path) -> None:
    child, _ = asleep(folder)
    second = start(folder, "sleep")
    assert second.wait() == 1
    assert f"job sleep is already run by process {child.pid} on " in second.communicate()[1]
    other = start(folder, "echo")
    assert other.wait() == 0, other.communicate()
    child.terminate()
    child.communicate()


def test_command_prints_one_object(folder: Path) -> None:
    child = start(folder, "echo", "-p", "days", "9", "-p", "shifts", "[-1]", "--json")
    out, err = child.communicate()
    assert json.loads(out) == DEFAULTS | {"days": 9, "shifts": [-1]}, err
    assert "Executing Cell 1" in err and "TCP" not in err


def test_a_terminal_gets_a_bar(folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-c", RUNNER, str(folder), "run", "echo"]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:
            break
    out, _ = child.communicate()
    assert child.returncode == 0 and b"Executing: 100%" in seen and b"Executing Cell" not in seen
    assert "days  3" in out and "notebook" in out


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["run", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_command_lists_parameters_and_complains(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "job_folder", lambda: folder)
    listed: dict[str, Any] = json.loads(command(capsys, "echo", "--parameters", "--json")[1])
    assert {name: told["default"] for name, told in listed.items()} == DEFAULTS
    assert command(capsys, "echo", "--parameters")[1].splitlines()[0].endswith("days of history")
    for words, says in {("eco",): "expected echo", ("echo", "--timeout", "0"): "more than 0"}.items():
        code, _, err = command(capsys, *words)
        assert code == 1 and says in err


def test_jobs_of_the_checkout_are_found() -> None:
    assert (job_folder() / "18_jobs.ipynb").samefile(Path(__file__).parents[1] / "nbs" / "18_jobs.ipynb")
    for path in jobs.job_names().values():
        assert all(p.help for p in parameters_of(path).values()), f"{path.name} has a parameter without help"


def test_parameters_come_from_a_file_and_the_command_line_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verify.yaml").write_text("days: 3\nkinds: noise\n")
    heard: dict[str, Any] = {}
    monkeypatch.setattr(
        jobs, "run_job", lambda job, given, *rest, **more: heard.update(given) or jobs.JobRun({}, Path())
    )
    assert cli.main(["run", "verify", "-f", str(tmp_path / "verify.yaml"), "-p", "days", "5"]) == 0
    assert heard == {"days": "5", "kinds": "noise"}
    assert cli.main(["run", "verify", "-f", str(tmp_path / "nothing.yaml")]) == 1
    assert "expected lines such as `days: 7`" in capsys.readouterr().err
