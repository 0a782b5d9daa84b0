"""Files that say what they hold: what is written reads back, with licence and attribution, and nothing is half there."""

import gzip
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sensorlib import cli
from sensorlib.core import KINDS, Reading, SettingError
from sensorlib.export import ATTRIBUTION, AVERAGE_FIELDS, LICENSE, RAW_FIELDS, exported, write_export
from sensorlib.rollups import roll_up
from sensorlib.rows import DAY
from sensorlib.sqlite import SqliteStore

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
PLACE = 'Ham, "Nord" = a; \\ 東京'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "readings.db")
    store.write(
        [
            Reading(
                sensor, NOON + timedelta(hours=hour), kind, name, 0.1 + hour / 3, qc, place=PLACE, lat=48.8, lon=9.2
            )
            for sensor, qc in ((81, 0), (82, 2 | 1024))
            for kind, name in (("noise", "noise_LAeq"), ("particulates", "P1"))
            for hour in range(30)
        ]
    )
    yield store
    store.close()


def read(path: Path) -> pd.DataFrame:
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path).astype({"ts": "datetime64[ns, UTC]"})
    text = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    return pd.read_csv(
        io.BytesIO(text),
        keep_default_na=False,
        na_values={"value": ""},
        parse_dates=["ts"],
        float_precision="round_trip",
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_readings_read_back_as_they_are_in_the_store(store: SqliteStore, tmp_path: Path, name: str) -> None:
    rows = write_export(exported(store, KINDS, NOON, NOON + 2 * DAY), tmp_path / name)
    found = read(tmp_path / name)
    assert (len(found), rows, list(found)) == (120, 120, list(RAW_FIELDS))
    for kind in ("noise", "particulates"):
        kept = store.readings(kind, NOON, NOON + 2 * DAY).sort_values(["ts", "sensor_id"], ignore_index=True)
        same = found[found["value_type"].isin(kept["value_type"])].sort_values(["ts", "sensor_id"], ignore_index=True)
        assert same["value"].tolist() == kept["value"].tolist()
        assert (pd.to_datetime(same["ts"], utc=True) == kept["ts"]).all()
    assert set(found["flags"]) == {"", "code short"}
    assert set(found["place"]) == {PLACE}
    assert (set(found["license"]), set(found["attribution"])) == ({LICENSE}, {ATTRIBUTION})
    assert dict(zip(found["value_type"], found["unit"], strict=True)) == {"noise_LAeq": "dB(A)", "P1": "µg/m³"}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_averages_come_with_count_and_coverage(store: SqliteStore, tmp_path: Path, name: str) -> None:
    roll_up(store)
    frames = exported(store, ["noise"], NOON - DAY, NOON + 2 * DAY, window="1d")
    assert write_export(frames, tmp_path / name) == 4
    found = read(tmp_path / name)
    assert list(found) == list(AVERAGE_FIELDS)
    assert found.groupby("sensor_id")["count"].sum().to_dict() == {81: 30, 82: 0}


def test_good_readings_and_chosen_sensors(store: SqliteStore, tmp_path: Path) -> None:
    span = KINDS, NOON, NOON + 2 * DAY
    assert write_export(exported(store, *span, good=True), tmp_path / "good.csv") == 60
    assert set(read(tmp_path / "good.csv")["sensor_id"]) == {81}
    assert write_export(exported(store, *span, sensor_ids=[82]), tmp_path / "some.csv") == 60
    assert set(read(tmp_path / "some.csv")["sensor_id"]) == {82}


def test_parquet_carries_the_licence_in_its_metadata(store: SqliteStore, tmp_path: Path) -> None:
    write_export(exported(store, ["noise"], NOON, NOON + DAY), tmp_path / "a.parquet")
    about = pq.read_schema(tmp_path / "a.parquet").metadata
    assert (about[b"license"].decode(), about[b"attribution"].decode()) == (LICENSE, ATTRIBUTION)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_nothing_is_a_file_with_columns(store: SqliteStore, tmp_path: Path, name: str) -> None:
    assert write_export(exported(store, KINDS, NOON - 9 * DAY, NOON - 8 * DAY), tmp_path / name) == 0
    assert list(read(tmp_path / name)) == list(RAW_FIELDS)


def test_a_file_that_fails_is_not_there(store: SqliteStore, tmp_path: Path) -> None:
    def breaks() -> Iterator[pd.DataFrame]:
        yield from exported(store, ["noise"], NOON, NOON + DAY)
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_export(breaks(), tmp_path / "a.csv")
    with pytest.raises(SettingError, match=r"expected a name ending in \.csv"):
        write_export(exported(store, ["noise"], NOON, NOON + DAY), tmp_path / "a.xlsx")
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_exports_a_day(store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/readings.db"
    out = str(tmp_path / "day.csv")
    words = [
        "export",
        "81",
        "--kind",
        "noise",
        "--from",
        "2026-01-15",
        "--to",
        "2026-01-16",
        "--store",
        url,
        "--out",
        out,
    ]
    assert cli.main(words) == 0
    assert len(read(tmp_path / "day.csv")) == 12
    for wrong, says in ((["--from", "yesterday"], "expected a day or a time"), (["--kind", "wind"], "expected one of")):
        assert cli.main(["export", "--store", url, "--out", out, *wrong]) == 1
        assert says in capsys.readouterr().err
