"""Files of the archive: how they are packed, what rows look like, and rows that are ruined."""

import gzip
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from sensorlib.archive import open_files, read_csv, read_file
from sensorlib.core import DEAD_REASONS, MissingPart, SensorlibError, SettingError
from sensorlib.feed import Scrap, measurements

HEAD = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2"
ROW = "81;SDS011;7;47.37;8.54;2024-03-05T06:00:00;14.20;;;9.80;;"


def day(*rows: str, head: str = HEAD, end: str = "\n") -> bytes:
    "A day file."
    return end.join([head, *(rows or [ROW]), ""]).encode()


def values(data: bytes) -> list[tuple[str, str]]:
    "Type and text of every value in a day file."
    table = measurements(read_csv(data).records)
    return list(zip(table["value_type"], table["text"], strict=True))


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


PLAIN = day(*(ROW.replace("06:00:00", f"06:{minute:02}:00") for minute in range(60)))
PACKED = {
    "day.csv": PLAIN,
    "day.csv.gz": gzip.compress(PLAIN),
    "day.csv.zst": zstandard.compress(PLAIN),
    "days.zip": zipped({"day.csv": PLAIN}),
    "days.tar": tar({"day.csv": PLAIN}),
    "days.tar.gz": tar({"day.csv": PLAIN}, "w:gz"),
    "days.tgz": tar({"day.csv": PLAIN}, "w:gz"),
    "days.tar.zst": zstandard.compress(tar({"day.csv": PLAIN})),
    "deep.tar.zst": zstandard.compress(tar({"day.csv.gz": gzip.compress(PLAIN)})),
    "deep.zip": zipped({"day.csv.zst": zstandard.compress(PLAIN)}),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_is_unpacked_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    assert list(open_files(tmp_path / name)) == [("day.csv", PLAIN)]


def test_parts_packed_one_after_the_other_are_all_there(tmp_path: Path) -> None:
    for ending, pack in (("gz", gzip.compress), ("zst", zstandard.compress)):
        path = tmp_path / f"day.csv.{ending}"
        path.write_bytes(pack(PLAIN[:500]) + pack(PLAIN[500:]))
        assert list(open_files(path)) == [("day.csv", PLAIN)]


def test_a_folder_is_walked_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "empty").mkdir()
    for name, data in {
        "b/two.csv": b"2",
        "a.csv.gz": gzip.compress(b"1"),
        "c.zip": zipped({"z.csv": b"4", "y.csv": b"3"}),
    }.items():
        (tmp_path / name).write_bytes(data)
    assert list(open_files(tmp_path)) == [("a.csv", b"1"), ("two.csv", b"2"), ("y.csv", b"3"), ("z.csv", b"4")]


def test_a_dot_tar_inside_a_name_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "day.target.csv").write_bytes(PLAIN)
    assert list(open_files(tmp_path)) == [("day.target.csv", PLAIN)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"no such file: .*nothing\.csv; expected JSON") as caught:
        list(open_files(tmp_path / "nothing.csv"))
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("name", [name for name in PACKED if name not in ("day.csv", "days.tar")])
def test_a_packed_file_that_is_cut_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name][: len(PACKED[name]) // 2])
    with pytest.raises(SensorlibError, match=name):
        list(open_files(tmp_path / name))


TWO = tar({"one.csv": PLAIN, "two.csv": PLAIN})
SECOND = TWO.index(b"two.csv")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("days.tar", TWO[:SECOND]),
        ("days.tar", TWO[: SECOND + 300]),
        ("days.tar", TWO.replace(b"two.csv", b"two,csv")),
        ("days.tar.zst", zstandard.compress(TWO[:SECOND])),
        ("days.tgz", tar({"one.csv": PLAIN}, "w:gz")[:3]),
        ("day.csv.gz", b""),
        ("day.csv.zst", b""),
        ("days.zip", zipped({"day.csv": PLAIN})[1:]),
        ("days.zip", zipped({"day.csv": PLAIN}).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")),
    ],
    ids=["ends after a file", "ends in a head", "ruined head", "packed, ends after a file", "three bytes", "empty gz",
         "empty zst", "without its first byte", "with a password"],
)  # fmt: skip
def test_a_packed_file_that_is_not_whole_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SensorlibError, match=f"cannot unpack .*{name}"):
        list(open_files(tmp_path / name))


def test_two_files_of_a_zip_may_have_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "days.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("day.csv", b"1")
        archive.writestr("day.csv", b"2")
    assert list(open_files(tmp_path / "days.zip")) == [("day.csv", b"1"), ("day.csv", b"2")]


@pytest.mark.parametrize("name", [name for name in PACKED if name != "day.csv"])
def test_a_file_that_is_not_packed_as_its_name_says_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PLAIN)
    with pytest.raises(SensorlibError, match=name):
        list(open_files(tmp_path / name))


@pytest.mark.parametrize(
    "data",
    [
        day(),
        day(end="\r\n"),
        b"\xef\xbb\xbf" + day(),
        day(head=HEAD.replace(";", ","), end="\r\n").replace(b";", b","),
        day(*['"' + ROW.replace(";", '";"') + '"'], head='"' + HEAD.replace(";", '";"') + '"'),
        day().rstrip(b"\n"),
        day("", ROW, ""),
    ],
    ids=["plain", "Windows", "byte order mark", "commas", "quoted", "no last line end", "empty lines"],
)
def test_one_row_in_many_clothes(data: bytes) -> None:
    found = read_csv(data)
    assert found.scraps == []
    (record,) = found.records
    assert record["sensor"] == {"id": "81", "sensor_type": {"name": "SDS011"}}
    assert (record["timestamp"], record["location"]["latitude"]) == ("2024-03-05T06:00:00", "47.37")
    assert values(data) == [("P1", "14.20"), ("P2", "9.80")]


def test_a_quoted_cell_may_hold_the_separator() -> None:
    data = day('81;"SDS;011";7;47.37;8.54;2024-03-05T06:00:00;14.20;;;"9,80";;')
    assert read_csv(data).records[0]["sensor"]["sensor_type"] == {"name": "SDS;011"}
    assert values(data) == [("P1", "14.20"), ("P2", "9,80")]
    assert list(measurements(read_csv(data).records)["reason"]) == [None, "value"]


def test_a_byte_that_is_no_utf8_costs_no_more_than_its_cell() -> None:
    data = day(ROW.replace("SDS011", "S@DS011").replace("9.80", "9.8@"), "@").replace(b"@", b"\xe9")
    found = read_csv(data)
    assert [value["value"] for value in found.records[0]["sensordatavalues"]] == ["14.20", "9.8\ufffd"]
    assert found.records[0]["sensor"]["sensor_type"]["name"] == "S\ufffdDS011"
    assert found.scraps == [Scrap("cells", b"\xe9")]


def test_a_head_that_is_glued_together_makes_dead_rows() -> None:
    rows = measurements(read_file("day.csv", day(head=HEAD.replace("sensor_id", " sensor_id"))).records)
    assert set(rows["reason"]) == {"sensor_id"}


def test_sealevel_pressure_and_indoor_have_the_names_of_the_feed() -> None:
    head = "sensor_id;sensor_type;location;lat;lon;altitude;indoor;timestamp;pressure;pressure_sealevel;temperature"
    data = day("9;BME280;7;47.37;8.54;408.0;1;2024-03-05T06:00:00;97294.09;102089.58;20.84", head=head)
    table = measurements(read_csv(data).records)
    assert list(table["value_type"]) == ["pressure", "pressure_at_sealevel", "temperature"]
    assert (set(table["altitude"]), set(table["indoor"])) == ({408.0}, {True})


def test_an_empty_cell_is_no_value_and_an_empty_row_of_values_is_kept() -> None:
    data = day(
        "81;SDS011;7;47.37;8.54;2024-03-05T06:00:00;;;;9.80;;", "81;SDS011;7;47.37;8.54;2024-03-05T06:02:00;;;;;;"
    )
    table = measurements(read_csv(data).records)
    assert list(table["value_type"]) == ["P2", None]
    assert list(table["reason"]) == [None, "no_values"]


@pytest.mark.parametrize(
    "row",
    [
        "81;SDS011;7",
        ROW + ";",
        "x",
        "81,SDS011,7,47.37",
        ROW.replace("SDS011", "SDS;011"),
        "a;b",
        "Stra\udcdfe",
        "\udcff\udcfe;1",
    ],
    ids=ascii,
)
def test_a_row_of_another_length_is_a_scrap_with_its_bytes(row: str) -> None:
    original = row.encode(errors="surrogateescape")
    found = read_csv(day() + original + b"\n" + ROW.encode() + b"\n")
    assert len(found.records) == 2
    assert [scrap.original for scrap in found.scraps] == [original]


def test_the_reason_of_a_scrap_is_one_of_the_known_reasons() -> None:
    assert {scrap.reason for scrap in read_csv(day("81;SDS011")).scraps} < DEAD_REASONS.keys()


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85", "\x00", "\ufeff"], ids=ascii)
def test_only_a_line_end_ends_a_row(odd: str) -> None:
    found = read_csv(day(ROW.replace("SDS011", f"SDS{odd}011")))
    assert found.scraps == []
    assert [r["sensor"]["sensor_type"]["name"] for r in found.records] == [f"SDS{odd}011"]


def test_a_cell_of_any_length_is_read() -> None:
    found = read_csv(day(ROW, ROW.replace("14.20", "1" * 200_000), ROW))
    assert [len(r["sensordatavalues"][0]["value"]) for r in found.records] == [5, 200_000, 5]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"a;b\n1;2\n",
        b"\xff\xfe",
        HEAD.replace("timestamp", "time").encode() + b"\n" + ROW.encode() + b"\n",
        b"sensor_id\n81\n",
    ],
)
def test_a_csv_that_is_no_day_file_is_refused(data: bytes) -> None:
    with pytest.raises(SettingError, match=r"songs\.csv.*expected a day file"):
        read_file("songs.csv", data)


def test_a_file_of_another_name_is_read_as_json() -> None:
    assert [r["id"] for r in read_file("data.json", b'[{"id": 1}]').records] == [1]
    assert [r["id"] for r in read_file("data.ndjson", b'{"id": 1}\n{"id": 2}\n').records] == [1, 2]


def test_the_days_of_aberdeen(shared_data: Path) -> None:
    days, records, lost = Counter[str](), [], 0
    for name, data in open_files(shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"):
        days[name.split("_")[1]] += 1
        if name.endswith(("_5331.csv", "_5332.csv", "_15093.csv")) and "2018-07" in name:
            found = read_file(name, data)
            records += found.records
            lost += data.count(b"\n") - 1 - len(found.records) + len(found.scraps)
    assert days == {"sds011": 3475, "dht22": 2556, "bme280": 794}
    table = measurements(records)
    assert (lost, set(table["reason"].dropna())) == (0, set())
    assert set(table["value_type"]) == {"P1", "P2", "temperature", "humidity", "pressure"}
    assert table["ts"].dt.month.eq(7).all()


def test_a_day_that_a_spreadsheet_ruined_is_kept(shared_data: Path) -> None:
    files = dict(open_files(shared_data / "archive" / "basecamp_2019-04_05_day_csvs.tar.zst"))
    tables = {name: measurements(read_file(name, data).records) for name, data in files.items()}
    assert sum(map(len, tables.values())) == 6781
    assert {name for name, table in tables.items() if table["reason"].notna().any()} == {"train2.csv"}
    ruined = tables["train2.csv"]
    dead = ruined[ruined["reason"].notna()]
    assert (len(ruined), len(dead), set(dead["reason"])) == (1124, 928, {"value"})
    assert {"Sep 60", "09. Okt"} <= set(dead["text"])


def test_twelve_days_of_noise(shared_data: Path) -> None:
    ((name, data),) = open_files(shared_data / "archive" / "2026-02_laerm_sensor_94448_to_02-24.csv.gz")
    found = read_file(name, data)
    table = measurements(found.records)
    assert (len(found.records), len(table), found.scraps) == (10_007, 30_020, [])
    assert set(table["kind"]) == {"noise"}
    assert table["reason"].isna().all()
    assert (table["ts"].min().day, table["ts"].max().day) == (13, 24)
