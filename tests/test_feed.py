"""Whatever the feed answers: real files, every cut, garbage, records of any shape, and a server with moods."""

import copy
import gzip
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from test_core import IDS, NUMBERS, TIMES

from sensorlib import __version__
from sensorlib.archive import open_files, read_file
from sensorlib.core import DEAD_REASONS, FeedError, SensorlibError, parse_id, parse_number, parse_time
from sensorlib.feed import Answer, Feed, Scrap, measurements, merge_records, parse_texts, read_answer

if TYPE_CHECKING:
    from conftest import Web

Record = dict[str, Any]
POLLS = "api/2017-10-29_sensor_2125_2126_polls.tar.zst"
WHOLE = {"SDS011": {"P1", "P2"}, "DHT22": {"temperature", "humidity"}}


def record(number: int = 1, **changes: object) -> Record:
    "A record as the feed has it."
    made = {
        "id": number, "sampling_rate": None, "timestamp": "2024-03-05 06:00:00",
        "location": {"id": 7, "latitude": "47.37", "longitude": "8.54", "altitude": "408.0", "country": "CH", "indoor": 0, "town": "Zürich"},
        "sensor": {"id": 81, "pin": "1", "sensor_type": {"id": 14, "name": "SDS011", "manufacturer": "Nova Fitness"}},
        "sensordatavalues": [
            {"id": 10 * number, "value": "14.20", "value_type": "P1"},
            {"id": 10 * number + 1, "value": "9.80", "value_type": "P2"},
        ],
    }  # fmt: skip
    return {**made, **changes}


def read(path: Path) -> Answer:
    "The one file in a path."
    ((name, data),) = open_files(path)
    return read_file(name, data)


def rows_of(records: list[Record]) -> int:
    "Rows that a table of these records must have."
    lists = [v if isinstance(v := r.get("sensordatavalues"), list) else [] for r in records]
    return sum(max(1, len(values)) for values in lists)


def names(found: Record) -> set[str]:
    return {value["value_type"] for value in found["sensordatavalues"]}


@pytest.fixture(scope="module")
def polls(shared_data: Path) -> list[Answer]:
    return [read_file(name, data) for name, data in open_files(shared_data / POLLS)]


@pytest.mark.parametrize(
    ("path", "records", "values", "reasons"),
    [
        ("api/2017-08-10_world_data.json.gz", 6874, 14486, set()),
        ("api/2019-04-16_mongoexport_data.ndjson.gz", 243, 488, set()),
        ("odd/truncated_2017-08-10_data.json.gz", 158, 339, set()),
        ("odd/luftdatenpumpe_upstream_2019-04-25.json", 5, 10, set()),
        ("odd/python_luftdaten_sensor_152_2021-11-07.json", 2, 4, set()),
        ("odd/push_payload_airrohr_kotori.json", 1, 9, {"sensor_id"}),
        ("odd/push_payload_airrohr_NRZ-2024-135.json", 1, 10, {"sensor_id"}),
    ],
)
def test_published_answers(shared_data: Path, path: str, records: int, values: int, reasons: set[str]) -> None:
    found = read(shared_data / path)
    table = measurements(found.records)
    assert (len(found.records), len(table), found.scraps) == (records, values, [])
    assert set(table["reason"].dropna()) == reasons
    assert table["reason"].isna().all() or table["reason"].notna().all()


def test_published_values_are_read_to_the_last_digit(shared_data: Path) -> None:
    found = read(shared_data / "api" / "2017-08-10_world_data.json.gz")
    texts = [value["value"] for r in found.records for value in r["sensordatavalues"]]
    table = measurements(found.records)
    assert table["text"].tolist() == texts
    assert table["value"].tolist() == [float(text) for text in texts]
    assert table["ts"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist() == [
        r["timestamp"] for r in found.records for _ in r["sensordatavalues"]
    ]


def test_polls_hold_records_in_pieces_and_merging_makes_them_whole(polls: list[Answer]) -> None:
    assert (len(polls), [poll for poll in polls if poll.scraps]) == (708, [])
    assert sum(not poll.records for poll in polls) == 1
    pieces = [r for poll in polls for r in poll.records]
    kinds = {r["id"]: WHOLE[r["sensor"]["sensor_type"]["name"]] for r in pieces}
    assert len(kinds.keys() - {r["id"] for r in pieces if names(r) == kinds[r["id"]]}) == 34
    merged = merge_records(pieces)
    assert [r["id"] for r in merged] == list(kinds)
    assert [r["id"] for r in merged if names(r) != kinds[r["id"]] or len(r["sensordatavalues"]) != 2] == []


def test_merging_every_poll_leaves_no_record_in_pieces(polls: list[Answer]) -> None:
    merged = [r for poll in polls for r in merge_records(poll.records)]
    assert [r["id"] for r in merged if names(r) != WHOLE[r["sensor"]["sensor_type"]["name"]]] == []


LISTED = [record(1), record(2), record(3)]
FORMS = {
    "array": json.dumps(LISTED, ensure_ascii=False),
    "compact": json.dumps(LISTED, separators=(",", ":")),
    "lines": "\n".join(map(json.dumps, LISTED)) + "\n",
    "lines with commas": "\n" + ",\n".join(map(json.dumps, LISTED)) + ",\n",
    "lines of Windows": "\ufeff" + "\r\n".join(map(json.dumps, LISTED)) + "\r\n",
    "one after the other": "".join(map(json.dumps, LISTED)),
    "indented": json.dumps(LISTED, indent=1),
}


def ends(text: str) -> list[int]:
    "Where each record of a form ends [bytes]."
    found, at = [], 0
    while (at := text.find("{", at)) >= 0:
        at = json.JSONDecoder().raw_decode(text, at)[1]
        found.append(len(text[:at].encode()))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_cut_at_any_byte_keeps_what_is_whole(form: str) -> None:
    data, whole = FORMS[form].encode(), ends(FORMS[form])
    assert len(whole) == 3
    for cut in range(3, len(data) + 1):
        count = sum(end <= cut for end in whole)
        stump = data[max([0, *(end for end in whole if end <= cut)]) : cut].lstrip(b" \r\n,[]\xef\xbb\xbf")
        found = read_answer(data[:cut])
        assert found.records == LISTED[:count], cut
        assert found.scraps == ([Scrap("cut", stump)] if stump else []), cut


def test_a_byte_order_mark_that_is_cut_is_a_scrap() -> None:
    assert read_answer(b"\xef\xbb") == Answer([], [Scrap("not_json", b"\xef\xbb")])


GARBAGE = {
    "nothing": b"", "blanks": b" \r\n\t", "html": b"<html>502 Bad Gateway</html>", "NUL": b"\x00" * 100, "not UTF-8": bytes(range(128, 256)),
    "brackets": b"[" * 100_000, "closed brackets": b"[" * 100_000 + b"]" * 100_000, "braces": b"{" * 100_000, "objects": b'{"a":' * 100_000,
    "quotes": b'"' * 10_001, "digits": b"9" * 100_000, "negative": b"-" + b"9" * 10_000, "exponent": b"1e" + b"9" * 1000, "commas": b"," * 100_000,
    "endless id": b'[{"id": ' + b"9" * 100_000 + b"}]", "endless fraction": b"0." + b"3" * 100_000, "UTF-16": json.dumps([record()]).encode("utf-16"),
    "half a surrogate": rb'"\ud800"', "halves in a row": b',{"a":1' * 5_000, "lines of halves": b'{"a":\n' * 2_000, "scalars": b"1 true null [] NaN -Infinity",
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_read_in_no_time_and_holds_no_record(what: str) -> None:
    began = time.process_time()
    found = read_answer(GARBAGE[what])
    assert found.records == []
    assert {scrap.reason for scrap in found.scraps} <= {"cut", "not_json"}
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "piece",
    [b"<p>Stra\xdfe</p>", b"\xff\xfe", b"NaN", b"1.50e1", '"é"'.encode(), b"\xf0\x9f\x98", b'"\\u00e9"', b"{]", b"tru"],
)
def test_a_scrap_is_the_bytes_that_came(piece: bytes) -> None:
    one, two = json.dumps(record(1)).encode(), json.dumps(record(2)).encode()
    for data in (b"\n".join([one, piece, two]), b"[" + one + b",\n" + piece + b",\n" + two + b"]"):
        found = read_answer(data)
        assert found.records == [record(1), record(2)]
        assert [scrap.original.rstrip(b",") for scrap in found.scraps] == [piece]


def test_a_broken_line_costs_only_itself() -> None:
    lines = [json.dumps(record(n)).encode() for n in range(20)]
    lines[3], lines[7] = b'{"id": NaN}', lines[7].replace(b'"14.20"', b"NaN")
    lines[11] = lines[11][:40]
    found = read_answer(b"\n".join(lines))
    assert [r["id"] for r in found.records] == [n for n in range(20) if n not in (3, 7, 11)]
    assert [scrap.original for scrap in found.scraps] == [lines[3], lines[7], lines[11]]


@pytest.mark.parametrize("cut", [20, 130, 360])
def test_a_cut_line_before_the_last_one_costs_only_itself(cut: int) -> None:
    stump, last = json.dumps(record(1)).encode()[:cut], json.dumps(record(2)).encode()
    assert read_answer(stump + b"\n" + last) == Answer([record(2)], [Scrap("not_json", stump.rstrip())])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"14.20"', b"NaN"),
        (b'"14.20"', b""),
        (b'"14.20"', b'"14.20'),
        (b'"14.20"', b'"14\t20"'),
        (b'"14.20"', b"014"),
        (b'"town"', b"town"),
        (b'"SDS011"', b'"SDS\xff011"'),
        (b'"SDS011"', rb'"SDS\ud800"'),
        (b'"9.80", "value_type": "P2"}]}', b'"9.'),
    ],
)
@pytest.mark.parametrize("separator", [b", ", b"\n", b",\n"], ids=["one line", "lines", "lines with commas"])
def test_a_broken_record_costs_only_itself(separator: bytes, good: bytes, bad: bytes) -> None:
    pieces = [json.dumps(record(n)).encode() for n in range(1, 8)]
    pieces[3] = pieces[3].replace(good, bad, 1)
    found = read_answer(b"[" + separator.join(pieces) + b"]")
    assert [r["id"] for r in found.records] == [1, 2, 3, 5, 6, 7]
    assert [(scrap.reason, scrap.original) for scrap in found.scraps] == [("not_json", pieces[3])]


@pytest.mark.parametrize("levels", [50, 500, *range(930, 1000, 3)])
def test_what_nests_too_deep_to_be_handled_is_a_scrap(levels: int) -> None:
    deep = json.dumps(record(id="@", sensor={"id": "@"})).replace('"@"', "[" * levels + "]" * levels).encode()
    found = read_answer(b"[" + deep + b"]")
    assert len(measurements(found.records)) == 2 * len(found.records)
    assert found.records or deep in found.scraps[0].original


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_no_json_makes_no_record(constant: str) -> None:
    text = json.dumps(record()).replace('"14.20"', constant)
    assert read_answer(text.encode()) == Answer([], [Scrap("not_json", text.encode())])
    found = read_answer("\n".join([json.dumps(record(2)), text, json.dumps(record(3))]).encode())
    assert found == Answer([record(2), record(3)], [Scrap("not_json", text.encode())])


@pytest.mark.parametrize("number", ["1e999", "-1e999", "123456789012345678901234567890", "1" * 400, "0." + "3" * 400])
def test_huge_numbers_are_numbers(number: str) -> None:
    ((found,), scraps) = (a := read_answer(json.dumps(record()).replace('"14.20"', number).encode())).records, a.scraps
    table = measurements([found])
    assert scraps == []
    assert list(table["reason"]) == ["value" if parse_number(json.loads(number)) is None else None, None]


def mangle(data: bytes, rng: random.Random) -> bytes:
    "Cut out, double, overwrite or add a few bytes."
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        cut = rng.choice([0, 0, 1, 2, 50])
        data = (
            data[:at]
            + rng.choice([b"", rng.randbytes(2), rng.choice(b'{}[],:"\\').to_bytes(), data[at : at + 30]])
            + data[at + cut :]
        )
    return data


def mangled(count: int) -> Iterator[Answer]:
    "Answers to many mangled bytes, always the same ones."
    rng = random.Random(7)
    for _ in range(count):
        yield read_answer(mangle(rng.choice(list(FORMS.values())).encode(), rng))
        yield read_answer(rng.randbytes(rng.randint(0, 60)))


def test_mangled_answers_are_read_and_their_records_keep_their_rows() -> None:
    records = []
    for found in mangled(1500):
        assert all(isinstance(r, dict) for r in found.records)
        assert {scrap.reason for scrap in found.scraps} <= {"cut", "not_json"}
        records += merge_records(found.records)
    assert len(records) > 2000
    assert len(measurements(records)) == rows_of(records)


def test_what_is_read_can_be_written_again_as_it_was() -> None:
    for found in mangled(1500):
        for r in found.records:
            assert json.loads(json.dumps(r, ensure_ascii=False).encode()) == r


def paths_of(value: object, *path: object) -> Iterator[tuple[object, ...]]:
    "Path of every field in a record."
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, member in entries:
        yield (*path, key)
        yield from paths_of(member, *path, key)


def replaced(made: Record, path: tuple[Any, ...], wrong: object) -> Record:
    "A record with something else at a path."
    changed: Any = copy.deepcopy(made)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return changed


ENRICHED = record() | {"country_abb": "CH", "place": "Zürich", "cell": "47.3_8.5", "fetched_at": "2024-03-05T06:01:00Z"}
WRONG = [
    replaced(ENRICHED, path, wrong)
    for path in paths_of(ENRICHED)
    for wrong in (None, 5, "x", [], {}, True, [[]], 1e300, -1)
]


def test_a_wrong_type_anywhere_loses_no_row() -> None:
    table = measurements(WRONG)
    assert len(WRONG) > 250
    assert len(table) == rows_of(WRONG)
    assert (table.groupby("record").size().to_numpy() == [rows_of([r]) for r in WRONG]).all()
    assert set(table["reason"].dropna()) == {"no_values", "sensor_id", "time", "value"} < DEAD_REASONS.keys()


def test_a_wrong_type_is_judged_alike_alone_and_in_company() -> None:
    table = measurements(WRONG)
    for position in range(0, len(WRONG), 17):
        alone = measurements([WRONG[position]]).drop(columns="record")
        company = table[table["record"] == position].drop(columns="record").reset_index(drop=True)
        assert alone.astype(str).equals(company.astype(str)), WRONG[position]


def test_a_wrong_type_does_not_stop_the_merging() -> None:
    merged = [merge_records(pair) for wrong in WRONG for pair in ([wrong, ENRICHED], [ENRICHED, wrong], [wrong, wrong])]
    assert {len(records) for records in merged} == {1, 2}
    flat = [r for records in merged for r in records]
    assert len(measurements(flat)) == rows_of(flat)


def test_the_table_of_nothing_has_the_same_columns() -> None:
    empty, full = measurements([]), measurements([record()])
    assert list(empty) == list(full)
    assert len(empty) == 0
    types = full.dtypes.astype(str).to_dict()
    assert {name: str(empty[name].dtype) for name in ("ts", "value", "sensor_id", "lat", "indoor")} == {
        name: types[name] for name in ("ts", "value", "sensor_id", "lat", "indoor")
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sensordatavalues": []}, "no_values"),
        ({"sensordatavalues": [], "sensor": {}, "timestamp": None}, "no_values"),
        ({"sensor": {}, "timestamp": None}, "sensor_id"),
        ({"timestamp": "yesterday", "sensordatavalues": [{}]}, "time"),
        ({"timestamp": "2024-03-06 06:01:00"}, "time"),
        ({"sensordatavalues": [{"value_type": "P1", "value": ""}]}, "value"),
        ({"sensordatavalues": [{"value_type": "durP1"}]}, "value"),
        ({"sensordatavalues": [{"value": "1"}]}, "value"),
    ],
)
def test_the_first_reason_counts(changes: Record, reason: str) -> None:
    assert set(measurements([{**ENRICHED, **changes}])["reason"]) == {reason}


def test_up_to_a_day_in_the_future_is_fine() -> None:
    table = measurements(
        [
            {**ENRICHED, "timestamp": "2024-03-06 06:00:59"},
            {**ENRICHED, "fetched_at": None, "timestamp": "2098-01-01 00:00:00"},
        ]
    )
    assert table["reason"].isna().all()


def test_what_the_table_of_kinds_does_not_know_may_say_anything() -> None:
    values = [{"value_type": name, "value": text} for name, text in (("durP1", "Sep 60"), ("p1", "x"), ("P1", "x"))]
    table = measurements([record(sensordatavalues=values)])
    assert list(table["reason"]) == [None, None, "value"]
    assert list(table["kind"]) == [None, None, "particulates"]


def texts(size: int, **columns: list[str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    "Texts of records and of their values: the columns given, and what a good record says for the rest."
    good = {
        "record_id": "1", "sensor_id": "81", "sensor_type": "SDS011", "location_id": "7", "lat": "47.37", "lon": "8.54", "altitude": "408",
        "indoor": "0", "country": "CH", "place": None, "cell": None, "ts": "2024-03-05 06:00:00", "fetched_at": None, "value_type": "P1",
        "text": "14.2",
    }  # fmt: skip
    filled = {name: columns.get(name, [text] * size) for name, text in good.items()}
    values = {name: filled.pop(name) for name in ("value_type", "text")}
    return filled, {"record": np.arange(size), **values, "is_value": [True] * size}


def or_none(column: pd.Series) -> list[object]:
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


@pytest.mark.parametrize("column", ["text", "lat", "lon", "altitude"])
def test_a_column_reads_numbers_as_one_number_is_read(column: str) -> None:
    parsed = parse_texts(*texts(len(NUMBERS) + 1, **{column: [*NUMBERS, None]}))
    assert or_none(parsed["value" if column == "text" else column]) == [*map(parse_number, NUMBERS), None]


@pytest.mark.parametrize("column", ["record_id", "sensor_id", "location_id"])
def test_a_column_reads_ids_as_one_id_is_read(column: str) -> None:
    parsed = parse_texts(*texts(len(IDS) + 1, **{column: [*IDS, None]}))
    assert or_none(parsed[column]) == [*map(parse_id, IDS), None]


def test_a_column_reads_times_as_one_time_is_read() -> None:
    parsed = parse_texts(*texts(len(TIMES) + 1, ts=[*TIMES, None]))
    assert or_none(parsed["ts"].astype(object)) == [*map(parse_time, TIMES), None]


def test_the_reason_is_what_could_not_be_read() -> None:
    for column, table, reason in (("text", NUMBERS, "value"), ("sensor_id", IDS, "sensor_id"), ("ts", TIMES, "time")):
        parsed = parse_texts(*texts(len(table), **{column: [*table]}))
        assert list(parsed["reason"]) == [reason if good is None else None for good in table.values()]


def test_columns_read_many_numbers_exactly() -> None:
    rng = random.Random(5)
    many = [f"{rng.uniform(-1, 1) * 10 ** rng.randint(-5, 5):.{rng.randint(0, 17)}f}" for _ in range(20_000)]
    assert parse_texts(*texts(len(many), text=many))["value"].tolist() == [parse_number(text) for text in many]


@pytest.mark.parametrize("value", [0, -0.0, 5, 1e22, 1e-7, 0.1, 10**17 + 1, True, None, [], {}, "5", "x", 10**30])
def test_numbers_of_json_are_read_as_one_number_is_read(value: object) -> None:
    table = measurements([record(sensordatavalues=[{"value_type": "P1", "value": value}])])
    assert or_none(table["value"]) == [parse_number(value)]


def test_the_ids_of_a_record_may_be_numbers_or_texts() -> None:
    for number in (81, "81"):
        table = measurements([record(sensor={"id": number}, location={"id": number}, id=number)])
        assert {*table["sensor_id"], *table["location_id"], *table["record_id"]} == {81}


def test_what_stands_in_place_of_a_text_is_written_as_the_stream_writes_it() -> None:
    table = measurements([record(place=["東", {"a": True}])])
    assert set(table["place"]) == {'["東",{"a":true}]'}


@pytest.mark.parametrize(
    ("value", "indoor"),
    [
        (0, False),
        (1, True),
        ("0", False),
        ("1", True),
        (True, True),
        (False, False),
        (2, None),
        ("", None),
        (None, None),
        ([], None),
    ],
)
def test_indoor(value: object, indoor: bool | None) -> None:
    table = measurements([record(location={"indoor": value})])
    assert or_none(table["indoor"]) == [indoor, indoor]


def test_merging_keeps_the_first_of_two_equal_value_types() -> None:
    first, second = ({"value_type": "P1", "value": text} for text in ("1", "2"))
    other = {"value_type": "P2", "value": "3"}
    merged = merge_records([record(sensordatavalues=[first]), record(2), record(sensordatavalues=[second, other])])
    assert [r["id"] for r in merged] == [1, 2]
    assert merged[0]["sensordatavalues"] == [first, other]


def test_merging_leaves_its_input_and_records_without_id_alone() -> None:
    given = [record(), {"x": 1}, record(), {"x": 1}, {"id": None}, {"id": None}, {"id": 1.5}, {"id": [1]}, {"id": True}]
    before = copy.deepcopy(given)
    assert len(merge_records(given)) == len(given) - 1
    assert given == before


def ask(web: "Web", **changes: Any) -> Feed:
    "A client that does not wait long."
    return Feed(web.url, **{"attempts": 3, "timeout_s": 5.0, "pause_s": 0.01, **changes})


def test_the_client_gives_its_name_and_what_it_got(web: "Web") -> None:
    feed = ask(web.reply(b'[{"id": 1}]'))
    assert feed.fetch() == b'[{"id": 1}]'
    assert web.asked[0]["user-agent"] == f"sensorlib/{__version__} (reader of sensor.community)"
    assert "if-none-match" not in web.asked[0]
    feed.close()


def test_not_modified_is_none(web: "Web") -> None:
    web.reply(b"[1]", ETag='"a"').reply(b"", status=304, ETag='"a"').reply(b"[2]", ETag='"b"').reply(
        b"", status=304, ETag='"b"'
    )
    feed = ask(web)
    assert [feed.fetch() for _ in range(4)] == [b"[1]", None, b"[2]", None]
    assert [headers.get("if-none-match") for headers in web.asked] == [None, '"a"', '"a"', '"b"']


@pytest.mark.parametrize(("header", "asks"), [("ETag", "if-none-match"), ("Last_Modified", "if-modified-since")])
def test_not_modified_without_headers_forgets_nothing(web: "Web", header: str, asks: str) -> None:
    feed = ask(web.reply(b"[1]", **{header: "x"}).reply(b"", status=304))
    assert [feed.fetch() for _ in range(3)] == [b"[1]", None, None]
    assert [headers.get(asks) for headers in web.asked] == [None, "x", "x"]


def test_a_newer_answer_without_headers_forgets_the_old_ones(web: "Web") -> None:
    feed = ask(web.reply(b"[1]", ETag="a").reply(b"[2]").reply(b"[3]"))
    assert [feed.fetch() for _ in range(3)] == [b"[1]", b"[2]", b"[3]"]
    assert [headers.get("if-none-match") for headers in web.asked] == [None, "a", None]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_recovers_is_asked_again(web: "Web", status: int) -> None:
    web.reply(b"oops", status=status).reply(b"oops", status=status).reply(b"[1]")
    assert ask(web).fetch() == b"[1]"
    assert len(web.asked) == 3


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_server_that_refuses_is_an_error_that_names_it(web: "Web", status: int) -> None:
    feed = ask(web.reply(status=status))
    with pytest.raises(FeedError, match=f"no answer from {web.url}.*{status}.*expected 200") as caught:
        feed.fetch()
    assert isinstance(caught.value, ConnectionError)
    assert len(web.asked) == 3


def test_a_server_that_sleeps_is_not_waited_for(web: "Web") -> None:
    began = time.monotonic()
    with pytest.raises(FeedError, match="timed out"):
        ask(web.reply(wait_s=30.0), attempts=2, timeout_s=0.2).fetch()
    assert time.monotonic() - began < 5
    web.replies[:] = []
    assert ask(web.reply(b"[1]")).fetch() == b"[1]"


def test_a_server_that_drips_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with suppress(OSError):
                client = server.accept()[0]
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    client.sendall(b" ")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(FeedError, match=r"not complete after 0\.5 s"):
            Feed(f"http://127.0.0.1:{server.getsockname()[1]}/", attempts=1, timeout_s=5.0, limit_s=0.5).fetch()
        assert time.monotonic() - began < 4


def test_a_feed_that_fails_is_asked_no_longer_than_the_limit(web: "Web") -> None:
    began = time.monotonic()
    with pytest.raises(FeedError):
        Feed(web.reply(status=503).url, attempts=1000, pause_s=0.05, limit_s=0.5).fetch()
    assert time.monotonic() - began < 4


def test_a_packed_answer_is_unpacked(web: "Web") -> None:
    plain = json.dumps([record(n) for n in range(200)]).encode()
    assert ask(web.reply(gzip.compress(plain), Content_Encoding="gzip")).fetch() == plain
    assert "gzip" in web.asked[0]["accept-encoding"]


@pytest.mark.parametrize(
    "reply",
    [
        {"body": b"no gzip at all", "Content_Encoding": "gzip"},
        {"body": gzip.compress(b"[" * 5000)[:-12], "Content_Encoding": "deflate"},
        {"body": b"[]", "Content_Length": "1000"},
        {"status": 302, "Location": "/data.json"},
        {"status": 302, "Location": "gopher://nowhere/"},
        {"status": 302, "Location": "http://[nowhere/"},
        {"status": 302},
    ],
    ids=lambda reply: " ".join(f"{k}={v!r:.20}" for k, v in reply.items()),
)
def test_an_answer_that_cannot_be_read_is_an_error_of_the_feed(web: "Web", reply: dict[str, Any]) -> None:
    with pytest.raises(FeedError, match=web.url):
        ask(web.reply(**reply), attempts=2).fetch()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/data.json",
        "nowhere",
        "ftp://127.0.0.1/data.json",
        "http://127.0.0.1:99999/",
        "http://[/",
        "",
    ],
)
def test_an_address_that_cannot_be_asked_is_an_error(url: str) -> None:
    with pytest.raises(SensorlibError, match="expected"):
        Feed(url, attempts=1, timeout_s=2.0).fetch()


def test_a_redirection_is_followed(web: "Web") -> None:
    feed = ask(web.reply(b"", status=301, Location="/elsewhere.json").reply(b"[1]"))
    assert feed.fetch() == b"[1]"


def test_garbage_from_the_server_is_handed_on_as_it_is(web: "Web") -> None:
    rubbish = np.random.default_rng(1).bytes(1000)
    assert ask(web.reply(rubbish)).fetch() == rubbish
