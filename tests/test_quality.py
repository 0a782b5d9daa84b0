"""The judge on real data, on hand-made records and on a made city whose faults are known."""

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sensorlib.archive import open_files, read_file
from sensorlib.core import MissingPart, NAME_LENGTH, READING_COLUMNS, SettingError, VALUE_TYPES, format_time
from sensorlib.feed import in_order, measurements, read_answer
from sensorlib.quality import (
    CHECKS,
    CODES,
    FAULTS,
    FLAGS,
    LIMITS,
    RELATIONS,
    Code,
    Verdicts,
    check_files,
    flag_names,
    is_good,
    judge,
    judge_piece,
    neighbours,
    read_frame,
    score,
    summarise,
    write_frame,
)
from sensorlib.places import cell, enrich
from sensorlib.simulate import ARRIVALS, EPISODES
from sensorlib.simulate import FAULTS as INJECTED
from sensorlib.simulate import inject, make_city, records

Record = dict[str, Any]
WORLD = "api/2017-08-10_world_data.json.gz"
KEY = ["sensor_id", "value_type", "ts"]
START = datetime(2026, 3, 5, tzinfo=UTC)


def report(values: dict[str, object], sensor_type: str = "SDS011", **location: object) -> Record:
    "A record that says these values."
    place = {"id": 7, "latitude": "47.37", "longitude": "8.54", "altitude": "408.0", "indoor": 0}
    return {
        "id": 1,
        "timestamp": "2024-03-05 06:00:00",
        "sensor": {"id": 81, "sensor_type": {"name": sensor_type}},
        "location": place | location,
        "sensordatavalues": [{"value_type": name, "value": value} for name, value in values.items()],
    }


RECORD_LOCAL = sum(FLAGS[name] for name in ("range", "code", "relation", "position", "indoor"))


def own(qc: Any) -> Any:
    "What a record shows by itself; nothing is known of the sensor and its neighbours."
    return qc & RECORD_LOCAL


def read(reports: Iterable[Record]) -> pd.DataFrame:
    "Measurements of reports, with their cells."
    return measurements(enrich(record, "2031-01-01T00:00:00Z") for record in reports)


def verdicts(reports: Iterable[Record]) -> list[dict[str, list[str]]]:
    "Names of the checks that fire on each value of each record."
    listed = list(reports)
    found: list[dict[str, list[str]]] = [{} for _ in listed]
    for row in judge(measurements(listed)).itertuples():
        found[row.record][row.value_type] = flag_names(own(row.qc))
    return found


def code_values(code: Code) -> list[float]:
    "Values that a code stands for, one of each kind."
    ends = [code.at_most, None if code.above is None else code.above + 1]
    return [*code.equals, *(end for end in ends if end is not None)]


GOOD: list[tuple[str, dict[str, object]]] = [
    ("SDS011", {"P1": "14.20", "P2": "9.80"}), ("SDS011", {"P1": "0.00", "P2": "0.00"}), ("SDS011", {"P1": "1999.80", "P2": "999.80"}),
    ("SPS30", {"P0": "1", "P2": "2", "P4": "3", "P1": "1999.9"}), ("SPS30", {"P2": "999.9", "P1": "999.9"}),
    ("DHT22", {"temperature": "-40", "humidity": "0"}), ("DHT22", {"temperature": "60", "humidity": "100.00"}),
    ("DHT22", {"temperature": "-0.1", "humidity": "1.00"}), ("BME280", {"temperature": "0.00", "humidity": "100", "pressure": "97294.09"}),
    ("BME280", {"temperature": "20.84", "pressure": "97294.09", "pressure_at_sealevel": 102089.58}), ("DS18B20", {"temperature": "-55"}),
    ("DNMS (Laerm)", {"noise_LAeq": "27", "noise_LA_min": "27", "noise_LA_max": "120"}), ("DNMS (Laerm)", {"noise_LAeq": "85.0"}),
    ("any meter", {"noise_LAeq": "20", "noise_LA_min": "20", "noise_LA_max": "130"}),
]  # fmt: skip


BAD: list[tuple[str, dict[str, object], dict[str, object], dict[str, list[str]]]] = [
    ("DHT22", {"temperature": "60.1", "humidity": "100.1"}, {}, {"temperature": ["range"], "humidity": ["range"]}),
    ("DHT22", {"temperature": "-40.1", "humidity": "-0.1"}, {}, {"temperature": ["range"], "humidity": ["range"]}),
    ("DS18B20", {"temperature": "-55.1"}, {}, {"temperature": ["range"]}),
    ("HTU21D", {"temperature": "-55.1"}, {}, {"temperature": []}),
    ("BME280", {"pressure": "1008.86", "humidity": "50"}, {}, {"pressure": ["range"], "humidity": []}),
    ("BME280", {"pressure": "115473.36"}, {}, {"pressure": ["range"]}),
    ("SDS011", {"P1": "-0.1"}, {}, {"P1": ["range"]}),
    ("SDS011", {"P1": "1999.90", "P2": "999.90"}, {}, {"P1": ["code"], "P2": ["code"]}),
    ("SPS30", {"P1": "2000.1"}, {}, {"P1": ["range"]}),
    ("BME280", {"temperature": "-147.58"}, {}, {"temperature": ["range", "code"]}),
    ("DHT22", {"temperature": "-999", "humidity": "-999.0"}, {}, {"temperature": ["range", "code"], "humidity": ["range", "code"]}),
    ("DS18B20", {"temperature": "85.00"}, {}, {"temperature": ["range", "code"]}),
    ("DS18B20", {"temperature": "-127"}, {}, {"temperature": ["range", "code"]}),
    ("DHT22", {"temperature": "85"}, {}, {"temperature": ["range"]}),
    ("DNMS (Laerm)", {"noise_LAeq": "0"}, {}, {"noise_LAeq": ["range", "code"]}),
    ("DNMS (Laerm)", {"noise_LAeq": "130.1"}, {}, {"noise_LAeq": ["range", "code"]}),
    ("DNMS (Laerm)", {"noise_LAeq": "26.9"}, {}, {"noise_LAeq": ["range"]}),
    ("Laerm", {"noise_LA_max": "120.1"}, {}, {"noise_LA_max": ["range"]}),
    ("any meter", {"noise_LAeq": "19.9"}, {}, {"noise_LAeq": ["range"]}),
    ("SDS011", {"P1": "9.80", "P2": "14.20"}, {}, {"P1": ["relation"], "P2": ["relation"]}),
    ("DNMS (Laerm)", {"noise_LAeq": "40", "noise_LA_min": "41", "noise_LA_max": "50"}, {},
     {"noise_LAeq": ["relation"], "noise_LA_min": ["relation"], "noise_LA_max": []}),
    ("DNMS (Laerm)", {"noise_LAeq": "51", "noise_LA_min": "41", "noise_LA_max": "50"}, {},
     {"noise_LAeq": ["relation"], "noise_LA_min": [], "noise_LA_max": ["relation"]}),
    ("BME280", {"pressure": "101000", "pressure_at_sealevel": 100000.0}, {}, {"pressure": ["relation"], "pressure_at_sealevel": ["relation"]}),
    ("BME280", {"pressure": "101000", "pressure_at_sealevel": 100000.0}, {"altitude": "-3.5"}, {"pressure": [], "pressure_at_sealevel": []}),
    ("BME280", {"pressure": "101000", "pressure_at_sealevel": 100000.0}, {"altitude": None}, {"pressure": [], "pressure_at_sealevel": []}),
    ("SDS011", {"P1": "14"}, {"id": 11}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"latitude": "0.0", "longitude": "0.000"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"latitude": None}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"longitude": "east"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"latitude": "90.1"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"longitude": "-180.1"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"altitude": "12345.0"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"altitude": "-451"}, {"P1": ["position"]}),
    ("SDS011", {"P1": "14"}, {"altitude": None, "id": None, "indoor": None}, {"P1": []}),
    ("SDS011", {"P1": "14"}, {"latitude": "0.0", "longitude": "6.7"}, {"P1": []}),
    ("SDS011", {"P1": "14"}, {"indoor": 1}, {"P1": ["indoor"]}),
    ("SDS011", {"P1": "-5"}, {"indoor": "1", "id": "11"}, {"P1": ["range", "position", "indoor"]}),
]  # fmt: skip


def test_what_is_possible_is_good() -> None:
    found = verdicts(report(values, sensor_type) for sensor_type, values in GOOD)
    for (sensor_type, values), flags in zip(GOOD, found, strict=True):
        assert flags == {name: [] for name in values}, (sensor_type, values)


def test_a_check_fires_where_it_should_and_nowhere_else() -> None:
    found = verdicts(report(values, sensor_type, **location) for sensor_type, values, location, _ in BAD)
    for (sensor_type, values, location, expected), flags in zip(BAD, found, strict=True):
        assert flags == expected, (sensor_type, values, location)


def test_every_check_has_an_example_of_its_own() -> None:
    alone = {flags[0] for *_, expected in BAD for flags in expected.values() if len(flags) == 1}
    assert sum(FLAGS[name] for name in alone) == RECORD_LOCAL
    assert len({check.bit for check in CHECKS}) == len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.bit.bit_count() == 1 and check.says for check in CHECKS)


def test_both_ends_of_a_range_are_inside() -> None:
    ends = [(row, edge, beyond) for row in LIMITS for edge, beyond in ((row.low, -0.001), (row.high, 0.001))]
    for outside in (False, True):
        values = [edge + beyond if outside else edge for _, edge, beyond in ends]
        found = verdicts(
            report({row.value_type: repr(v)}, row.sensor_type or "x") for (row, *_), v in zip(ends, values, strict=True)
        )
        assert [
            row for (row, *_), flags in zip(ends, found, strict=True) if ("range" in flags[row.value_type]) != outside
        ] == []


def test_every_code_is_found() -> None:
    cases = [
        (code, value, kind) for code in CODES for value in code_values(code) for kind in code.sensor_types or ("x",)
    ]
    found = verdicts(report({code.value_type: repr(value)}, kind) for code, value, kind in cases)
    assert len(cases) > 30
    assert [case for case, flags in zip(cases, found, strict=True) if "code" not in flags[case[0].value_type]] == []


def test_a_code_of_one_instrument_is_a_value_of_another() -> None:
    cases = [(code, value) for code in CODES if code.sensor_types for value in code_values(code)]
    found = verdicts(report({code.value_type: repr(value)}, "x") for code, value in cases)
    assert [case for case, flags in zip(cases, found, strict=True) if "code" in flags[case[0].value_type]] == []


def test_a_relation_needs_both_and_allows_equal() -> None:
    for relation in RELATIONS:
        low, up = relation.lower, relation.upper
        middle = next((row.low + row.high) / 2 for row in LIMITS if row.value_type == up)
        cases = [
            {low: middle, up: middle},
            {low: middle + 0.01, up: middle},
            {low: middle + 0.01},
            {low: middle + 0.01, up: "x"},
        ]
        fine, wrong, *lone = verdicts(report(case, "x") for case in cases)
        assert (fine, wrong) == ({low: [], up: []}, {low: ["relation"], up: ["relation"]})
        assert lone == [{low: []}, {low: []}]


def test_of_a_value_type_that_comes_twice_the_last_is_the_partner() -> None:
    twice = report({})
    twice["sensordatavalues"] = [
        {"value_type": name, "value": value} for name, value in (("P1", "5"), ("P2", "9"), ("P1", "20"))
    ]
    assert [flag_names(qc) for qc in own(judge(measurements([twice]))["qc"])] == [["relation"], [], []]


def test_partners_are_of_the_same_record() -> None:
    pair = [report({"P1": "5"}), report({"P2": "9"})]
    assert list(own(judge(measurements(pair))["qc"])) == [0, 0]


def test_advice_does_not_make_a_reading_bad() -> None:
    advice = [check for check in CHECKS if not check.bit & FAULTS]
    assert [check.name for check in advice] == ["humid", "indoor", "short", "alone"]
    qc = pd.Series([0, *(check.bit for check in CHECKS)])
    assert list(is_good(qc)) == [True, *(check in advice for check in CHECKS)]
    assert list(is_good(qc.to_numpy())) == list(is_good(qc))


@pytest.mark.parametrize(
    "names", [set(some) for size in (0, 1, 2, 5) for some in itertools.combinations(FLAGS, size)], ids=sorted
)
def test_names_spell_a_verdict_out(names: set[str]) -> None:
    assert set(flag_names(sum(FLAGS[name] for name in names))) == names


def test_nothing_to_judge_gives_an_empty_table() -> None:
    for given in ([], [report({})], [report({"durP1": "5"})], [report({"P1": "x"})]):
        judged = judge(measurements(given))
        assert (len(judged), str(judged["qc"].dtype)) == (0, "int32")


def test_any_text_can_be_judged() -> None:
    texts = ["'; DROP TABLE x; --", '"', "\x00", "Zürich", "😀", "", " ", "x" * 10_000]
    found = read_answer(
        json.dumps([report({"P1": "14"}, text) | {"place": text, "cell": text} for text in texts]).encode()
    )
    judged = judge(measurements(found.records))
    assert list(own(judged["qc"])) == [0] * len(texts)
    assert list(judged["sensor_type"]) == list(judged["place"]) == [text[:NAME_LENGTH] for text in texts]


@pytest.mark.parametrize("half", [rb"\ud800", rb"\udcff", b"\xff", b"\xed\xa0\x80"])
def test_half_a_letter_does_not_stop_the_judge(half: bytes) -> None:
    texts = [json.dumps(report({"P1": "14"}, name)).encode() for name in ("SDS011", "@", "SDS011")]
    found = read_answer(b"\n".join(texts).replace(b"@", half))
    assert len(found.records) + len(found.scraps) == 3
    assert len(judge(measurements(found.records))) == len(found.records)


@pytest.fixture(scope="module")
def world(shared_data: Path) -> pd.DataFrame:
    ((name, data),) = open_files(shared_data / WORLD)
    return measurements(read_file(name, data).records)


@pytest.fixture(scope="module")
def snapshot(shared_data: Path) -> Verdicts:
    return check_files([shared_data / WORLD])


def flags_of(snapshot: Verdicts, sensor_id: int) -> dict[str, set[str]]:
    "Flags of a sensor, by value type, over all its readings."
    mine = snapshot.readings[snapshot.readings["sensor_id"] == sensor_id]
    return {
        name: {flag for qc in group["qc"] for flag in flag_names(own(qc))} for name, group in mine.groupby("value_type")
    }


@pytest.mark.parametrize(
    ("sensor_id", "flags"),
    [
        (3740, {"temperature": {"range", "code"}, "pressure": {"range"}, "humidity": set()}),
        (4818, {"temperature": {"range"}, "humidity": {"range"}}),
        (1073, {"pressure": {"range"}, "temperature": set(), "humidity": set()}),
    ],
)
def test_known_trouble_in_the_snapshot(snapshot: Verdicts, sensor_id: int, flags: dict[str, set[str]]) -> None:
    assert flags_of(snapshot, sensor_id) == flags


def test_seven_records_at_the_cap_are_codes(snapshot: Verdicts) -> None:
    values, types = snapshot.readings["value"], snapshot.readings["value_type"]
    capped = snapshot.readings[((types == "P1") & (values == 1999.9)) | ((types == "P2") & (values == 999.9))]
    assert (len(capped), capped["record_id"].nunique()) == (14, 7)
    assert {tuple(flag_names(qc)) for qc in own(capped["qc"])} == {("code",)}
    assert (snapshot.readings["qc"] & FLAGS["code"] > 0).sum() == 14 + 2


def test_dry_and_wet_air_of_the_snapshot_is_possible_and_neighbours_know_better(snapshot: Verdicts) -> None:
    humidity = snapshot.readings[snapshot.readings["value_type"] == "humidity"]
    edge = humidity[(humidity["value"] <= 1) | (humidity["value"] == 100)]
    assert (edge["value"] <= 1).sum() == 24
    assert (own(edge["qc"]) == 0).all()
    dry = edge.loc[(edge["value"] <= 1) & (edge["qc"] & FLAGS["alone"] == 0), "qc"]
    assert len(dry) > 5 and (dry & FLAGS["neighbours"] > 0).mean() > 0.5


def test_counters_go_to_the_others(world: pd.DataFrame, snapshot: Verdicts) -> None:
    other = world[world["kind"].isna()]
    assert "PPD42NS" not in set(snapshot.readings["sensor_type"])
    assert (other["sensor_type"] == "PPD42NS").sum() == (world["sensor_type"] == "PPD42NS").sum() == 282
    assert set(other["value_type"]) == {
        "P1",
        "P2",
        "durP1",
        "durP2",
        "ratioP1",
        "ratioP2",
        "samples",
        "min_micro",
        "max_micro",
    }
    assert snapshot.other == len(other) == 513


def test_no_value_of_the_snapshot_is_lost_or_changed(world: pd.DataFrame, snapshot: Verdicts) -> None:
    assert (snapshot.records, len(world)) == (6874, 14486)
    assert len(snapshot.readings) + snapshot.other + len(snapshot.dead) == len(world)
    told = world[world["kind"].notna()]
    told = told.assign(value=told["text"].astype(float))
    columns = ["ts", "sensor_id", "record_id", "value_type", "value"]
    left, right = (frame[columns].sort_values(columns, ignore_index=True) for frame in (snapshot.readings, told))
    pd.testing.assert_frame_equal(left, right)
    assert snapshot.readings["ts"].is_monotonic_increasing
    assert set(snapshot.readings["country"].dropna().str.len()) == {2}
    assert "UK" not in set(snapshot.readings["country"])


def test_the_snapshot_in_numbers(snapshot: Verdicts) -> None:
    told = summarise(snapshot)
    assert told["readings"] == told["good"] + told["flagged"] == sum(told["by_value_type"].values()) == 13973
    assert (told["flagged"], told["dead"], told["by_flag"]["relation"]) == (128, 0, 40)
    assert set(told["by_flag"]) == set(FLAGS)
    assert set(told["by_value_type"]) < set(VALUE_TYPES)


def test_the_order_of_records_does_not_matter(world: pd.DataFrame) -> None:
    order = np.random.default_rng(4).permutation(world["record"].unique())
    rank = pd.Series(range(len(order)), index=order)
    shuffled = world.iloc[np.argsort(world["record"].map(rank).to_numpy(), kind="stable")]
    key = ["record", "value_type"]
    one, two = (own(judge(table).set_index(key)["qc"].sort_index()) for table in (world, shuffled))
    assert not shuffled["record"].equals(world["record"])
    pd.testing.assert_series_equal(one, two)


def test_a_record_is_judged_alike_alone_and_in_company(world: pd.DataFrame) -> None:
    judged = judge(world)
    for record in random.Random(3).sample(sorted(judged.loc[own(judged["qc"]) > 0, "record"].unique()), 10):
        alone = own(judge(world[world["record"] == record])["qc"])
        assert alone.tolist() == own(judged.loc[judged["record"] == record, "qc"]).tolist()


@pytest.fixture(scope="module")
def clean() -> list[Record]:
    return records(make_city(sensors=150, seed=11), START, START + timedelta(hours=6))


@pytest.fixture(scope="module")
def spoilt(clean: list[Record]) -> tuple[list[Record], pd.DataFrame, pd.DataFrame]:
    "Records, the truth about them, and the verdicts."
    made, truth = inject(clean, list(INJECTED), seed=12, share=0.05)
    return made, truth, judge(read(made))


def test_a_clean_city_is_good(clean: list[Record]) -> None:
    assert len(clean) > 10_000
    assert is_good(judge(read(clean))["qc"]).mean() >= 0.999


def test_every_injected_fault_is_found_and_little_else(spoilt: tuple[list[Record], pd.DataFrame, pd.DataFrame]) -> None:
    _, truth, judged = spoilt
    told = score(judged, truth)
    assert set(told["spoilt"]) == set(INJECTED)
    assert {name: told["recall"][name] for name in ("code", "unit", "position", "range")} == dict.fromkeys(
        ("code", "unit", "position", "range"), 1.0
    )
    assert told["precision"] >= 0.99


def test_a_swap_is_found_wherever_it_can_be_seen(spoilt: tuple[list[Record], pd.DataFrame, pd.DataFrame]) -> None:
    _, truth, judged = spoilt
    swapped = truth.loc[truth["fault"] == "swapped", ["sensor_id", "ts"]].drop_duplicates()
    values = judged.pivot_table(index=["sensor_id", "ts"], columns="value_type", values="value")
    seen = values.loc[pd.MultiIndex.from_frame(swapped)].eval("P2 > P1").mean()
    recall = score(judged, truth)["recall"]["swapped"]
    assert len(swapped) > 50
    assert recall == pytest.approx(seen, abs=1e-3)
    assert recall >= 0.95


def test_faults_keep_their_values(spoilt: tuple[list[Record], pd.DataFrame, pd.DataFrame]) -> None:
    made, _, judged = spoilt
    assert judged["value"].tolist() == [float(v["value"]) for r in made for v in r["sensordatavalues"]]


def test_the_score_of_hand_made_verdicts() -> None:
    moments = pd.to_datetime([f"2026-01-01T00:0{n}:00Z" for n in range(4)])
    readings = pd.DataFrame({"sensor_id": 1, "value_type": "P1", "ts": moments, "qc": [1, 0, 2, 256]})
    truth = pd.DataFrame(
        {"sensor_id": 1, "value_type": "P1", "ts": moments[:2].astype(str), "fault": ["range", "code"]}
    )
    assert score(readings, truth) == {
        "recall": {"code": 0.0, "range": 1.0},
        "spoilt": {"code": 1, "range": 1},
        "precision": 0.5,
    }
    assert score(readings.assign(qc=0), truth)["precision"] is None


def test_files_are_judged_with_what_is_dead_in_them(tmp_path: Path) -> None:
    one = json.dumps(report({"P1": "5", "P2": "x", "durP1": "1"}))
    (tmp_path / "a.ndjson").write_text(f'{{"id": 5}}\nno json\n{one}\n')
    (tmp_path / "b.csv").write_text("sensor_id;timestamp;P1\n81;2024-03-05T06:00:00;14\n81\n")
    seen: list[str] = []
    found = check_files([tmp_path], watch=seen.append)
    assert seen == ["a.ndjson", "b.csv"]
    assert (found.records, len(found.readings), found.other) == (3, 2, 1)
    assert len(found.dead) == 4
    assert {"no_values", "not_json", "value"} < set(found.dead["reason"])
    assert {"no json", "x", "81"} < set(found.dead["text"])
    assert list(found.readings) == list(READING_COLUMNS)


def test_no_files_at_all_are_judged_too(tmp_path: Path) -> None:
    told = summarise(check_files([tmp_path]))
    assert (told["readings"], told["dead"], set(told["by_flag"].values())) == (0, 0, {0})


@pytest.mark.parametrize("ending", ["parquet", "csv", "ndjson"])
def test_a_table_comes_back_from_a_file(tmp_path: Path, ending: str, snapshot: Verdicts) -> None:
    some, path = snapshot.readings.head(50), tmp_path / f"it's here.{ending}"
    write_frame(some, path)
    back = read_frame(path)
    assert list(back) == list(READING_COLUMNS)
    assert back["value"].tolist() == some["value"].tolist()
    assert pd.to_datetime(back["ts"], utc=True).tolist() == some["ts"].tolist()
    assert back["record_id"].tolist() == some["record_id"].tolist()


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.csv.gz"])
def test_a_file_of_unknown_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"expected a name ending in \.parquet, \.csv, \.ndjson"):
        write_frame(pd.DataFrame({"a": [1]}), tmp_path / name)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"truth\.csv"):
        read_frame(tmp_path / "truth.csv")


def series_of(values: Sequence[float], sensor_type: str, value_type: str, step_s: int = 148) -> list[Record]:
    "Reports of one sensor, one value each."
    times = [START + timedelta(seconds=step_s * n) for n in range(len(values))]
    made = [report({value_type: f"{value:.2f}"}, sensor_type) for value in values]
    return [{**record, "timestamp": f"{time:%Y-%m-%d %H:%M:%S}"} for record, time in zip(made, times, strict=True)]


def flagged(reports: Sequence[Record], name: str) -> list[int]:
    "Positions of the readings with a flag."
    return np.flatnonzero(judge(read(reports))["qc"] & FLAGS[name]).tolist()


@pytest.mark.parametrize(
    ("sensor_type", "value_type", "value", "rows"),
    [
        ("DHT22", "humidity", 99.9, 24),
        ("DHT22", "temperature", 5.9, 96),
        ("BME280", "temperature", 5.9, 24),
        ("BME280", "humidity", 100.0, 96),
        ("SDS011", "P2", 8.0, 24),
        ("SDS011", "P2", 0.3, 96),
        ("SPS30", "P2", 8.0, 96),
        ("Laerm", "noise_LAeq", 40.0, 24),
    ],
)
def test_a_value_is_stuck_after_as_long_as_its_instrument_never_holds_one(
    sensor_type: str, value_type: str, value: float, rows: int
) -> None:
    held = series_of([value + 1, *[value] * 100, value + 1, value], sensor_type, value_type)
    assert flagged(held, "stuck") == list(range(rows, 101))


def test_the_first_readings_and_those_after_a_day_of_silence_are_short() -> None:
    before = series_of(list(range(30)), "DHT22", "temperature")
    after = [{**r, "timestamp": r["timestamp"].replace(f"{START:%Y-%m-%d}", "2031-01-01")} for r in before]
    assert flagged(before + after, "short") == [*range(23), *range(30, 53)]


def test_a_late_and_a_repeated_reading_are_rows_like_any_other() -> None:
    held = series_of([8.0] * 24, "DHT22", "humidity")
    assert flagged([*held[:3], held[20], held[3], held[3], *held[4:21]], "stuck") == []
    assert flagged([*held[:3], held[20], held[3], held[3], *held[4:22]], "stuck") == [23]


def test_a_hasty_reporter_is_not_stuck_for_saying_the_same() -> None:
    assert flagged(series_of([99.9] * 67, "DHT22", "humidity", step_s=4), "stuck") == []
    assert flagged(series_of([99.9] * 300, "DHT22", "humidity", step_s=10), "stuck") == [*range(288, 300)]


def test_sensors_and_value_types_are_followed_apart() -> None:
    one, other = series_of([8.0] * 30, "DHT22", "humidity"), series_of([8.0] * 30, "DHT22", "temperature")
    mixed = [record for pair in zip(one, other, strict=True) for record in pair]
    assert flagged(mixed, "stuck") == [*range(46, 60, 2)]


def street(
    sensor_type: str = "DHT22", value_type: str = "temperature", rounds: int = 30, **values: Sequence[float]
) -> list[Record]:
    "Reports of sensors that take turns; each stands at a location of its own: a, b, c, ..."
    made = []
    for n in range(rounds):
        for place, (name, series) in enumerate(values.items()):
            (record,) = series_of([series[min(n, len(series) - 1)]], sensor_type, value_type)
            time = START + timedelta(seconds=148 * n + place)
            where = {"id": 100 + place, "latitude": f"47.33{place}"}
            sensor = record["sensor"] | {"id": ord(name)}
            location = record["location"] | where
            made.append(record | {"timestamp": f"{time:%Y-%m-%d %H:%M:%S}", "sensor": sensor, "location": location})
    return made


def who(reports: Sequence[Record], name: str) -> dict[str, int]:
    "How many readings of each sensor of a street carry a flag."
    judged = judge(read(reports))
    marked = judged.loc[judged["qc"] & FLAGS[name] > 0, "sensor_id"].map(lambda number: chr(number))
    return marked.value_counts().to_dict()


def at(reports: list[Record], name: str, **location: object) -> list[Record]:
    "The reports of a street, with the location of one sensor changed."
    return [r | {"location": r["location"] | location} if r["sensor"]["id"] == ord(name) else r for r in reports]


STEADY = {name: [20.0] for name in "abcde"}


def test_a_lone_sensor_is_judged_by_its_own_history() -> None:
    values = [*[20.0] * 26, 28.1, 28.1, 28.1, *[20.0] * 3, 11.9, 12.1]
    reports = series_of(values, "DHT22", "temperature")
    assert flagged(reports, "spike") == [26, 27, 28, 32]
    assert flagged(reports, "alone") == list(range(len(values)))
    assert flagged(reports[3:], "spike") == [23, 24, 25, 29]
    assert flagged(reports[4:], "spike") == [23, 24, 28]  # the first of them comes before the sensor is known


def test_a_spike_needs_two_others_to_be_believed() -> None:
    jump = [*[20.0] * 28, 30.0, 30.0]
    assert who(street(**STEADY | {"a": jump}), "spike") == {"a": 2}
    assert who(street(**STEADY | {"a": jump, "b": jump}), "spike") == {"a": 2, "b": 2}
    assert who(street(**STEADY | dict.fromkeys("abc", jump)), "spike") == {"a": 1, "b": 1}  # c speaks last
    third = [*[20.0] * 27, 23.4]  # a third of the way, and before it
    assert who(street(**STEADY | {"a": jump, "b": third, "c": third}), "spike") == {}
    assert who(street(**STEADY | {"a": jump, "b": third}), "spike") == {"a": 2}


def test_two_or_three_neighbours_can_confirm_a_jump_too() -> None:
    jump = [*[20.0] * 28, 30.0, 30.0]
    few = {name: [20.0] for name in "abc"}
    assert who(street(**few | {"a": jump}), "spike") == {"a": 2}
    assert who(street(**few | {"a": jump, "b": jump}), "spike") == {"a": 2, "b": 2}
    assert who(street(**dict.fromkeys("abc", jump)), "spike") == {"a": 1, "b": 1}  # nobody has confirmed it yet
    assert who(at(street(**few | {"a": jump}), "a", indoor=1), "spike") == {"a": 2}


def test_what_a_sensor_said_before_a_pause_is_not_recent() -> None:
    before, after = series_of([20.0] * 30, "DHT22", "temperature"), series_of([30.0] * 12, "DHT22", "temperature")

    def paused(hours: int) -> list[Record]:
        begin = START + timedelta(seconds=148 * 29, hours=hours)
        times = [f"{begin + timedelta(seconds=148 * n):%Y-%m-%d %H:%M:%S}" for n in range(len(after))]
        return before + [record | {"timestamp": time} for record, time in zip(after, times, strict=True)]

    assert flagged(paused(1), "spike") == [30, 31, 32, 33, 34]
    assert flagged(paused(2), "spike") == []


def test_what_neighbours_deny_is_marked_however_steady_it_is() -> None:
    warm = STEADY | {"a": [40.0]}
    assert who(street(**warm), "neighbours") == {"a": 29}  # of the first round nobody had heard


def test_four_others_are_enough_and_three_are_not() -> None:
    assert who(street(**{name: [40.0] if name == "a" else [20.0] for name in "abcd"}), "neighbours") == {}
    assert who(street(**{name: [20.0] for name in "abcd"}), "alone") == dict.fromkeys("abcd", 30)
    assert sum(who(street(**STEADY), "alone").values()) == 4  # in the first round all but the last are alone


def test_two_sensors_of_one_box_are_one_witness() -> None:
    warm = street(**STEADY | {"a": [40.0]})
    assert who(at(warm, "c", id=101), "neighbours") == {}
    assert who(at(street(**STEADY | {"a": [40.0], "f": [40.0], "g": [40.0]}), "f", id=100), "neighbours") == {
        "a": 29,
        "f": 30,
        "g": 30,
    }


def test_neighbours_agree_after_allowing_for_height() -> None:
    heights = {name: 300.0 * n for n, name in enumerate("abcde")}
    cooler = {name: [20 - 0.0065 * height] for name, height in heights.items()}
    thinner = {name: [100_000 * np.exp(-height / 8434)] for name, height in heights.items()}
    for sensor_type, value_type, values in (("DHT22", "temperature", cooler), ("BME280", "pressure", thinner)):
        reports = street(sensor_type, value_type, **values)
        for name, height in heights.items():
            reports = at(reports, name, altitude=str(height))
        assert who(reports, "neighbours") == {}
        assert set(who(at(reports, "e", altitude="0"), "neighbours")) == ({"e"} if value_type == "pressure" else set())


def test_what_cannot_be_compared_is_alone() -> None:
    pressures = street("BME280", "pressure", rounds=20, **{name: [100_000.0] for name in "abcde"})
    for name in "abcde":
        pressures = at(pressures, name, altitude=None)
    assert who(pressures, "alone") == dict.fromkeys("abcde", 20)
    temperatures = at(street(**STEADY), "a", altitude=None)
    assert who(temperatures, "alone") == dict.fromkeys("abcde", 30)
    assert who(at(street(**STEADY), "a", id=None), "alone") == dict.fromkeys("abcde", 30)


def test_indoors_nobody_asks_and_nobody_answers() -> None:
    reports = at(street(**STEADY | {"a": [40.0]}), "a", indoor=1)
    assert (who(reports, "neighbours"), who(reports, "alone")) == ({}, dict.fromkeys("abcde", 30))


def test_what_failed_by_itself_does_not_testify() -> None:
    codes = STEADY | {"a": [40.0], "b": [999.9]}
    assert (who(street(**codes), "neighbours"), who(street(**codes), "code")) == ({}, {"b": 30})
    assert who(street(**codes), "alone") == dict.fromkeys("acde", 30)


def test_a_hasty_reporter_does_not_drown_the_others() -> None:
    reports = street(**STEADY | {"a": [40.0]})
    hasty = [
        r | {"timestamp": f"{START + timedelta(seconds=4 * n):%Y-%m-%d %H:%M:%S}"}
        for n, r in enumerate(r for r in street(rounds=1110, b=[20.0]))
    ]
    hasty = at(hasty, "b", id=101, latitude="47.331")
    mixed = sorted([r for r in reports if r["sensor"]["id"] != ord("b")] + hasty, key=lambda r: r["timestamp"])
    assert who(mixed, "neighbours") == {"a": 29}


def test_the_wider_cell_is_asked_where_the_cell_is_empty() -> None:
    reports = street(**STEADY | {"a": [40.0]})
    across = at(reports, "a", latitude="47.299")  # the cell of the others begins at 47.3
    assert who(across, "neighbours") == {"a": 29}
    assert who(at(reports, "a", latitude="47.14"), "neighbours") == {}


def test_whoever_confirms_across_the_edge_is_believed() -> None:
    plume = [20.0] * 5 + [120.0] * 25
    values = {name: [20.0] for name in "abcdefgh"} | {"a": plume, "i": plume, "j": plume}
    reports = street("SDS011", "P1", rounds=20, **values)
    assert who(reports, "neighbours") == {"a": 1, "i": 1}  # at first there are not yet two others to confirm it
    apart = at(at(reports, "i", latitude="47.299"), "j", latitude="47.298")
    assert who(apart, "neighbours") == {"a": 1, "i": 1}
    assert who(at(at(reports, "i", latitude="47.14"), "j", latitude="47.14"), "neighbours")["a"] == 15


def test_particles_in_damp_air_are_marked() -> None:
    def pair(humidity: float, late_s: int = 60, **location: object) -> list[Record]:
        dust = series_of([14.0] * 2, "SDS011", "P1", late_s)
        air = series_of([humidity], "DHT22", "humidity")
        return [*(r | {"location": r["location"] | location, "sensor": r["sensor"] | {"id": 82}} for r in air), *dust]

    assert flagged(pair(70.1), "humid") == [1, 2]
    assert flagged(pair(70.0), "humid") == []
    assert flagged(pair(80.0, late_s=3600), "humid") == [1, 2]
    assert flagged(pair(80.0, late_s=3601), "humid") == [1]
    assert flagged(pair(101.0), "humid") == []
    assert flagged(pair(80.0, id=8), "humid") == []
    assert flagged([*pair(80.0), *pair(50.0)], "humid") == [1, 2]


def told_one_by_one(asked: pd.DataFrame) -> list[tuple[float, ...]]:
    "What `neighbours` says, by the words of its rule."
    grids = {
        "near": list(asked["cell"]),
        "around": [f"{np.floor(lat * 5 + 0.25)} {np.floor(lon * 5 + 0.25)}" for lat, lon in zip(asked["lat"], asked["lon"], strict=True)],
    }  # fmt: skip
    rows: dict[tuple[str, str], list[tuple[bool, int, float]]] = {}
    answers = []
    for n, (location, value, speaks) in enumerate(
        zip(asked["location_id"], asked["comparable"], asked["speaks"], strict=True)
    ):
        heard = {}
        for grid, areas in grids.items():
            area = rows.setdefault((grid, areas[n]), [])
            area.append((speaks, location, value))
            words = [(where, what) for spoke, where, what in area[-64:] if spoke][-31:]
            heard[grid] = sorted(what for where, what in dict(words).items() if where != location)
        few = {grid: max(-(-len(said) // 12), 2) for grid, said in heard.items() if len(said) >= 2}
        said = heard["near"] if len(heard["near"]) >= 4 else heard["around"]
        quarter = -(-len(said) // 4)
        lowest = min([heard[grid][count - 1] for grid, count in few.items()], default=np.inf)
        highest = max([heard[grid][-count] for grid, count in few.items()], default=-np.inf)
        shape = (said[quarter - 1], float(np.median(said)), said[-quarter]) if said else (np.inf,) * 3
        answers.append((len(said), lowest, *shape, highest))
    return answers


def test_neighbours_are_heard_as_the_rule_says() -> None:
    random = np.random.default_rng(5)
    size = 3000
    asked = pd.DataFrame(
        {"lat": random.choice([48.71, 48.74, 48.79, 48.81, 48.86], size), "lon": random.choice([9.14, 9.16], size)}
    )
    asked["cell"] = [cell(lat, lon) for lat, lon in zip(asked["lat"], asked["lon"], strict=True)]
    asked["location_id"] = (asked["lat"] * 100).round().astype(int) * 10 + random.integers(0, 8, size)
    asked = asked.assign(
        value_type="P1", altitude=1.0, comparable=random.normal(size=size).round(1), speaks=random.random(size) < 0.6
    )
    everything = np.ones(size, bool)
    found = neighbours(asked.assign(asks=True), lambda near: everything)[
        ["others", "lowest", "low", "middle", "high", "highest"]
    ]
    assert found["others"].between(0, 30).all() and found["others"].nunique() > 10
    assert [tuple(row) for row in found.itertuples(index=False)] == told_one_by_one(asked)


def spoilt_hours(hours: float, seed: int) -> pd.DataFrame:
    "Measurements of a small city with every fault, in the order of arrival."
    made = records(make_city(24, seed=seed), START, START + timedelta(hours=hours))
    spoilt = inject(made, [*INJECTED, *EPISODES, *ARRIVALS], seed=seed, share=0.3)[0]
    return read(spoilt)


def in_pieces(measured: pd.DataFrame, ends: Iterable[int]) -> np.ndarray:
    "Verdicts of pieces that end at these records."
    memory, found, since = None, [np.array([], int)], -1
    for end in [*ends, measured["record"].max()]:
        piece, memory = judge_piece(measured[measured["record"].between(since + 1, end)], memory)
        found.append(piece["qc"].to_numpy())
        since = end
    return np.concatenate(found)


@pytest.mark.parametrize("seed", [11, 12])
def test_pieces_of_any_size_are_judged_like_the_whole(seed: int) -> None:
    measured = spoilt_hours(6, seed)
    last, chance = int(measured["record"].max()), random.Random(seed)
    whole = judge(measured)["qc"].to_numpy()
    assert {name for qc in np.unique(whole) for name in flag_names(qc)} >= {
        "stuck",
        "spike",
        "neighbours",
        "short",
        "humid",
    }
    for count in (1, 5, 20):
        ends = sorted(chance.sample(range(last), count))
        np.testing.assert_array_equal(in_pieces(measured, ends), whole)


def test_pieces_of_one_record_are_judged_like_the_whole() -> None:
    measured = spoilt_hours(0.15, 14)
    whole = judge(measured)["qc"].to_numpy()
    np.testing.assert_array_equal(in_pieces(measured, range(measured["record"].max())), whole)


def test_a_piece_after_a_gap_and_a_long_hold_is_judged_like_the_whole() -> None:
    at = [*range(0, 40 * 600, 600), *range(3 * 86_400, 3 * 86_400 + 200 * 150, 150)]
    made = [report({"temperature": "20.0", "humidity": "99.9"}, "DHT22") for _ in at]
    for second, record in zip(at, made, strict=True):
        record["timestamp"] = format_time(START + timedelta(seconds=second))[:19]
    measured = read(made)
    whole = judge(measured)["qc"].to_numpy()
    assert (whole & FLAGS["stuck"] > 0).any()
    for step in (7, 30, 45, 100):
        np.testing.assert_array_equal(in_pieces(measured, range(step, len(at) - 1, step)), whole)


def test_what_is_remembered_does_not_grow_with_time() -> None:
    measured = read(records(make_city(24, seed=15), START, START + timedelta(hours=12)))
    _, memory = judge_piece(measured[measured["ts"] < START + timedelta(hours=6)])
    _, later = judge_piece(measured[measured["ts"] >= START + timedelta(hours=6)], memory)
    assert 0 < len(later) <= 1.05 * len(memory)


def test_a_month_of_aberdeen_in_pieces_is_judged_like_the_whole(shared_data: Path) -> None:
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    files = sorted((name, data) for name, data in open_files(archive) if Path(name).name.startswith("2018-11"))
    made = in_order(record for name, data in files for record in read_file(name, data).records)
    measured = measurements(enrich(record, "2019-01-01T00:00:00Z") for record in made)
    last, chance = int(measured["record"].max()), random.Random(11)
    whole = judge(measured)["qc"].to_numpy()
    np.testing.assert_array_equal(in_pieces(measured, sorted(chance.sample(range(last), 12))), whole)
