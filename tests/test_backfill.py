"""Years of files into a history and a store: the verdicts of a check, nothing lost, nothing twice, at whatever point it dies."""

import gzip
import io
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import zstandard
from test_archive import tar, zipped

from sensorlib.archive import open_files
from sensorlib.backfill import backfill, chunks_of, Source, measure_files, read_history, read_manifest
from sensorlib.core import KINDS, READING_COLUMNS, SensorlibError
from sensorlib.places import Gazetteer, Names, Places
from sensorlib.quality import check_files, summarise, write_frame
from sensorlib.store import open_store

if TYPE_CHECKING:
    from conftest import Web

KEY = ["sensor_id", "value_type", "ts"]
HEAD = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2"
Files = dict[str, bytes]


def day_file(day: str, sensor_id: int, rows: int = 40, change: str = "") -> bytes:
    "A day file with readings every ten minutes from midnight; `change` is appended to each first value."
    lines = [HEAD]
    for n in range(rows):
        moment = f"{day}T{n // 6:02}:{n % 6}0:{sensor_id % 60:02}"
        lines.append(
            f"{sensor_id};SDS011;{sensor_id};47.37;8.5{sensor_id % 10};{moment};{20 + n % 7 + sensor_id % 3}.5{change};;;{n % 5}.25;;"
        )
    return ("\n".join(lines) + "\n").encode()


def week(sensors: int = 5) -> Files:
    "Day files of some sensors, seven days; one of them rests for two days."
    days = [f"2026-03-{day:02}" for day in range(1, 8)]
    return {
        f"{day}_sds011_sensor_{sensor}.csv": day_file(day, sensor)
        for day in days
        for sensor in range(1, sensors + 1)
        if not (sensor == 2 and day in days[2:4])
    }


def put(folder: Path, files: Files) -> Path:
    "Write files into a folder."
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def held(history: Path) -> pd.DataFrame:
    "All readings of a history."
    return pd.concat([read_history(history, kind) for kind in KINDS], ignore_index=True).sort_values(
        KEY, ignore_index=True
    )


def plain(readings: pd.DataFrame) -> pd.DataFrame:
    "Readings by their key, in types that compare."
    columns = ["ts", "value_type", "value", "qc", "sensor_type", "cell", "lat"]
    told = readings.astype(
        {"value_type": "object", "sensor_type": "object", "cell": "object", "ts": "datetime64[us, UTC]"}
    )
    return told.astype({"sensor_id": "int64"}).sort_values(KEY, ignore_index=True)[["sensor_id", *columns]]


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    "Compare readings row for row."
    assert len(one) == len(other) > 0
    pd.testing.assert_frame_equal(plain(one), plain(other), check_dtype=False)


def test_a_history_has_the_verdicts_of_a_check(tmp_path: Path) -> None:
    folder = put(tmp_path / "days", week())
    told, checked = backfill([folder], tmp_path / "history"), check_files([folder])
    assert_same(held(tmp_path / "history"), checked.readings)
    counts = summarise(checked)
    assert {name: told[name] for name in ("records", "readings", "good", "flagged", "dead", "other", "by_flag")} == {
        name: counts[name] for name in ("records", "readings", "good", "flagged", "dead", "other", "by_flag")
    }
    assert (told["files"], told["skipped"], told["gaps"]) == (33, 0, 1)
    (gap,) = pd.read_csv(tmp_path / "history" / "gaps.csv").to_dict("records")
    assert gap == {"sensor_type": "sds011", "sensor_id": 2, "since": "2026-03-03", "until": "2026-03-04", "days": 2}


CLOTHES = {
    "gzipped": lambda folder, files: put(folder, {f"{name}.gz": gzip.compress(data) for name, data in files.items()}),
    "Windows": lambda folder, files: put(folder, {name: data.replace(b"\n", b"\r\n") for name, data in files.items()}),
    "commas": lambda folder, files: put(folder, {name: data.replace(b";", b",") for name, data in files.items()}),
    "quoted": lambda folder, files: put(
        folder, {name: data.replace(b"SDS011", b'"SDS011"') for name, data in files.items()}
    ),
    "backwards": lambda folder, files: put(folder, {name: backwards(data) for name, data in files.items()}),
    "in a tar": lambda folder, files: put(folder, {"days.tar.zst": zstandard.compress(tar(shuffled(files)))}),
    "in a zip": lambda folder, files: put(folder, {"days.zip": zipped(shuffled(files))}),
    "gzipped in a tar": lambda folder, files: put(
        folder, {"days.tar": tar({f"a/{name}.gz": gzip.compress(data) for name, data in files.items()})}
    ),
    "without some columns": lambda folder, files: put(folder, {name: narrow(data) for name, data in files.items()}),
}


def shuffled(files: Files) -> Files:
    names = random.Random(3).sample([*files], len(files))
    return {name: files[name] for name in names}


def backwards(data: bytes) -> bytes:
    "The rows of a day file, the last one first."
    head, *rows = data.decode().splitlines()
    return "\n".join([head, *reversed(rows)]).encode()


def narrow(data: bytes) -> bytes:
    "A day file without the columns that are always empty."
    lines = [line.split(";") for line in data.decode().splitlines()]
    return "\n".join(";".join(line[n] for n in (0, 1, 2, 3, 4, 5, 6, 9)) for line in lines).encode()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    "A week as a check judges it."
    return check_files([put(tmp_path_factory.mktemp("checked"), week())]).readings


@pytest.mark.parametrize("clothes", CLOTHES)
def test_the_same_week_in_other_clothes(tmp_path: Path, checked: pd.DataFrame, clothes: str) -> None:
    told = backfill([CLOTHES[clothes](tmp_path / "days", week())], tmp_path / "history")
    assert_same(held(tmp_path / "history"), checked)
    assert (told["dead"], told["other"], told["repeated"]) == (0, 0, 0)


def test_what_is_done_is_not_done_again(tmp_path: Path, checked: pd.DataFrame) -> None:
    files, folder, history = week(), tmp_path / "days", tmp_path / "history"
    put(folder, {name: data for name, data in files.items() if name < "2026-03-04"})
    first = backfill([folder], history)
    told = backfill([put(folder, files)], history)
    assert (first["skipped"], told["skipped"], told["files"]) == (0, first["files"], 33)
    again = backfill([folder], history)
    assert (again["skipped"], again["readings"]) == (33, told["readings"])
    assert_same(held(history), checked)


DAMAGED = {
    "a ruined value": (lambda data: data.replace(b"21.5;", b"Sep 21;", 1), {"value"}),
    "a short row": (lambda data: data.replace(b";SDS011;1;", b";SDS011", 1), {"cells"}),
    "a long row": (lambda data: data.replace(b";SDS011;1;", b";SDS;011;1;", 1), {"cells"}),
    "no time": (lambda data: data.replace(b"T00:10", b"T00-10", 1), {"time"}),
    "no sensor": (lambda data: data.replace(b"\n1;SDS", b"\n;SDS", 1), {"sensor_id"}),
    "nothing measured": (lambda data: data + b"1;SDS011;1;47.37;8.51;2026-03-01T23:00:00;;;;;;\n", {"no_values"}),
    "no text": (lambda data: data.replace(b"21.5;", b"\xff\xfe;", 1), {"value"}),
    "a blank line": (lambda data: data.replace(b"\n", b"\n\n", 1), set()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_reported_by_file_and_row(tmp_path: Path, damage: str) -> None:
    spoil, reasons = DAMAGED[damage]
    name = "2026-03-01_sds011_sensor_1.csv"
    data = spoil(day_file("2026-03-01", 1))
    told = backfill([put(tmp_path / "days", {name: data})], tmp_path / "history")
    counts = summarise(check_files([tmp_path / "days"]))
    assert [told[n] for n in ("records", "readings", "dead", "other")] == [
        counts[n] for n in ("records", "readings", "dead", "other")
    ]
    dead = [pd.read_parquet(path) for path in (tmp_path / "history" / "dead").glob("*.parquet")]
    assert {reason for frame in dead for reason in frame["reason"]} == reasons
    for row in pd.concat(dead).itertuples() if dead else []:
        assert row.file == name
        line = data.split(b"\n")[int(row.line) - 1].decode("utf-8", "replace")
        assert row.text is None or row.text.replace("??", "\ufffd\ufffd") in line


def test_the_files_that_a_spreadsheet_ruined(tmp_path: Path, shared_data: Path) -> None:
    told = backfill([shared_data / "archive" / "basecamp_2019-04_05_day_csvs.tar.zst"], tmp_path / "history")
    assert (told["readings"], told["dead"], told["other"]) == (6781 - 928, 928, 0)
    dead = pd.concat(map(pd.read_parquet, (tmp_path / "history" / "dead").glob("*.parquet")))
    assert [name.endswith("train2.csv") for name in dead["file"].unique()] == [True]
    assert dead["line"].between(2, 563).all()
    assert {"Sep 60", "09. Okt"} <= set(dead["text"])
    assert len(held(tmp_path / "history")) == told["readings"] - told["repeated"]


UNREADABLE = {
    "2026-03-01_sds011_sensor_1.csv.gz": gzip.compress(day_file("2026-03-01", 1))[:100],
    "2026-03-01_sds011_sensor_2.csv.gz": day_file("2026-03-01", 2),
    "2026-03-01_sds011_sensor_3.csv": b"artist;song\nA;B\n",
    "2026-03-01_sds011_sensor_4.csv": b"",
}


def test_a_file_that_cannot_be_read_is_dead_as_a_whole(tmp_path: Path) -> None:
    good = {"2026-03-01_sds011_sensor_5.csv": day_file("2026-03-01", 5)}
    told = backfill([put(tmp_path / "days", UNREADABLE | good)], tmp_path / "history")
    assert (told["files"], told["dead"], told["readings"]) == (5, 4, 80)
    dead = pd.concat(map(pd.read_parquet, (tmp_path / "history" / "dead").glob("*.parquet")))
    assert set(dead["reason"]) == {"file"}
    assert {*dead["file"].str.removesuffix(".gz")} == {name.removesuffix(".gz") for name in UNREADABLE}


def test_unknown_value_types_are_kept_apart(tmp_path: Path) -> None:
    data = day_file("2026-03-01", 1).replace(b"durP1", b"samples").replace(b".5;;", b".5;12;")
    told = backfill([put(tmp_path / "days", {"2026-03-01_sds011_sensor_1.csv": data})], tmp_path / "history")
    other = pd.concat(map(pd.read_parquet, (tmp_path / "history" / "other").glob("*.parquet")))
    assert (told["other"], told["readings"], set(other["value_type"]), set(other["text"])) == (
        40,
        80,
        {"samples"},
        {"12"},
    )


def test_of_a_repeated_reading_the_last_one_counts(tmp_path: Path) -> None:
    name, data = "2026-03-01_sds011_sensor_1.csv", day_file("2026-03-01", 1, rows=3)
    corrected = data.replace(b"T00:10:01;", b"T00:10:01;9").replace(HEAD.encode() + b"\n", b"")
    again = data.replace(b"21.5", b"77.5") + corrected
    history, store = tmp_path / "history", f"sqlite:///{tmp_path}/store.db"
    backfill([put(tmp_path / "days", {name: data})], history, store)
    told = backfill([put(tmp_path / "later", {"again.csv": again})], history, store)
    assert (told["readings"], told["repeated"]) == (18, 12)
    found = held(history)
    p1 = found[found["value_type"] == "P1"]
    assert (len(found), list(p1["value"].round(1))) == (6, [21.5, 922.5, 23.5])
    stored = open_store(store)
    latest = stored.latest("particulates")
    stored.close()
    assert list(latest["value"]) == [found[found["value_type"] == t]["value"].iloc[-1] for t in ("P1", "P2")]


def command(folder: Path, history: Path, *more: object) -> list[str]:
    return [
        sys.executable,
        "-m",
        "sensorlib.cli",
        "backfill",
        str(folder),
        "--history",
        str(history),
        "--json",
        *map(str, more),
    ]


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A folder of a month of day files, several chunks of them."
    days = [f"2026-03-{day:02}" for day in range(1, 32)]
    files = {f"{day}_sds011_sensor_{n}.csv": day_file(day, n, rows=144) for day in days for n in range(1, 61)}
    return put(tmp_path_factory.mktemp("month"), files)


def test_killed_at_any_point_and_gone_on_it_is_the_same(tmp_path: Path, month: Path) -> None:
    began = time.monotonic()
    whole = json.loads(subprocess.run(command(month, tmp_path / "whole"), check=True, capture_output=True).stdout)
    length_s = time.monotonic() - began
    chance, killed = random.Random(20260315), 0
    store = f"sqlite:///{tmp_path}/store.db"
    for _ in range(6):
        with subprocess.Popen(
            command(month, tmp_path / "torn", "--store", store), stdout=subprocess.DEVNULL
        ) as process:
            time.sleep(length_s * chance.uniform(0.4, 1.0))
            killed += process.poll() is None
            process.kill()
    last = subprocess.run(command(month, tmp_path / "torn", "--store", store), check=True, capture_output=True)
    torn = json.loads(last.stdout)
    assert killed >= 3
    assert {**torn, "skipped": 0} == whole
    parts = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("kind=*/*/*")}
    assert parts == {path.relative_to(tmp_path / "torn") for path in (tmp_path / "torn").rglob("kind=*/*/*")}
    assert all((tmp_path / "whole" / part).read_bytes() == (tmp_path / "torn" / part).read_bytes() for part in parts)
    stored = open_store(store)
    assert sum(stored.counts().values()) == whole["readings"]
    stored.close()


def test_told_to_stop_it_ends_after_the_chunk_in_hand(tmp_path: Path, month: Path) -> None:
    history = tmp_path / "history"
    with subprocess.Popen(command(month, history), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not read_manifest(history).done and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    told = json.loads(out)
    assert process.returncode == 1
    assert told["left"] > 0 and told["files"] + told["left"] == 1860
    assert f"stopped with {told['left']} files left" in err.decode()
    assert backfill([month], history)["files"] == 1860


def test_a_cut_line_of_the_manifest_counts_for_nothing(tmp_path: Path, checked: pd.DataFrame) -> None:
    folder, history = put(tmp_path / "days", week()), tmp_path / "history"
    told = backfill([folder], history)
    manifest = history / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    (history / "kind=noise" / "month=2026-01").mkdir(parents=True)
    (history / "kind=noise" / "month=2026-01" / "left.new").write_bytes(b"half")
    assert len(read_history(history, "particulates")) == 0
    assert backfill([folder], history) == told
    assert not (history / "kind=noise" / "month=2026-01" / "left.new").exists()
    assert_same(held(history), checked)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    folder, history = put(tmp_path / "days", week()), tmp_path / "history"
    refused: list[str] = []

    def again(done: int, total: int) -> None:
        with pytest.raises(
            SensorlibError, match=r"another backfill is writing .*history.*wait for it, or end it"
        ) as caught:
            backfill([folder], history)
        refused.append(str(caught.value))

    backfill([folder], history, watch=again)
    assert refused


def test_a_history_goes_where_it_went_before(tmp_path: Path) -> None:
    folder, history = put(tmp_path / "days", week()), tmp_path / "history"
    backfill([folder], history)
    with pytest.raises(
        SensorlibError, match=r"begun with no store.*expected the same; fill a store.*backfill .*history --store"
    ):
        backfill([folder], history, store=f"sqlite:///{tmp_path}/store.db")
    with pytest.raises(SensorlibError, match="nowhere to write to, expected --history DIR, --store URL, or both"):
        backfill([folder])


def test_a_store_is_filled_from_a_history_with_its_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: pd.DataFrame
) -> None:
    monkeypatch.chdir(tmp_path)
    backfill([put(tmp_path / "days", week())], tmp_path / "history")
    told = backfill([tmp_path / "history"], store="sqlite:///store.db")
    assert told["readings"] == len(checked)
    write_frame(checked, tmp_path / "checked.parquet")
    copied = backfill([tmp_path / "checked.parquet"], tmp_path / "copy")
    assert [told[n] for n in ("good", "flagged", "by_flag")] == [copied[n] for n in ("good", "flagged", "by_flag")]
    assert_same(held(tmp_path / "copy"), checked)
    store = open_store("sqlite:///store.db")
    assert sum(store.counts().values()) == len(checked)
    store.close()


def test_parquet_of_the_archive_is_read_like_its_day_files(tmp_path: Path, checked: pd.DataFrame) -> None:
    frames = [pd.read_csv(io.BytesIO(data), sep=";") for data in week().values()]
    rows = pd.concat(frames).assign(timestamp=lambda f: pd.to_datetime(f["timestamp"])).sample(frac=1, random_state=4)
    rows.to_parquet(tmp_path / "part-0.snappy.parquet", index=False)
    told = backfill([tmp_path / "part-0.snappy.parquet"], tmp_path / "history")
    assert_same(held(tmp_path / "history"), checked)
    assert (told["records"], told["dead"], told["other"]) == (len(rows), 0, 0)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    "A folder, and the web address under which a real server shows it."
    root = tmp_path / "published"
    root.mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def by_day(files: Files) -> Files:
    "The archive's folders: this year's by day, those before below their year, packed."
    return {f"{name[:10]}/{name}": data for name, data in files.items()}


def test_the_archive_on_the_web(tmp_path: Path, published: tuple[Path, str], checked: pd.DataFrame) -> None:
    root, url = published
    files = week()
    old = {f"2026/{name[:10]}/{name}.gz": gzip.compress(data) for name, data in files.items() if name < "2026-03-04"}
    put(root, by_day({name: data for name, data in files.items() if name >= "2026-03-04"}) | old)
    told = backfill([url], tmp_path / "history", since=date(2026, 2, 27), until=date(2026, 3, 9))
    assert told["files"] == len(files)
    assert_same(held(tmp_path / "history"), checked)
    sizes = read_manifest(tmp_path / "history").done
    assert all(
        sizes[Path(name).name] == len(data) for name, data in (old | by_day(files)).items() if Path(name).name in sizes
    )


def test_one_day_and_one_file_of_the_web(tmp_path: Path, published: tuple[Path, str]) -> None:
    root, url = published
    put(root, by_day(week()))
    assert backfill([f"{url}/2026-03-01/"], tmp_path / "day")["files"] == 5
    file = f"{url}/2026-03-01/2026-03-01_sds011_sensor_3.csv"
    assert backfill([file], tmp_path / "file")["readings"] == 80
    with pytest.raises(SensorlibError, match="is a whole archive, expected --from and --to"):
        backfill([url], tmp_path / "all")


def test_a_file_that_comes_short_is_asked_for_again(web: "Web", tmp_path: Path) -> None:
    data = day_file("2026-03-01", 1)
    web.reply(data[:500], Content_Length=str(len(data))).reply(data)
    told = backfill([web.url.replace("data.json", "2026-03-01_sds011_sensor_1.csv")], tmp_path / "history")
    assert (told["readings"], len(web.asked)) == (80, 2)


def test_flink_makes_the_same_history(tmp_path: Path, shared_data: Path) -> None:
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    days = [f"2018-11-{day:02}" for day in range(5, 9)]
    real = {Path(name).name: data for name, data in open_files(archive) if Path(name).name[:10] in days}
    name = f"{days[0]}_sds011_sensor_1.csv"
    odd = (
        day_file(days[0], 1).replace(b"21.5;", b"Sep 21;", 1).replace(b"durP1", b"samples").replace(b".5;;", b".5;12;")
    )
    odd = (
        odd.replace(b"T00:20", b"T00-20").replace(b";SDS011;1;47.37;8.51;2018-11-05T01:00", b";SDS011")
        + odd.splitlines()[9]
        + b"\n"
    )
    unread = {f"{days[1]}_sds011_sensor_2.csv": b"artist;song\nA;B\n"}
    folder = put(tmp_path / "days", real | {name: odd} | unread)
    python = backfill([folder], tmp_path / "python")
    subprocess.run(command(folder, tmp_path / "flink", "--engine", "flink"), check=True, capture_output=True)
    flink = backfill([folder], tmp_path / "flink", engine="flink")
    assert {**flink, "skipped": 0} == python
    assert python["dead"] >= 4 and python["other"] >= 38 and python["repeated"] > 0
    assert_same(held(tmp_path / "flink"), held(tmp_path / "python"))
    for kept in ("dead", "other"):
        tables = [
            pd.concat(map(pd.read_parquet, (tmp_path / engine / kept).glob("*"))) for engine in ("python", "flink")
        ]
        rows = [
            sorted(zip(t["file"], t["line"].fillna(0), t["value_type"].fillna(""), t["text"].fillna(""), strict=True))
            for t in tables
        ]
        assert rows[0] == rows[1]
    with pytest.raises(
        SensorlibError, match="is begun, and Flink makes a history at once: give it a folder of its own"
    ):
        backfill(
            [put(tmp_path / "more", {f"{days[3]}_sds011_sensor_3.csv": day_file(days[3], 3)})],
            tmp_path / "flink",
            engine="flink",
        )


def test_a_day_that_does_not_fit_is_judged_like_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: pd.DataFrame
) -> None:
    monkeypatch.setattr("sensorlib.backfill.CHUNK_BYTES", 3_000)
    files = week()
    heavy = [chunk for chunk in chunks_of(Source(name, len(data)) for name, data in files.items()) if len(chunk) > 1]
    assert min(sum(source.size or 0 for source in chunk) for chunk in heavy) > 6_000
    backfill([put(tmp_path / "days", files)], tmp_path / "history")
    assert_same(held(tmp_path / "history"), checked)
    assert not (tmp_path / "history" / "aside").exists()


def test_chunks_follow_the_days_and_hold_so_many_bytes() -> None:
    days = [f"2026-03-{day:02}_dht22_sensor_{n}.csv" for n in (2, 1) for day in (3, 1, 2)]
    chunks = chunks_of(
        [Source("notes.csv", 5), *(Source(name, 3_000_000) for name in days), Source(days[0], 3_000_000)]
    )
    assert [sorted({source.day for source in chunk}) for chunk in chunks] == [
        ["2026-03-01"],
        ["2026-03-02"],
        ["2026-03-03"],
        [""],
    ]
    assert [source.name[-5] for source in chunks[0]] == ["1", "2"]


def test_several_sensors_in_a_file_keep_the_order_of_the_feed(tmp_path: Path) -> None:
    parts = [day_file("2026-03-01", n).decode().splitlines() for n in (9, 10, 61, 1)]
    mixed = (
        "\n".join([parts[0][0], *(line for lines in zip(*(p[1:] for p in parts), strict=True) for line in lines)])
        + "\n"
    )
    data = mixed.encode()
    now = "2026-04-01T00:00:00Z"
    fast, slow = (measure_files([("a.csv", d)], now).measured for d in (data, data.replace(b"SDS011", b'"SDS011"')))
    columns = ["sensor_id", "ts", "value_type", "value", "cell"]
    pd.testing.assert_frame_equal(fast[columns], slow[columns], check_categorical=False)


def test_columns_read_all_of_aberdeen_as_the_reader_of_the_feed_does(shared_data: Path) -> None:
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    files = [(name, data) for n, (name, data) in enumerate(open_files(archive)) if n % 9 == 0]
    now = "2026-04-01T00:00:00Z"
    whole = measure_files(files, now).measured
    quoted = [(name, data.replace(b"timestamp", b'"timestamp"', 1)) for name, data in files]
    careful = measure_files(quoted, now).measured
    columns = [name for name in whole if name not in ("record", "country", "place")]
    pd.testing.assert_frame_equal(whole[columns], careful[columns], check_dtype=False, check_categorical=False)


def test_a_month_of_aberdeen_has_the_verdicts_of_a_check(tmp_path: Path, shared_data: Path) -> None:
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    month = {Path(name).name: data for name, data in open_files(archive) if Path(name).name.startswith("2018-07")}
    folder = put(tmp_path / "days", month)
    told, checked = backfill([folder], tmp_path / "history"), check_files([folder])
    assert (told["readings"], told["repeated"], told["dead"]) == (len(checked.readings), 0, len(checked.dead))
    assert_same(held(tmp_path / "history"), checked.readings)


def test_files_without_a_row_and_parquet_that_is_none(tmp_path: Path) -> None:
    files = {
        "2026-03-01_sds011_sensor_1.csv": HEAD.encode() + b"\n",
        "cut.parquet": b"PAR1 and so on",
        "empty.json": b"[]",
    }
    put(tmp_path / "days", files)
    pd.DataFrame({"artist": ["A"]}).to_parquet(tmp_path / "days" / "songs.parquet")
    told = backfill([tmp_path / "days"], tmp_path / "history", store=f"sqlite:///{tmp_path}/store.db")
    assert (told["files"], told["records"], told["readings"], told["dead"]) == (4, 0, 0, 2)
    dead = pd.concat(map(pd.read_parquet, (tmp_path / "history" / "dead").glob("*")))
    assert {Path(name).name for name in dead["file"]} == {"cut.parquet", "songs.parquet"}
    assert backfill([tmp_path / "days"], tmp_path / "history", store=f"sqlite:///{tmp_path}/store.db")["skipped"] == 4


def test_a_file_that_changed_or_was_packed_is_not_taken_twice(tmp_path: Path) -> None:
    name, data = "2026-03-01_sds011_sensor_1.csv", day_file("2026-03-01", 1)
    backfill([put(tmp_path / "days", {name: data})], tmp_path / "history")
    grown = backfill([put(tmp_path / "grown", {name: data * 2})], tmp_path / "history")
    packed = backfill([put(tmp_path / "packed", {f"{name}.gz": gzip.compress(data)})], tmp_path / "history")
    assert [(told["skipped"], told["changed"], told["readings"]) for told in (grown, packed)] == [
        (1, 1, 80),
        (1, 0, 80),
    ]


def test_what_is_not_ours_in_a_folder_stays(tmp_path: Path) -> None:
    history = put(tmp_path / "history", {"mine.parquet": b"1", "kind=own/mine.parquet": b"2"})
    for _ in range(2):
        backfill([put(tmp_path / "days", week(1))], history)
    assert (history / "mine.parquet").exists() and (history / "kind=own" / "mine.parquet").exists()


def test_a_span_of_days_is_cut_out(tmp_path: Path) -> None:
    told = backfill(
        [put(tmp_path / "days", week())], tmp_path / "history", since=date(2026, 3, 2), until=date(2026, 3, 4)
    )
    assert told["files"] == 9
    part = read_history(
        tmp_path / "history", "particulates", datetime(2026, 3, 2, 12, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC)
    )
    whole = read_history(tmp_path / "history", "particulates")
    assert len(whole) == 9 * 80 and len(part) == 0
    assert len(read_history(tmp_path / "history", "particulates", until=datetime(2026, 3, 3, tzinfo=UTC))) == 5 * 80
    assert list(whole.columns) == [*READING_COLUMNS]


@pytest.mark.parametrize("given", [["--from", "yesterday"], []])
def test_bad_usage_says_what_to_give(tmp_path: Path, given: list[str]) -> None:
    end = subprocess.run(
        [sys.executable, "-m", "sensorlib.cli", "backfill", str(tmp_path), *given], capture_output=True, text=True
    )
    assert end.returncode == 1
    assert re.search(r"sensorlib backfill: .*expected (a day such as|--history DIR)", end.stderr)


def test_history_has_the_names_that_the_scraper_gives(tmp_path: Path) -> None:
    put(tmp_path / "days", week())
    places = Places(Names(), Gazetteer())
    backfill([tmp_path / "days"], tmp_path / "plain")
    backfill([tmp_path / "days"], tmp_path / "named", f"sqlite:///{tmp_path}/a.db", places=places)
    plain, named = held(tmp_path / "plain"), held(tmp_path / "named")
    pd.testing.assert_frame_equal(plain.drop(columns=["country", "place"]), named.drop(columns=["country", "place"]))
    assert plain[["country", "place"]].isna().all(axis=None)
    feed = {"location": {"id": 3, "latitude": "47.37", "longitude": "8.53", "country": "CH"}}
    assert set(named.loc[named["location_id"] == 3, "place"]) == {places.of([feed])["3"]}
    assert set(named["country"]) == {"CH"}
    backfill([tmp_path / "plain"], store=f"sqlite:///{tmp_path}/b.db", places=places)
    latest = [open_store(f"sqlite:///{tmp_path}/{name}.db").latest("particulates") for name in "ab"]
    pd.testing.assert_frame_equal(*latest)
