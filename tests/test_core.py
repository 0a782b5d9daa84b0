"""Numbers, ids and times at their edges; settings, errors, status files."""

import calendar
import inspect
import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sensorlib import core
from sensorlib.core import (
    DEAD_REASONS,
    KINDS,
    PARTICLE_COUNTERS,
    READING_COLUMNS,
    VALUE_TYPES,
    Reading,
    SensorlibError,
    SettingError,
    Settings,
    format_time,
    kind_of,
    load_settings,
    parse_id,
    parse_number,
    parse_time,
    read_status,
    write_status,
)

NUMBERS: dict[str, float | None] = {
    "12.30": 12.3, "-0.5": -0.5, "+7": 7.0, ".5": 0.5, "5.": 5.0, "007": 7.0, "-0": 0.0, "1e5": 1e5, "1E-3": 1e-3, "1e+22": 1e22,
    "0.1": 0.1, "1.7976931348623157e99": 1.7976931348623157e99, "5e-99": 5e-99, "1e308": None, "1e-999": None, "9007199254740993": 9007199254740992.0,
    "1e999": None, "-1e999": None, "1e00005": None, "1" * 400: None, "": None, " ": None, ".": None, "+": None, "e5": None, "1e": None,
    " 1": None, "1 ": None, "1\n": None, "\t1": None, "\u00a01": None, "1_000": None, "1,5": None, "1.000,5": None, "1 000": None,
    "--1": None, "+-1": None, "1.2.3": None, "0x10": None, "0b1": None, "0o7": None, "1d": None, "1f": None, "1L": None, "1j": None,
    "NaN": None, "nan": None, "Infinity": None, "-inf": None, "None": None, "null": None, "true": None, "unknown": None, "12 %": None,
    "٣": None, "１": None, "²": None, "−1": None, "½": None, "Sep 60": None, "[1]": None, '{"a": 1}': None, "\x00": None, "1\x00": None,
}  # fmt: skip
IDS: dict[str, int | None] = {
    "1": 1, "12": 12, "100000000000000001": 100000000000000001, "999999999999999999": 999999999999999999,
    "1000000000000000000": None, "0": None, "01": None, "-3": None, "+3": None, "1.0": None, "1e3": None, "1_000": None, "0x10": None,
    " 1": None, "1 ": None, "1\n": None, "٣": None, "１": None, "": None, "true": None, "NaN": None, "null": None, "[1]": None,
}  # fmt: skip
TIMES: dict[str, str | None] = {
    "2017-08-10T11:23:41": "2017-08-10T11:23:41Z", "2019-04-16 14:22:52": "2019-04-16T14:22:52Z",
    "2024-03-05T06:00:00Z": "2024-03-05T06:00:00Z", "2024-03-05 06:00:00Z": "2024-03-05T06:00:00Z",
    "2024-03-05T06:00:00+00:00": "2024-03-05T06:00:00Z", "2024-03-05T06:00:00+0000": "2024-03-05T06:00:00Z",
    "2024-03-05T06:00:00.9": "2024-03-05T06:00:00Z", "2024-03-05 06:00:00.123456789Z": "2024-03-05T06:00:00Z",
    "2000-01-01 00:00:00": "2000-01-01T00:00:00Z", "2099-12-31 23:59:59": "2099-12-31T23:59:59Z",
    "2000-02-29 12:00:00": "2000-02-29T12:00:00Z", "2024-02-29 12:00:00": "2024-02-29T12:00:00Z",
    "2023-02-29 12:00:00": None, "2100-02-29 12:00:00": None, "2024-02-30 12:00:00": None, "2024-04-31 12:00:00": None,
    "2024-13-01 00:00:00": None, "2024-00-10 00:00:00": None, "2024-01-00 00:00:00": None, "2024-01-32 00:00:00": None,
    "1999-12-31 23:59:59": None, "2100-01-01 00:00:00": None, "3000-01-01 00:00:00": None, "0000-01-01 00:00:00": None,
    "2024-03-05 24:00:00": None, "2024-03-05 06:60:00": None, "2016-12-31 23:59:60": None, "2024-03-05 25:00:00": None,
    "2024-03-05T06:00:00+02:00": None, "2024-03-05T06:00:00-00:00": None, "2024-03-05T06:00:00+00": None, "2024-03-05T06:00:00 UTC": None,
    "2024-03-05T06:00:00z": None, "2024-03-05t06:00:00": None, "2024-03-05T06:00:00.": None, "2024-03-05T06:00:00,5": None,
    "2024-03-05T06:00:00.1234567890": None, "2024-03-05T06:00": None, "2024-03-05": None, "20240305T060000": None, "24-03-05 06:00:00": None,
    "2024-3-5 6:00:00": None, "05.03.2024 06:00:00": None, "2024/03/05 06:00:00": None, "2024-03-05  06:00:00": None, "1709618400": None,
    " 2024-03-05 06:00:00": None, "2024-03-05 06:00:00 ": None, "2024-03-05 06:00:00\n": None, "٢٠٢٤-03-05 06:00:00": None, "": None, "null": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=ascii)
def test_numbers(text: str, number: float | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [(4, 4.0), (1e22, 1e22), (10**17, 1e17), (-1.5, -1.5), (0, 0.0), (10**400, None), (True, None), (False, None), (None, None),
     (float("nan"), None), (float("-inf"), None), ([], None), ([1], None), ({"a": 1}, None), (b"1", None), (1j, None)],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_numbers_that_are_no_text(value: object, number: float | None) -> None:
    assert parse_number(value) == number


@pytest.mark.parametrize(("text", "number"), IDS.items(), ids=ascii)
def test_ids(text: str, number: int | None) -> None:
    assert parse_id(text) == number


@pytest.mark.parametrize(
    ("value", "number"), [(7, 7), (0, None), (-1, None), (7.0, None), (True, None), (None, None), ([], None)]
)
def test_ids_that_are_no_text(value: object, number: int | None) -> None:
    assert parse_id(value) == number


@pytest.mark.parametrize(("text", "moment"), TIMES.items(), ids=ascii)
def test_times(text: str, moment: str | None) -> None:
    parsed = parse_time(text)
    assert (parsed and format_time(parsed)) == moment


@pytest.mark.parametrize(
    "value", [None, 5, 1709618400.0, True, [], {}, b"2024-03-05 06:00:00", datetime(2024, 3, 5, tzinfo=UTC)]
)
def test_times_that_are_no_text(value: object) -> None:
    assert parse_time(value) is None


@pytest.mark.parametrize("year", [2000, 2001, 2004, 2023, 2024, 2096, 2099])
def test_times_know_the_calendar(year: int) -> None:
    for month in range(1, 13):
        days = [day for day in range(100) if parse_time(f"{year}-{month:02}-{day:02} 00:00:00")]
        assert days == list(range(1, calendar.monthrange(year, month)[1] + 1))


def test_a_moment_is_written_in_utc_and_whole_seconds() -> None:
    there = datetime(2024, 3, 1, 1, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(there) == "2024-02-29T23:30:00Z"
    assert parse_time(format_time(there)) == there.replace(microsecond=0)


def test_every_kind_has_value_types_and_counters_have_no_particulates() -> None:
    assert {kind_of(name) for name in VALUE_TYPES} == set(KINDS)
    lost = {name for name in VALUE_TYPES for counter in PARTICLE_COUNTERS if kind_of(name, counter) is None}
    assert lost == {name for name, v in VALUE_TYPES.items() if v.kind == "particulates"} == {"P0", "P1", "P2", "P4"}
    assert [kind_of(name, "SDS011") for name in ("p1", "P1 ", "durP1", "")] == [None] * 4


def test_only_sound_is_averaged_by_energy() -> None:
    assert {v.kind for v in VALUE_TYPES.values() if v.average == "energetic"} == {"noise"}
    assert {v.average for v in VALUE_TYPES.values()} == {"mean", "energetic"}


def test_a_reading_has_the_columns_and_cannot_change() -> None:
    assert set(Reading.__struct_fields__) == set(READING_COLUMNS)
    reading = Reading(1, datetime(2024, 1, 1, tzinfo=UTC), "noise", "noise_LAeq", 40.0)
    with pytest.raises(AttributeError):
        reading.value = 41.0  # type: ignore[misc]


ERRORS = [
    c for _, c in inspect.getmembers(core, inspect.isclass) if issubclass(c, SensorlibError) and c is not SensorlibError
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_ours_and_a_builtin(error: type[SensorlibError]) -> None:
    builtin = [c for c in error.__mro__ if c.__module__ == "builtins" and c not in (Exception, BaseException, object)]
    assert builtin
    assert inspect.getdoc(error)
    with pytest.raises(SensorlibError, match="why"):
        raise error("why")


def test_there_are_reasons_for_the_dead() -> None:
    assert len(ERRORS) >= 6
    assert {"not_json", "cut", "no_values", "sensor_id", "time", "value", "reading"} <= set(DEAD_REASONS)


def test_settings_from_the_environment() -> None:
    env = {
        "SENSORLIB_POLL_S": "5",
        "SENSORLIB_PARTITIONS": "8",
        "SENSORLIB_BROKERS": "a:1,b:2",
        "POLL_S": "9",
        "HOME": "/home",
    }
    found = load_settings(env, brokers="c:3", partitions=None)
    assert (found.poll_s, found.partitions, found.brokers) == (5.0, 8, "c:3")
    assert load_settings({}) == Settings()


def test_settings_from_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLIB_STORE", "sqlite:///here.db")
    assert load_settings().store == "sqlite:///here.db"


@pytest.mark.parametrize(
    ("name", "text"), [("poll_s", "often"), ("partitions", "4.5"), ("replicas", ""), ("parallelism", "two")]
)
def test_a_setting_that_cannot_be_used(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=rf"SENSORLIB_{name.upper()} is '{text}', expected (int|float): \w"):
        load_settings({f"SENSORLIB_{name.upper()}": text})


def test_every_setting_says_what_it_is() -> None:
    assert all(f.metadata["says"] for f in fields(Settings))


def test_a_status_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "scrape.json"
    assert read_status(path) == {}
    for sent in (1, 2):
        write_status(path, {"sent": sent, "place": "Zürich"})
    assert read_status(path) == json.loads(path.read_text()) == {"sent": 2, "place": "Zürich"}
    assert [p.name for p in tmp_path.iterdir()] == ["scrape.json"]
