"""The registry: published in one step whatever happens, the newest good version found, nothing good lost."""

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sensorlib import cli
from sensorlib import registry as module
from sensorlib.core import MissingPart, RegistryError, SettingError
from sensorlib.registry import (
    LAYOUT,
    About,
    Registry,
    newest,
    open_registry,
    prune,
    publish,
    refuse,
    restore,
    versions,
    withdraw,
)

FILES = {"model.onnx": bytes(range(256)) * 40, "scales.json": b'{"mean": 1}', "baselines.bin": b"\0" * 1000}
URL = os.environ.get("SENSORLIB_TEST_MODELS", "")  # e.g. s3://BUCKET/FOLDER, to run the same tests there


def about(**other: Any) -> About:
    known: dict[str, Any] = {
        "trained_from": datetime(2026, 1, 1, tzinfo=UTC),
        "trained_until": datetime(2026, 3, 1, tzinfo=UTC),
        "value_types": ("P1", "P2"),
        "horizons_min": (10, 60),
        "quantiles": (0.05, 0.5, 0.95),
        "vocabulary": {"stations": [1, 2, 3]},
        "served": {"P2": {10: "damped", 60: "network"}},
        "metrics": {"P2": {"60": {"skill": 0.12}}},
        "reason": "beats damped",
    }
    return About(**known | other)


@pytest.fixture(params=["folder", "memory", *(["url"] if URL else [])])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    "An empty registry in a folder, in memory, and where the environment says."
    named = {
        "folder": str(tmp_path / "models"),
        "memory": f"memory://{tmp_path.name}",
        "url": f"{URL}/{time.time_ns()}",
    }
    opened = open_registry(named[request.param])
    yield opened
    if not opened.local and opened.fs.exists(opened.root):
        opened.fs.rm(opened.root, recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Registry:
    return open_registry(str(tmp_path / "models"))


def states(registry: Registry, kind: str = "noise") -> list[str]:
    return [line.state for line in versions(registry, kind)]


def spoil(registry: Registry, version: str, name: str, change: Callable[[bytes], bytes]) -> None:
    "Change a file of a version behind the registry's back."
    path = f"{registry.root}/noise/{version}/{name}"
    registry.fs.pipe_file(path, change(registry.fs.cat_file(path)))


def flipped(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


def clock(now: datetime) -> SimpleNamespace:
    "What the registry knows of time, at a moment of our choice."
    return SimpleNamespace(now=lambda zone: now, strptime=datetime.strptime)


def in_child(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    "Start work in a process of its own."
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def test_what_was_published_comes_back(registry: Registry) -> None:
    assert newest(registry, "noise") is None and versions(registry, "noise") == []
    manifest = publish(registry, "noise", FILES, about())
    found = newest(registry, "noise")
    assert found is not None and (found.manifest, found.files) == (manifest, FILES)
    assert found.manifest.served["P2"][60] == "network" and found.manifest.trained_until == about().trained_until
    assert newest(registry, "humidity") is None


def test_newest_is_the_last_published_even_when_the_clock_goes_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, "noise", FILES, about())
    monkeypatch.setattr(module, "datetime", clock(datetime.now(UTC) - timedelta(days=1)))
    later = publish(registry, "noise", FILES, about())
    found = newest(registry, "noise")
    assert found is not None and found.manifest == later
    assert states(registry) == ["serving", "good"]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.onnx", flipped, "SHA-256"),
        ("model.onnx", lambda data: data[:-1], "10239 bytes, expected 10240"),
        ("scales.json", lambda data: b"", "0 bytes, expected 11"),
        ("manifest.json", lambda data: data[: len(data) // 2], "manifest is damaged"),
        ("manifest.json", lambda data: b"", "manifest is damaged"),
        ("manifest.json", lambda data: b"[1]", "manifest is damaged"),
        ("manifest.json", lambda data: data.replace(b'"sha256"', b'"sha1"'), "missing required field `sha256`"),
        ("manifest.json", lambda data: data.replace(b'"noise"', b'"humidity"'), "its manifest is that of humidity/"),
    ],
)
def test_a_corrupt_version_is_told_and_the_one_before_serves(
    registry: Registry, caplog: pytest.LogCaptureFixture, name: str, change: Callable[[bytes], bytes], says: str
) -> None:
    good = publish(registry, "noise", FILES, about())
    bad = publish(registry, "noise", FILES, about())
    spoil(registry, bad.version, name, change)
    found = newest(registry, "noise")
    assert found is not None and found.manifest == good
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert bad.version in line and says in line and "--withdraw" in line
    assert states(registry) == ["corrupt", "serving"]


def test_a_missing_file_makes_a_version_corrupt(registry: Registry) -> None:
    bad = publish(registry, "noise", FILES, about())
    registry.fs.rm_file(f"{registry.root}/noise/{bad.version}/scales.json")
    assert newest(registry, "noise") is None
    assert versions(registry, "noise")[0].reason == "scales.json is missing, expected 11 bytes"


def test_a_manifest_of_a_newer_layout_is_left_to_newer_code(registry: Registry) -> None:
    good = publish(registry, "noise", FILES, about())
    future = publish(registry, "noise", FILES, about())
    spoil(registry, future.version, "manifest.json", lambda data: json.dumps({"layout": LAYOUT + 1}).encode())
    found = newest(registry, "noise")
    assert found is not None and found.manifest == good
    assert "install a newer sensorlib" in versions(registry, "noise")[0].reason


def test_a_field_that_this_code_does_not_know_is_no_harm(registry: Registry) -> None:
    made = publish(registry, "noise", FILES, about())
    spoil(registry, made.version, "manifest.json", lambda data: data.replace(b"{", b'{"colour": "red",', 1))
    found = newest(registry, "noise")
    assert found is not None and found.manifest == made


def test_withdraw_rolls_back_and_restore_undoes_it(registry: Registry) -> None:
    first, second = (publish(registry, "noise", FILES, about()) for _ in range(2))
    withdraw(registry, "noise", second.version, "too loud")
    found = newest(registry, "noise")
    assert found is not None and found.manifest == first
    assert states(registry) == ["withdrawn", "serving"]
    assert versions(registry, "noise")[0].reason.startswith("too loud (")
    withdraw(registry, "noise", first.version, "too loud as well")
    assert newest(registry, "noise") is None
    restore(registry, "noise", second.version)
    found = newest(registry, "noise")
    assert found is not None and (found.manifest, found.files) == (second, FILES)


def test_a_refused_candidate_is_told_and_never_served(registry: Registry) -> None:
    served = publish(registry, "noise", FILES, about())
    report = refuse(registry, "noise", about(), "loses to damped")
    found = newest(registry, "noise")
    assert found is not None and found.manifest == served
    assert [(line.version, line.state, line.reason) for line in versions(registry, "noise")] == [
        (report.version, "refused", "loses to damped"),
        (served.version, "serving", "beats damped"),
    ]


def test_prune_keeps_who_serves_and_what_is_younger(registry: Registry) -> None:
    made = [publish(registry, "noise", FILES, about()).version for _ in range(3)]
    refused = refuse(registry, "noise", about(), "loses").version
    made += [publish(registry, "noise", FILES, about()).version for _ in range(3)]
    spoil(registry, made[-1], "model.onnx", flipped)
    withdraw(registry, "noise", made[-2], "too loud")
    assert set(prune(registry, "noise", 1)) == {*made[:3], refused}
    assert states(registry) == ["corrupt", "withdrawn", "serving"]
    found = newest(registry, "noise")
    assert found is not None and found.manifest.version == made[3]
    assert prune(registry, "noise", 1) == []


def test_prune_keeps_as_many_good_versions_as_asked(registry: Registry) -> None:
    made = [publish(registry, "noise", FILES, about()).version for _ in range(4)]
    withdraw(registry, "noise", made[3], "too loud")
    assert prune(registry, "noise", 2) == [made[0]]
    assert [line.version for line in versions(registry, "noise")] == made[:0:-1]


def test_prune_leaves_all_where_nothing_is_good(registry: Registry) -> None:
    made = [publish(registry, "noise", FILES, about()).version for _ in range(2)]
    for version in made:
        withdraw(registry, "noise", version, "both too loud")
    assert prune(registry, "noise", 1) == [] and len(states(registry)) == 2
    with pytest.raises(SettingError, match="at least 1"):
        prune(registry, "noise", 0)


def test_prune_removes_what_a_dead_publisher_left_after_a_day(folder: Registry) -> None:
    "A version without a manifest may be in the making; after a day it is not."
    now = datetime.now(UTC)
    for age in (timedelta(days=2), timedelta(hours=1)):
        left = Path(folder.root, "noise", f"{(now - age).strftime('%Y%m%dT%H%M%S%fZ')}-0123abcd")
        left.mkdir(parents=True)
        (left / "model.onnx").write_bytes(b"half")
    publish(folder, "noise", FILES, about())
    assert states(folder) == ["serving", "unfinished", "unfinished"]
    assert len(prune(folder, "noise", 1)) == 1
    assert states(folder) == ["serving", "unfinished"]


def killed_at(folder: Registry, moment: int) -> bool:
    "Publish in a process that kills itself at its n-th write to the disk; whether it came that far."
    count = iter(range(10**6))

    def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return called

    def work() -> None:
        for where, name in ((os, "fsync"), (Path, "replace"), (Path, "mkdir"), (Path, "open")):
            setattr(where, name, mortal(getattr(where, name)))
        publish(folder, "noise", {**FILES, "model.onnx": b"new" * 9999}, about())

    child = in_child(work)
    child.join()
    return child.exitcode == -signal.SIGKILL


def test_a_publisher_killed_at_any_moment_leaves_the_last_version_serving(folder: Registry) -> None:
    first = publish(folder, "noise", FILES, about())
    deaths = 0
    while killed_at(folder, deaths):
        found = newest(folder, "noise")
        assert found is not None
        complete = found.manifest.version != first.version
        assert found.files == {**FILES, "model.onnx": b"new" * 9999} if complete else found.files == FILES
        assert "corrupt" not in states(folder)
        for line in versions(folder, "noise"):
            if line.version != first.version and line.state != "unfinished":
                withdraw(folder, "noise", line.version, "so that the first serves again")
        deaths += 1
    assert deaths > 4 * len(FILES)
    assert states(folder)[0] == "serving"


def test_publishers_at_once_do_no_harm_and_readers_never_see_half(folder: Registry) -> None:
    publish(folder, "noise", FILES, about())

    def work() -> None:
        for n in range(15):
            publish(
                folder, "noise", {f"part{k}": os.urandom(2000) for k in range(4)}, about(reason=f"{os.getpid()} {n}")
            )

    children = [in_child(work) for _ in range(2)]
    reads = 0
    while any(child.is_alive() for child in children):
        found = newest(folder, "noise")
        assert found is not None and set(found.files) == set(found.manifest.files)
        reads += 1
    assert [child.exitcode for child in children] == [0, 0] and reads > 0
    assert states(folder) == ["serving", *["good"] * 30]
    assert len({line.reason for line in versions(folder, "noise")}) == 31


def test_a_reader_finds_a_version_while_others_publish_and_prune(
    folder: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder, "noise", FILES, about())

    def work() -> None:
        for _ in range(30):
            publish(folder, "noise", FILES, about())
            prune(folder, "noise", 1)

    child = in_child(work)
    while child.is_alive():
        assert newest(folder, "noise") is not None
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert child.exitcode == 0 and len(states(folder)) == 1


def test_two_publishers_of_the_same_moment_and_content_make_one_version(
    folder: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "datetime", clock(datetime(2026, 5, 1, tzinfo=UTC)))
    monkeypatch.setattr(module, "_versions", lambda registry, kind: [])
    made = {publish(folder, "noise", FILES, about()).version for _ in range(2)}
    other = publish(folder, "noise", FILES, about(reason="another")).version
    monkeypatch.undo()
    assert len(made) == 1 and other not in made
    assert sorted(states(folder)) == ["good", "serving"]


def test_files_can_be_read_by_other_users(folder: Registry) -> None:
    made = publish(folder, "noise", FILES, about())
    beside = Path(folder.root, "beside")
    beside.touch()
    modes = {path.stat().st_mode for path in Path(folder.root, "noise", made.version).iterdir()}
    assert modes == {beside.stat().st_mode}


@pytest.mark.parametrize("name", ["../model", "a/b", "", ".hidden", "manifest.json", "withdrawn.json", "a\\b"])
def test_names_of_files_cannot_leave_the_version(folder: Registry, name: str) -> None:
    with pytest.raises(SettingError, match=r"files of a model of noise are"):
        publish(folder, "noise", {name: b"x"}, about())


def test_what_cannot_be_published_is_refused_at_once(folder: Registry) -> None:
    with pytest.raises(SettingError, match="are none"):
        publish(folder, "noise", {}, about())
    with pytest.raises(SettingError, match="expected one of temperature"):
        publish(folder, "noize", FILES, about())
    with pytest.raises(SettingError, match="trained_from"):
        publish(folder, "noise", FILES, about(trained_from=datetime(2026, 1, 1)))
    assert not Path(folder.root).exists()


def test_a_volume_that_is_not_mounted_is_told(tmp_path: Path) -> None:
    away = open_registry(str(tmp_path / "volume" / "models"))
    for use in (lambda: newest(away, "noise"), lambda: publish(away, "noise", FILES, about())):
        with pytest.raises(RegistryError, match=r"volume.* is the volume mounted"):
            use()


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    with pytest.raises(RegistryError, match=r"cannot list the models at .*models: Not a directory"):
        publish(open_registry(str(tmp_path / "models")), "noise", FILES, about())


def as_nobody(work: Callable[[], None]) -> int:
    "Exit code of work done by a user without rights."

    def begin() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        work()

    child = in_child(begin)
    child.join()
    return child.exitcode or 0


def test_missing_permissions_are_told(folder: Registry, tmp_path: Path) -> None:
    publish(folder, "noise", FILES, about())
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    inside = Path(folder.root, "noise")

    def work() -> None:
        with pytest.raises(RegistryError, match=r"cannot publish .*Permission denied.* may this process"):
            publish(folder, "noise", FILES, about())

    inside.chmod(0o555)
    assert as_nobody(work) == 0

    def blind() -> None:
        with pytest.raises(RegistryError, match=r"cannot list .*Permission denied"):
            newest(folder, "noise")

    inside.chmod(0o000)
    assert as_nobody(blind) == 0
    inside.chmod(0o755)


def test_an_unreadable_version_is_passed_over(folder: Registry, tmp_path: Path) -> None:
    good, bad = (publish(folder, "noise", FILES, about()) for _ in range(2))
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    Path(folder.root, "noise", bad.version, "model.onnx").chmod(0o000)

    def work() -> None:
        found = newest(folder, "noise")
        assert found is not None and found.manifest == good

    assert as_nobody(work) == 0


def test_a_disk_that_is_full_is_told_and_leaves_no_version(folder: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RegistryError, match="No space left on device"):
        publish(folder, "noise", FILES, about())
    assert newest(folder, "noise") is None and states(folder) == ["unfinished"]


def test_a_url_names_the_package_it_needs() -> None:
    with pytest.raises(MissingPart, match="pip install gcsfs"):
        open_registry("gs://bucket/models")
    with pytest.raises(SettingError, match="SENSORLIB_MODELS is 'ftpx://there'"):
        open_registry("ftpx://there")


def test_a_manifest_is_json_for_people(folder: Registry) -> None:
    made = publish(folder, "noise", FILES, about())
    text = Path(folder.root, "noise", made.version, "manifest.json").read_text()
    assert msgspec.json.decode(text)["files"]["scales.json"]["size"] == 11
    assert len(text.splitlines()) > 20


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    "What the command line prints as JSON, or complains about."
    code = cli.main(["models", *words, "--json"])
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


def test_command_lists_withdraws_and_restores(folder: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--registry", folder.url)
    first, second = (publish(folder, "noise", FILES, about()).version for _ in range(2))
    publish(folder, "humidity", FILES, about())
    listed = told(capsys, *where)
    assert [(line["kind"], line["state"]) for line in listed["models"]] == [
        ("humidity", "serving"),
        ("noise", "serving"),
        ("noise", "good"),
    ]
    assert listed["models"][1]["trained_until"] == "2026-03-01T00:00:00Z" and listed["models"][1]["size"] == 11251
    after = told(capsys, *where, "--withdraw", second, "--reason", "too loud")
    assert [(line["version"], line["state"]) for line in after["models"]] == [(second, "withdrawn"), (first, "serving")]
    assert told(capsys, "noise", *where, "--restore", second)["models"][0]["state"] == "serving"


def test_command_says_what_it_cannot_do(folder: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    publish(folder, "noise", FILES, about())
    where = ("--registry", folder.url)
    assert "no version '2026'" in told(capsys, "noise", *where, "--restore", "2026")
    assert "no version '2026' at" in told(capsys, *where, "--restore", "2026")
    assert "belong together" in told(capsys, *where, "--withdraw", "2026")
    assert "expected one of temperature" in told(capsys, "noize", *where)
    assert "is the volume mounted" in told(capsys, "--registry", f"{folder.url}/away/models")


def test_command_prints_lines_for_people(folder: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--registry", folder.url]) == 0
    assert "sensorlib run train makes one" in capsys.readouterr().out
    made = publish(folder, "noise", FILES, about()).version
    assert cli.main(["models", "--registry", folder.url]) == 0
    assert capsys.readouterr().out.split() == ["noise", made, "serving", "0.0", "MB", "beats", "damped"]
