"""Generated input through reading, judging and storing: nothing crashes, and everything is accounted for."""

import gzip
import json
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from conftest import INPUTS
from fuzzing import (
    DAY_FILE,
    EDIT,
    GOOD,
    READINGS,
    RECORDS,
    almost_plain_day_files,
    drawn,
    edited,
    inputs,
    spoilt_answers,
    spoilt_day_files,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_archive import tar, zipped

from sensorlib.archive import PLACES, VALUE_NAMES, Rows, open_files, plain_head, read_csv, read_file, read_rows
from sensorlib.core import (
    TIME_AS_WRITTEN,
    Reading,
    SensorlibError,
    SettingError,
    kind_of,
    parse_id,
    parse_number,
    parse_time,
)
from sensorlib.feed import Answer, measurements, merge_records, read_answer
from sensorlib.health import examine_files
from sensorlib.influx import line_protocol
from sensorlib.quality import check_files, summarise
from sensorlib.rows import label
from sensorlib.scraper import LocalMemory, send_answer
from sensorlib.sqlite import SqliteStore
from sensorlib.store import Store, open_store

if TYPE_CHECKING:
    from influx import Influx

pytest_plugins = ("influx",)
Record = dict[str, Any]


def is_separator(character: str) -> bool:
    return character.isspace() or character in ",[]\ufeff"


def unaccounted(data: bytes, found: Answer) -> str:
    "What of an answer stands in no record and in no scrap, and is no separator either."
    text, at = data.decode("utf-8", "surrogateescape"), 0
    records = [*found.records]
    scraps = [scrap.original.decode("utf-8", "surrogateescape") for scrap in found.scraps]
    while at < len(text):
        if is_separator(text[at]):
            at += 1
            continue
        try:
            whole, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            whole, end = None, at
        if records and whole == records[0]:
            at = end
            records.pop(0)
        elif scraps and text.startswith(scraps[0], at):
            at += len(scraps.pop(0))
        else:
            break
    return text[at:] + "".join(map(repr, records + scraps))


@given(spoilt_answers())
@inputs(cut=1500, full=40_000)
def test_every_byte_of_an_answer_is_in_a_record_in_a_scrap_or_a_separator(data: bytes) -> None:
    INPUTS["spoilt answers of the feed, read"] += 1
    assert unaccounted(data, read_answer(data)) == ""


LINE = json.dumps(GOOD, ensure_ascii=False).encode()
STUMPS = st.builds(lambda cut: LINE[:cut], st.integers(1, len(LINE) - 1))
RUBBISH = st.text(st.characters(codec="utf-8", exclude_characters='{}[]"\n')).map(str.encode) | st.sampled_from(
    [b"\xff", b"\x00"]
)


@given(
    st.lists(st.one_of(st.just(LINE), STUMPS, RUBBISH), max_size=6), st.sampled_from([b"\n", b"\r\n", b",\n", b" \n"])
)
@inputs(cut=500, full=10_000)
def test_a_broken_line_takes_no_other_line_with_it(lines: list[bytes], end: bytes) -> None:
    INPUTS["answers with broken lines, read"] += 1
    found = read_answer(end.join(lines))
    assert found.records == [GOOD] * lines.count(LINE)


def reason_of(record: Record, value: object) -> str | None:
    "Why a value is no reading, told from the single parsers."
    sensor, moment, poll = (record.get(name) for name in ("sensor", "timestamp", "fetched_at"))
    moment = parse_time(moment)
    fetched = parse_time(poll) if isinstance(poll, str) and re.fullmatch(TIME_AS_WRITTEN, poll) else None
    if not isinstance(record.get("sensordatavalues"), list) or not record["sensordatavalues"]:
        return "no_values"
    if not isinstance(sensor, dict) or parse_id(written(sensor.get("id"))) is None:
        return "sensor_id"
    if moment is None or (fetched is not None and (moment - fetched).days >= 1):
        return "time"
    name, number = (value.get("value_type"), value.get("value")) if isinstance(value, dict) else (None, None)
    sensor_type = sensor["sensor_type"].get("name") if isinstance(sensor.get("sensor_type"), dict) else None
    known = kind_of(written(name), written(sensor_type)) is not None
    return "value" if name is None or number is None or (known and parse_number(written(number)) is None) else None


def written(value: object) -> str | None:
    "A field as text."
    return value if value is None or isinstance(value, str) else json.dumps(value)


def values_of(record: Record) -> list[Any]:
    "The values of a record; one of nothing where it has none."
    values = record.get("sensordatavalues")
    return values if isinstance(values, list) and values else [None]


@given(st.lists(RECORDS, max_size=4))
@inputs(cut=250, full=5_000)
def test_every_value_of_a_record_is_one_row_that_says_what_it_is(records: list[Record]) -> None:
    INPUTS["records of any shape, measured"] += len(records)
    rows = measurements(records)
    expected = [(n, reason_of(record, value)) for n, record in enumerate(records) for value in values_of(record)]
    assert list(zip(rows["record"], rows["reason"].where(rows["reason"].notna(), None), strict=True)) == expected
    readings = rows[rows["reason"].isna() & rows["kind"].notna()]
    assert readings["value"].tolist() == [parse_number(text) for text in readings["text"]]
    assert readings[["sensor_id", "ts"]].notna().all(axis=None)


class Letters:
    "Messages that a scraper sends."

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, topic: str, key: str | None, value: bytes) -> None:
        self.sent.append((topic, value))

    def flush(self) -> None:
        "Everything is there at once."


WITH_HEAD = spoilt_day_files().map(lambda data: DAY_FILE + data)
PLAIN_FILES = [
    st.tuples(st.sampled_from([".json", ".ndjson", ".txt"]), spoilt_answers()),
    st.tuples(st.just(".json"), st.lists(RECORDS, max_size=4).map(lambda records: json.dumps(records).encode())),
    st.tuples(st.just(".csv"), WITH_HEAD),
]


@given(st.one_of(PLAIN_FILES))
@inputs(cut=200, full=4_000)
def test_a_scraper_sends_on_whatever_it_was_given(file: tuple[str, bytes]) -> None:
    INPUTS["answers, scraped"] += 1
    found, letters = read_file(*file), Letters()
    memory = LocalMemory()
    counts = send_answer(found, memory, letters, "here", datetime.now(UTC))
    raw = [json.loads(value) for topic, value in letters.sent if topic == "sensor.raw"]
    assert counts.values == counts.sent + counts.repeated == len(measurements(merge_records(found.records)))
    assert len(measurements(raw)) == counts.sent
    lists = [record["sensordatavalues"] for record in raw if isinstance(record.get("sensordatavalues"), list)]
    assert all(isinstance(value, dict) for values in lists for value in values)
    assert len(letters.sent) - len(raw) == counts.scraps == len(found.scraps)
    assert send_answer(found, memory, Letters(), "here", datetime.now(UTC)).sent == 0


@given(spoilt_day_files())
@inputs(cut=800, full=15_000)
def test_every_row_of_a_day_file_is_a_record_or_a_scrap(data: bytes) -> None:
    INPUTS["spoilt day files, read"] += 1
    rows = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig", "surrogateescape"))[1:]
    try:
        found = read_file("day.csv", data)
    except SettingError as error:
        assert "day.csv" in str(error)
        return
    assert len(found.records) + len(found.scraps) == sum(row != "" for row in rows)
    assert len(measurements(found.records)) == sum(len(values_of(record)) for record in found.records)


def texts_of(record: Record) -> tuple[Any, ...]:
    "What the cells of a row say, as a record has it."
    place, sensor = record["location"], record["sensor"]
    names = ("id", "latitude", "longitude", "altitude", "indoor")
    values = [(value["value_type"], value["value"]) for value in record["sensordatavalues"]]
    told = (record["timestamp"], sensor["id"], sensor["sensor_type"]["name"], *(place[name] for name in names))
    return *(text or "" for text in told), values


def texts_in(rows: Rows, row: int) -> tuple[Any, ...]:
    "What the cells of a row say, as the columns have it."
    cells = {name: column[row].as_py() for name, column in rows.columns.items()}
    names = ("timestamp", "sensor_id", "sensor_type", "location", "lat", "lon", "altitude", "indoor")
    values = [(VALUE_NAMES.get(name, name), cell) for name, cell in cells.items() if name not in PLACES and cell]
    return *(cells.get(name, "") for name in names), values


@given(almost_plain_day_files())
@inputs(cut=400, full=10_000)
def test_columns_of_a_day_file_say_what_its_rows_say(data: bytes) -> None:
    if plain_head(data) is None or (rows := read_rows([data])) is None:
        INPUTS["day files, left to the careful reader"] += 1
        return
    INPUTS["day files, read as columns and row by row"] += 1
    found = read_csv(data)
    assert not found.scraps
    assert rows.line.tolist() == found.lines
    assert [texts_in(rows, row) for row in range(len(rows.line))] == [*map(texts_of, found.records)]


MEMBERS = {f"{number}.csv": DAY_FILE * number for number in range(5)}
PACKED = {
    "day.csv.gz": gzip.compress(DAY_FILE),
    "day.csv.zst": zstandard.compress(DAY_FILE),
    "days.zip": zipped(MEMBERS),
    "days.tar": tar(MEMBERS),
    "days.tgz": tar(MEMBERS, "w:gz"),
    "days.tar.zst": zstandard.compress(tar(MEMBERS)),
    "days.zst.tar": tar({f"{name}.zst": zstandard.compress(data) for name, data in MEMBERS.items()}),
}
PACKED_PARTS = {name: [DAY_FILE] if name.startswith("day.") else [*MEMBERS.values()] for name in PACKED}


@given(st.sampled_from([*PACKED]), st.integers(0, 10_000))
@inputs(cut=400, full=5_000)
def test_a_packed_file_that_is_cut_is_named_or_whole(tmp_path: Path, name: str, at: int) -> None:
    INPUTS["cut packed files, opened"] += 1
    (tmp_path / name).write_bytes(PACKED[name][: at % len(PACKED[name])])
    try:
        found = [data for _, data in open_files(tmp_path / name)]
    except SensorlibError as error:
        assert name in str(error)
        return
    assert found == PACKED_PARTS[name]


@given(st.sampled_from([*PACKED]), st.lists(EDIT, min_size=1, max_size=3))
@inputs(cut=400, full=5_000)
def test_a_packed_file_that_is_spoilt_is_named_or_read(tmp_path: Path, name: str, edits: list[Any]) -> None:
    INPUTS["spoilt packed files, opened"] += 1
    (tmp_path / name).write_bytes(edited(PACKED[name], edits))
    try:
        assert all(isinstance(data, bytes) for _, data in open_files(tmp_path / name))
    except SensorlibError as error:
        assert name in str(error)


FILES = st.one_of(*PLAIN_FILES, st.tuples(st.just(".csv.gz"), WITH_HEAD.map(gzip.compress)))
HEADLESS = st.tuples(st.just(".csv"), spoilt_day_files())


def rows_in(name: str, data: bytes) -> int:
    "Values and scraps in a file."
    found = read_file(name, data)
    return len(found.scraps) + sum(len(values_of(record)) for record in merge_records(found.records))


@given(st.one_of(*[st.lists(FILES, min_size=1, max_size=5)] * 4, st.tuples(HEADLESS)))
@inputs(cut=50, full=1_500)
def test_a_check_accounts_for_every_value(files: Sequence[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        for number, (ending, data) in enumerate(files):
            (Path(folder) / f"{number}{ending}").write_bytes(data)
        try:
            verdicts = check_files([Path(folder)])
        except SettingError as error:
            INPUTS["files of any content, refused by check"] += len(files)
            assert any(f"{number}.csv" in str(error) for number, (ending, _) in enumerate(files) if "csv" in ending)
            return
        INPUTS["files of any content, judged by check"] += len(files)
        again = check_files([Path(folder)])
        values = sum(rows_in(name, data) for name, data in open_files(Path(folder)))
        with suppress(SettingError):
            assert len(examine_files([Path(folder)])) <= len(verdicts.readings)
    told = summarise(verdicts)
    assert values == told["readings"] + told["other"] + told["dead"]
    assert told["readings"] == told["good"] + told["flagged"] == sum(told["by_value_type"].values())
    assert again.readings.equals(verdicts.readings) and summarise(again) == told


def take(text: str, ends: str) -> tuple[str, str]:
    "Read up to one of some characters, as InfluxDB does: a backslash before one of `, =` takes it along."
    found, at = "", 0
    while at < len(text) and text[at] not in ends:
        at += text[at] == "\\" and text[at + 1 : at + 2] in {",", "=", " "}
        found += text[at]
        at += 1
    return found, text[at:]


def pairs(text: str) -> tuple[dict[str, str], str]:
    "Names and values up to a blank, and what follows it."
    found: dict[str, str] = {}
    while not text.startswith(" "):
        name, text = take(text.removeprefix(","), "=")
        found[name], text = take(text[1:], ", ")
    return found, text[1:]


def parsed_line(line: str) -> tuple[dict[str, str], dict[str, str], int]:
    "Tags (with the measurement as one), fields and time of a line."
    measurement, rest = take(line, ", ")
    tags, rest = pairs(rest)
    fields, rest = pairs("," + rest)
    return {"kind": measurement, **tags}, fields, int(rest)


def tags_of(reading: Reading) -> dict[str, str]:
    "What has to stand in the tags of a reading."
    names = {name: label(getattr(reading, name)) for name in ("sensor_type", "country", "place")}
    numbers = {name: getattr(reading, name) for name in ("sensor_id", "location_id")}
    return {name: str(v) for name, v in {"kind": reading.kind, **names, **numbers}.items() if v is not None}


@given(READINGS)
@inputs(cut=1500, full=20_000)
def test_a_line_says_what_the_reading_says(reading: Reading) -> None:
    INPUTS["readings with any names and numbers, as line protocol"] += 1
    line = line_protocol([reading])
    tags, fields, moment = parsed_line(line)
    assert len(line.splitlines()) == 1
    assert tags == tags_of(reading)
    assert moment == reading.ts.timestamp()
    assert struct.pack("d", float(fields.pop(reading.value_type))) == struct.pack("d", reading.value)
    assert fields.pop(f"{reading.value_type}_qc") == f"{reading.qc}i"
    assert {name: float(text) for name, text in fields.items() if name != "indoor"} == {
        name: getattr(reading, name) for name in ("lat", "lon") if getattr(reading, name) is not None
    }


@pytest.fixture(params=["sqlite", "influxdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    "A store that is empty."
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/readings.db"
        if request.param == "influxdb":
            influx: Influx = request.getfixturevalue("influx")
            monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
            url = stack.enter_context(influx.bucket())
        store = open_store(url)
        stack.callback(store.close)
        yield store


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("d", value)


def test_names_and_numbers_come_back_as_they_were(store: Store) -> None:
    made = drawn(READINGS, cut=2000, full=25_000)
    day = datetime(2026, 3, 15, tzinfo=UTC)  # a file for each week would be too many for InfluxDB
    readings = [replace(r, sensor_id=10**18 - 1 - n, ts=day.replace(second=n % 60)) for n, r in enumerate(made)]
    INPUTS[f"readings with any names and numbers, through {type(store).__name__}"] += len(readings)
    for start in range(0, len(readings), 5000):
        assert not store.write(readings[start : start + 5000])
    rows = store.latest("particulates").astype(object)
    rows = rows.where(rows.notna(), None).sort_values("sensor_id", ascending=False)
    assert len(rows) == len(readings)
    zero = 0.0 if isinstance(store, SqliteStore) else -0.0  # SQLite keeps no sign of a zero
    kept = ("cell",) if isinstance(store, SqliteStore) else ()
    for row, reading in zip(rows.to_dict("records"), readings, strict=True):
        for name in ("sensor_type", "country", "place", *kept):
            assert row[name] == label(getattr(reading, name)), reading
        for name in ("sensor_id", "location_id", "ts", "value_type", "qc", "indoor"):
            assert row[name] == getattr(reading, name), reading
        for name in ("value", "lat", "lon"):
            number = getattr(reading, name)
            assert bits(row[name]) == bits(None if number is None else number + zero), reading
