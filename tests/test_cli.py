"""The command line: help, exit codes, and what check, simulate and doctor print and write."""

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import zstandard

from sensorlib import __version__, cli
from sensorlib.completeness import SensorHour
from sensorlib.core import READING_COLUMNS, VALUE_TYPES
from sensorlib.feed import read_answer
from sensorlib.quality import FLAGS
from sensorlib.simulate import FAULTS
from sensorlib.store import open_store

if TYPE_CHECKING:
    from conftest import Web

WORLD = "api/2017-08-10_world_data.json.gz"
KEYS = {"records", "readings", "good", "flagged", "dead", "other", "by_flag", "by_value_type"}
OPTIONS = {
    "demo": "--source --minutes --sensors --no-browser --dir --json",
    "health": "SENSOR_ID --source --page --store --json",
    "backfill": "--history --store --engine --parallelism --from --to --json",
    "completeness": "SENSOR_ID --hours --page --store --json",
    "check": "PATH --out --dead --truth --json",
    "simulate": "--sensors --hours --seed --start --faults --events --out --truth --json",
    "scrape": "--source --sensors --status --feed-url --poll-s --brokers --partitions --replicas --redis-url --listen --log-format --json",
    "stream": "--batch --out --status --brokers --checkpoints --parallelism --listen --log-format",
    "collect": "--status --brokers --store --writers --listen --log-format --json",
    "setup": "--store --tokens --keep-days --keep-forecasts-days --json",
    "export": "SENSOR_ID --out --kind --from --to --window --good --store --json",
    "rollup": "--store --keep-days --since --json",
    "doctor": "--feed-url --json",
    "dashboards": "--out --json",
    "run": "NAME -p --parameters --out --timeout --log-format --json",
    "models": "KIND --registry --withdraw --restore --reason --json",
    "evaluate": "--history --kind --train-from --train-until --test-from --test-until --held-out --device --json",
}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    "Exit code and what was printed on stdout and stderr."
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as end:
        code = int(str(end.code or 0))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    "The one JSON object that a command prints."
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    (line,) = out.splitlines()
    return json.loads(line)


def made(capsys: pytest.CaptureFixture[str], path: Path, *words: object) -> bytes:
    "The file that `simulate` writes for a small city."
    code, _, err = run(capsys, "simulate", "--sensors", 20, "--hours", 2, "--out", path, *words)
    assert code == 0, err
    return path.read_bytes()


def test_events_happen_and_are_no_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain, truth = made(capsys, tmp_path / "plain.ndjson"), tmp_path / "truth.csv"
    hot = made(capsys, tmp_path / "hot.ndjson", "--events", "heat_wave", "--truth", truth)
    before, after = ([json.loads(line)["sensordatavalues"] for line in data.splitlines()] for data in (plain, hot))
    warmer = [
        float(now["value"]) - float(then["value"])
        for old, new in zip(before, after, strict=True)
        for then, now in zip(old, new, strict=True)
        if then["value_type"] == "temperature"
    ]
    assert min(warmer) >= 0 and max(warmer) > 1
    assert len(truth.read_text().splitlines()) == 1
    code, _, err = run(capsys, "simulate", "--out", tmp_path / "x", "--events", "picnic")
    assert code == 1 and "picnic" in err and "fireworks" in err


@pytest.fixture
def small(tmp_path: Path) -> Path:
    "A file of one good record, one that is dead, and a scrap."
    record = {
        "id": 1, "timestamp": "2024-03-05 06:00:00", "sensor": {"id": 81, "sensor_type": {"name": "SDS011"}},
        "location": {"id": 7, "latitude": "47.37", "longitude": "8.54", "country": "CH", "indoor": 1},
        "sensordatavalues": [{"value_type": "P1", "value": "9.80"}, {"value_type": "P2", "value": "14.20"}, {"value_type": "samples", "value": "5"}],
    }  # fmt: skip
    path = tmp_path / "small.ndjson"
    path.write_text("\n".join([json.dumps(record), json.dumps({**record, "id": 2, "sensor": {}}), "no json", ""]))
    return path


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert [name for name in OPTIONS[command].split() if name not in out] == []
    assert "--verbose" in out


def test_help_names_every_command_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "} == set(OPTIONS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, f"sensorlib {__version__}\n")


@pytest.mark.parametrize(
    "words",
    ["", "frobnicate", "check", "check --json", "check x --out", "check x --unknown", "simulate", "simulate --out x --sensors many",
     "simulate --out x --hours", "simulate --out x --seed 1.5", "demo --minutes soon", "scrape --source", "stream --parallelism", "doctor extra"],
)  # fmt: skip
def test_bad_usage_exits_2_and_says_so(capsys: pytest.CaptureFixture[str], words: str) -> None:
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("usage: sensorlib")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check {tmp}/none.json", r"no such file: .*none.json"),
        ("check {small} {tmp}/none.csv", r"no such file: .*none.csv"),
        ("check {small} --truth {tmp}/none.csv", r"none.csv"),
        ("check {small} --out {tmp}/x.xlsx", r"x.xlsx.*expected a name ending in"),
        ("check {small} --out {tmp}/none/x.csv", r"none/x.csv"),
        ("check {small} --dead {tmp}/none/x.csv", r"none/x.csv"),
        ("check {small} --truth {small}", r"small.ndjson"),
        ("check {tmp}/bad.json.gz", r"bad.json.gz"),
        ("check {tmp}/songs.csv", r"songs.csv has no column sensor_id"),
        ("simulate --out {tmp}/x.ndjson --faults rust", r"rust.*expected"),
        ("simulate --out {tmp}/x.ndjson --sensors 0", r"sensors is 0"),
        ("simulate --out {tmp}/x.ndjson --hours 1 --start yesterday", r"--start is 'yesterday'"),
        ("simulate --out {tmp}/none/x.ndjson --sensors 4 --hours 1", r"none/x.ndjson"),
        ("completeness --store sqlite:///{tmp}/none.db", r"no such store: .*none.db"),
        ("completeness --hours 0", r"--hours is 0, expected more than 0"),
        ("scrape --poll-s often", r"SENSORLIB_POLL_S is 'often'"),
        ("stream --batch {tmp}/none", r"no such file or folder: .*none"),
        ("collect --store nowhere", r"nowhere|no scheme"),
    ],
)
def test_a_failure_exits_1_with_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, words: str, message: str
) -> None:
    (tmp_path / "bad.json.gz").write_bytes(gzip.compress(b"[" * 1000)[:15])
    (tmp_path / "songs.csv").write_text("songs;singers\n1;2\n")
    code, out, err = run(capsys, *words.format(tmp=tmp_path, small=small).split())
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("sensorlib ")]
    assert pd.Series([line]).str.contains(message, regex=True).all(), line


def test_check_of_the_snapshot(capsys: pytest.CaptureFixture[str], shared_data: Path) -> None:
    told = answer(capsys, "check", shared_data / WORLD)
    assert set(told) == KEYS
    assert told["readings"] == told["good"] + told["flagged"]
    assert (told["records"], told["readings"] + told["other"] + told["dead"]) == (6874, 14486)
    assert (set(told["by_flag"]), set(told["by_value_type"])) == (
        set(FLAGS),
        {"P1", "P2", "temperature", "humidity", "pressure"},
    )


def test_check_of_several_paths_is_their_sum(capsys: pytest.CaptureFixture[str], shared_data: Path) -> None:
    told = answer(
        capsys, "check", shared_data / "odd", shared_data / "archive" / "basecamp_2019-04_05_day_csvs.tar.zst"
    )
    assert (told["records"], told["dead"]) == (158 + 5 + 2 + 1 + 1 + 2715, 9 + 10 + 928)
    assert told["readings"] + told["other"] + told["dead"] == 339 + 10 + 4 + 9 + 10 + 6781


def test_check_for_people(capsys: pytest.CaptureFixture[str], small: Path) -> None:
    code, out, _ = run(capsys, "check", small)
    assert code == 0
    assert {line.split()[0]: line.split()[1] for line in out.splitlines()}.items() >= {
        "records": "2", "readings": "2", "good": "0", "flagged": "2", "dead": "4", "other": "1"
    }.items()  # fmt: skip


READERS = {"parquet": pd.read_parquet, "csv": pd.read_csv, "ndjson": lambda path: pd.read_json(path, lines=True)}


@pytest.mark.parametrize("ending", READERS)
def test_check_writes_the_readings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, ending: str
) -> None:
    out = tmp_path / f"readings.{ending}"
    answer(capsys, "check", small, "--out", out)
    table = READERS[ending](out)
    assert tuple(table) == READING_COLUMNS
    assert list(table["value"]) == [9.8, 14.2]
    assert list(table["qc"]) == [FLAGS["relation"] + FLAGS["indoor"] + FLAGS["short"]] * 2
    assert pd.to_datetime(table["ts"], utc=True).tolist() == [pd.Timestamp("2024-03-05T06:00:00Z")] * 2
    assert (table["country"][0], table["cell"][0], bool(table["indoor"][0])) == ("CH", "47.3_8.5", True)


def test_times_in_a_file_are_utc(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    for ending in ("parquet", "csv", "ndjson"):
        answer(capsys, "check", small, "--out", tmp_path / f"x.{ending}")
    assert str(pd.read_parquet(tmp_path / "x.parquet")["ts"].dt.tz) == "UTC"
    assert "2024-03-05 06:00:00+00" in (tmp_path / "x.csv").read_text()
    assert "2024-03-05 06:00:00+00" in (tmp_path / "x.ndjson").read_text()


def test_the_whole_snapshot_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Path) -> None:
    told = answer(capsys, "check", shared_data / WORLD, "--out", tmp_path / "x.parquet")
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert len(table) == told["readings"]
    assert table["value_type"].value_counts().to_dict() == told["by_value_type"]
    assert (table["qc"] & 127 > 0).sum() == told["flagged"]
    assert set(table["value_type"]) < set(VALUE_TYPES)


@pytest.mark.parametrize("ending", READERS)
def test_check_writes_the_dead(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, ending: str) -> None:
    told = answer(capsys, "check", small, "--dead", tmp_path / f"dead.{ending}")
    table = READERS[ending](tmp_path / f"dead.{ending}")
    assert len(table) == told["dead"] == 4
    assert list(table["reason"]) == ["sensor_id"] * 3 + ["not_json"]
    assert table["text"].astype(str).iloc[-1] == "no json"


@pytest.mark.parametrize("ending", ["parquet", "csv", "ndjson"])
def test_check_finds_what_simulate_spoilt(capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str) -> None:
    spoilt, truth = tmp_path / "city.ndjson.zst", tmp_path / f"truth.{ending}"
    printed = answer(
        capsys, "simulate", "--sensors", 40, "--hours", 4, "--faults", "all", "--out", spoilt, "--truth", truth
    )
    told = answer(capsys, "check", spoilt, "--truth", truth)
    assert set(told) == KEYS | {"truth"}
    assert sum(told["truth"]["spoilt"].values()) == printed["spoilt"] == len(READERS[ending](truth)) > 0
    assert set(told["truth"]["recall"]) == set(FAULTS)
    assert min(told["truth"]["recall"].values()) >= 0.95
    assert told["truth"]["precision"] >= 0.99
    assert (told["dead"], told["other"]) == (0, 0)


def test_simulate_is_the_same_for_a_seed_and_another_for_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, same, other = (
        made(capsys, tmp_path / f"{n}.ndjson", "--seed", seed, "--faults", "all") for n, seed in enumerate((7, 7, 8))
    )
    assert one == same != other
    assert len(read_answer(one).records) > 500


def test_simulate_without_faults_is_clean_and_its_truth_is_empty(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clean = made(capsys, tmp_path / "clean.ndjson", "--truth", tmp_path / "truth.csv")
    spoilt = made(capsys, tmp_path / "spoilt.ndjson", "--faults", "code,unit")
    one, two = read_answer(clean).records, read_answer(spoilt).records
    assert [r["id"] for r in one] == [r["id"] for r in two]
    assert 0 < sum(a != b for a, b in zip(one, two, strict=True)) < 0.05 * len(one)
    assert list(pd.read_csv(tmp_path / "truth.csv")) == ["sensor_id", "value_type", "ts", "fault"]


def test_simulate_packs_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = made(capsys, tmp_path / "x.ndjson")
    assert gzip.decompress(made(capsys, tmp_path / "x.ndjson.gz")) == plain
    packed = made(capsys, tmp_path / "x.ndjson.zst")
    assert zstandard.ZstdDecompressor().stream_reader(packed).read() == plain


@pytest.mark.parametrize("hours", [0.25, 1.0, 1.5])
def test_simulate_takes_parts_of_an_hour(capsys: pytest.CaptureFixture[str], tmp_path: Path, hours: float) -> None:
    found = read_answer(made(capsys, tmp_path / "x.ndjson", "--hours", hours, "--start", "2024-02-29T00:00:00Z"))
    times = pd.to_datetime([r["timestamp"] for r in found.records], utc=True)
    start = pd.Timestamp("2024-02-29", tz="UTC")
    assert start <= times.min() < times.max() < start + pd.Timedelta(hours=hours)
    assert times.max() > start + pd.Timedelta(hours=hours) - pd.Timedelta(minutes=5)


@pytest.fixture
def counted(tmp_path: Path) -> str:
    "URL of a store with the completeness of two sensors in the last hours."
    url, hour = f"sqlite:///{tmp_path}/readings.db", datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [(1, 0, 24, 24, 0, 0), (2, 0, 25, 20, 4, 1), (2, 1, 25, 0, 25, 0), (2, 90, 25, 0, 0, 25)]
    store = open_store(url)
    store.write_completeness(
        [
            SensorHour(hour - timedelta(days=9), hour - timedelta(hours=ago), s, 148.0, *counts)
            for s, ago, *counts in rows
        ]
    )
    store.close()
    return url


def test_completeness_tells_whose_the_gaps_are(capsys: pytest.CaptureFixture[str], counted: str) -> None:
    told = answer(capsys, "completeness", "--store", counted)
    worst = {"sensor_id": 2, "expected": 50, "received": 20, "missed_feed": 29, "missed_ours": 1, "share": 0.4}
    assert told.pop("since") < told.pop("until")
    assert told == {"sensors": 2, "expected": 74, "received": 44, "missed_feed": 29, "missed_ours": 1, "share": 0.5946, "worst": [worst]}  # fmt: skip
    assert answer(capsys, "completeness", "1", "--store", counted)["share"] == 1
    assert answer(capsys, "completeness", "3", "--store", counted)["share"] is None
    assert answer(capsys, "completeness", "--hours", "120", "--store", counted)["missed_ours"] == 26
    code, out, _ = run(capsys, "completeness", "--store", counted)
    network, worst = out.splitlines()[2:]
    assert (code, network.split()) == (0, ["2", "sensors", "74", "44", "59.5%", "29", "39.2%", "1", "1.4%"])
    assert worst.split() == ["sensor", "2", "50", "20", "40.0%", "29", "58.0%", "1", "2.0%"]
    assert "no reading was expected" in run(capsys, "completeness", "3", "--store", counted)[1]


def test_completeness_draws_a_page(capsys: pytest.CaptureFixture[str], counted: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for sensor, drawn in (("1", True), ("3", False)):
        assert f"page: {page}" in run(capsys, "completeness", sensor, "--store", counted, "--page", str(page))[1]
        assert ("plotly-graph-div" in page.read_text()) is drawn
        assert "<script src" not in page.read_text()


def test_doctor_says_what_is_here_and_what_is_missing(capsys: pytest.CaptureFixture[str], web: "Web") -> None:
    code, out, _ = run(capsys, "doctor", "--json", "--feed-url", web.reply(b"[1, 2]").url)
    told = json.loads(out)
    assert set(told) == {"found", "missing"}
    assert [name for name, found in told["found"].items() if found is None] == told["missing"]
    assert told["found"]["the feed"] == "6"
    assert told["found"]["Python 3.11"] == sys.version.split()[0]
    assert {"papermill", "onnxruntime"} <= set(told["found"])
    assert code == int(bool(set(told["missing"]) & {"Java", "Kafka's jars", "Flink", "plotly"}))


def test_doctor_tells_people_how_to_get_it(capsys: pytest.CaptureFixture[str], web: "Web") -> None:
    _, out, _ = run(capsys, "doctor", "--feed-url", web.reply(status=500).url)
    lines = {line.split(maxsplit=1)[1][:14].strip(): line for line in out.splitlines()}
    assert lines["the feed"].split()[0] == "missing"
    assert f"{web.url} must be reachable" in lines["the feed"]
    assert lines["Python 3.11"].split()[0] == "ok"


def test_stdout_is_json_and_logs_go_to_stderr(small: Path) -> None:
    command = [sys.executable, "-m", "sensorlib.cli", "check", small, "--json", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == KEYS
    assert "Traceback" not in done.stderr
