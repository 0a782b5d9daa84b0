"""Readings on the grid of ten minutes against slow ways to the same numbers; neighbours against brute force."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cities import START, city, judged, said

from sensorlib import grids as grids_module
from sensorlib.core import KINDS, READING_COLUMNS, VALUE_TYPES, MissingPart, SettingError
from sensorlib.grids import CANDIDATES, NEAR_KM, SITE_COLUMNS, STEP_S, VOICES, Grid, History, Source
from sensorlib.grids import around, companion, join_grids, read_grids, sites_of, to_grids
from sensorlib.sqlite import SqliteStore

STEP = timedelta(seconds=STEP_S)


def irregular(seed: int, hours: int = 8) -> pd.DataFrame:
    "Readings at whole seconds as they fall, a few flagged, a few without a value."
    random, parts = np.random.default_rng(seed), []
    for sensor in (3, 14, 159):
        for name in ("P1", "temperature", "noise_LAeq", "noise_LA_min", "noise_LA_max"):
            second = np.sort(random.choice(hours * 3600, 100, replace=False))
            value, qc = random.normal(50, 9, 100).round(2), random.choice([0, 0, 0, 2], 100)
            value[random.random(100) < 0.1] = np.nan
            parts.append(
                pd.DataFrame({"second": second, "value": value, "qc": qc, "sensor_id": sensor}).assign(value_type=name)
            )
    made = pd.concat(parts).sample(frac=1, random_state=seed)
    return made.assign(ts=pd.Timestamp(START) + pd.to_timedelta(made["second"], unit="s"))


def slowly(values: pd.Series, value_type: str) -> float:
    "The value of a step, by the book."
    if len(values) == 0:
        return np.nan
    book: dict[str, Callable[[pd.Series], float]] = {"noise_LA_min": min, "noise_LA_max": max}
    book |= {"noise_LAeq": lambda levels: 10 * np.log10(np.mean([10 ** (level / 10) for level in levels]))}
    return float(book.get(value_type, np.median)(values))


@pytest.mark.parametrize("seed", range(3))
def test_steps_are_what_resampling_says(seed: int) -> None:
    readings, until = irregular(seed), START + timedelta(hours=8)
    made = to_grids(readings, START, until)
    good = readings[(readings["qc"] == 0) & readings["value"].notna()]
    wanted = pd.date_range(START, until, freq="10min", inclusive="left")
    assert {*made} == {*readings["value_type"]}
    for (name, sensor), rows in good.groupby(["value_type", "sensor_id"]):
        slow = rows.set_index("ts")["value"].resample("10min").apply(slowly, value_type=name).reindex(wanted)
        row = made[name].sensor_ids.tolist().index(sensor)
        np.testing.assert_allclose(made[name].values[row], slow, rtol=1e-6)
        assert slow.isna().any()


def some(*rows: tuple[float, float], qc: int = 0, value_type: str = "P1", sensor_id: int = 7) -> pd.DataFrame:
    "Readings of one sensor, as (seconds after START, value)."
    ts = [START + timedelta(seconds=second) for second, _ in rows]
    values = {"value": [value for _, value in rows], "qc": qc, "value_type": value_type, "sensor_id": sensor_id}
    return pd.DataFrame({"ts": pd.to_datetime(ts, utc=True), **values})


def test_a_step_holds_its_beginning_and_not_its_end() -> None:
    made = to_grids(some((-1, 1), (0, 2), (599, 3), (600, 4), (1199, 5), (1200, 6)), START, START + 2 * STEP)["P1"]
    assert made.values.tolist() == [[2.5, 4.5]]
    assert (made.start_s, made.end_s) == (START.timestamp(), START.timestamp() + 1200)


def test_only_whole_steps_of_a_span_are_taken() -> None:
    readings = some(*((60 * minute, minute) for minute in range(40)))
    made = to_grids(readings, START + timedelta(seconds=1), START + timedelta(minutes=39))["P1"]
    assert (made.start_s - START.timestamp(), made.values.tolist()) == (600, [[14.5, 24.5]])
    with pytest.raises(SettingError, match="no step"):
        to_grids(readings, START + timedelta(seconds=1), START + timedelta(minutes=19))
    with pytest.raises(SettingError, match="no zone"):
        to_grids(readings, START.replace(tzinfo=None), datetime(2026, 1, 16))


def test_who_says_nothing_good_is_left_out() -> None:
    bad = pd.concat([some((0, np.nan)), some((0, 5), qc=2, sensor_id=8), some((0, 5), qc=2, value_type="P2")])
    assert to_grids(bad, START, START + STEP) == {}
    assert to_grids(pd.DataFrame(columns=list(READING_COLUMNS)), START, START + STEP) == {}


def test_a_value_type_without_an_average_is_refused() -> None:
    with pytest.raises(SettingError, match="'ratioP1' has no average, expected one of"):
        to_grids(some((0, 5), value_type="ratioP1"), START, START + STEP)


def test_text_of_a_category_is_as_good_as_text() -> None:
    readings = irregular(1)
    span, named = (START, START + timedelta(hours=8)), readings.astype({"value_type": "category"})
    plain, other = to_grids(readings, *span), to_grids(named[named["value_type"] != "P1"], *span)
    assert {*plain} - {*other} == {"P1"}
    np.testing.assert_array_equal(plain["noise_LAeq"].values, other["noise_LAeq"].values)


def same(one: dict[str, Grid], other: dict[str, Grid]) -> bool:
    "Whether grids are the same, bit for bit."
    assert {*one} == {*other}
    for name, grid in one.items():
        np.testing.assert_array_equal(grid.sensor_ids, other[name].sensor_ids)
        np.testing.assert_array_equal(grid.values, other[name].values)
        assert grid.start_s == other[name].start_s
    return len(one) > 0


def uneven() -> pd.DataFrame:
    "Two days of the city, a tenth of it faulty."
    readings = said(2, every_s=450).query("value_type != 'pressure_at_sealevel'")
    return readings.assign(qc=np.random.default_rng(2).choice([0, 2], len(readings), p=[0.9, 0.1]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path_factory.mktemp("store") / "readings.db")) as store:
        assert store.write(judged(uneven())) == []
        yield store


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    "The same readings in the files of a history, each kind in two."
    folder, frame = tmp_path_factory.mktemp("history"), pd.DataFrame(judged_rows())
    for kind, rows in frame.groupby("kind"):
        for number, part in enumerate((rows[::2], rows[1::2])):
            path = folder / f"kind={kind}" / "month=2026-01" / f"{number}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part[[*READING_COLUMNS]].to_parquet(path)
    return History(folder)


def judged_rows() -> list[dict]:
    return [{name: getattr(reading, name) for name in READING_COLUMNS} for reading in judged(uneven())]


SPAN = (START + timedelta(minutes=3), START + timedelta(hours=47, minutes=58))


@pytest.mark.parametrize("kind", KINDS)
def test_history_and_store_give_the_same_grids_and_sites(kind: str, store: SqliteStore, history: History) -> None:
    one = read_grids(store, kind, *SPAN)
    assert same(one, read_grids(history, kind, *SPAN))
    mine = uneven()[uneven()["value_type"].map(lambda name: VALUE_TYPES[name].kind) == kind]
    assert same(one, to_grids(mine, *SPAN))
    columns = [name for name in SITE_COLUMNS if name != "place"]
    there, here = (sites_of(source.latest(kind))[columns] for source in (store, history))
    pd.testing.assert_frame_equal(there, here, check_dtype=False)
    assert there["lat"].notna().all()


@pytest.mark.parametrize("many", [-1, 10**9])
@pytest.mark.parametrize(("longest", "hours"), [(4 * STEP, 1), (timedelta(hours=7), 20), (timedelta(days=31), 20)])
def test_pieces_make_the_whole(
    many: int, longest: timedelta, hours: int, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    span, asked, plain = (SPAN[0], SPAN[0] + timedelta(hours=hours)), [], History.readings
    whole = read_grids(history, "particulates", *span)

    def listening(self: History, kind: str, since: datetime, until: datetime, endings: str) -> pd.DataFrame:
        asked.append(endings)
        return plain(self, kind, since, until, endings)

    monkeypatch.setattr(History, "readings", listening)
    monkeypatch.setattr(grids_module, "_MANY", many)
    monkeypatch.setattr(grids_module, "_LONGEST", longest)
    assert same(whole, read_grids(history, "particulates", *span))
    assert {*asked} == ({*"0123456789"} if many < 0 else {"0", "123456789"})


def test_a_sensor_that_is_in_one_piece_alone_is_silent_in_the_other() -> None:
    early = to_grids(some((0, 1)), START, START + STEP)
    late = to_grids(some((600, 2), sensor_id=3), START + STEP, START + 2 * STEP)
    joined = join_grids([early, late], START, START + 2 * STEP)["P1"]
    np.testing.assert_array_equal(joined.values, [[np.nan, 2], [1, np.nan]])
    assert joined.sensor_ids.tolist() == [3, 7]


def test_a_folder_without_a_history_and_a_kind_without_readings(tmp_path: Path, history: History) -> None:
    with pytest.raises(MissingPart, match="no history"):
        History(tmp_path)
    assert read_grids(history, "noise", START - 9 * STEP, START - 2 * STEP) == {}
    assert read_grids(history, "weather", *SPAN) == {}


def places(*where: tuple[float, float], **columns: list) -> pd.DataFrame:
    "Sensors at positions, each at a location of its own, outdoors, unless told otherwise."
    lat, lon = np.array(where, "float64").reshape(-1, 2).T
    number = np.arange(len(where))
    frame = pd.DataFrame(
        {"sensor_id": number + 1, "location_id": number + 100, "lat": lat, "lon": lon, "indoor": False}
    )
    return (
        frame.reindex(columns=[*SITE_COLUMNS]).assign(**columns).astype({"location_id": "Int64", "indoor": "boolean"})
    )


def grid_of(values: np.ndarray) -> Grid:
    return Grid("P1", np.arange(1, len(values) + 1), 0, np.asarray(values, "float32"))


def brute(grid: Grid, sites: pd.DataFrame, row: int) -> list[float]:
    "Median of those around one sensor, all distances computed, step by step."
    lat, lon = np.radians(sites[["lat", "lon"]].to_numpy("float64")).T
    half = np.sin((lat - lat[row]) / 2) ** 2 + np.cos(lat) * np.cos(lat[row]) * np.sin((lon - lon[row]) / 2) ** 2
    km = 2 * 6371 * np.arcsin(np.sqrt(half))
    other = (sites["location_id"] != sites["location_id"][row]) & ~sites["indoor"].fillna(False)
    near = [at for at in np.argsort(km) if other[at] and km[at] <= NEAR_KM][:CANDIDATES]
    heard = ([value for value in grid.values[near, step] if not np.isnan(value)] for step in range(grid.steps))
    return [float(np.median(voices[:VOICES])) if voices else np.nan for voices in heard]


@pytest.mark.parametrize("centre", [(48.8, 9.2), (-17.8, 179.95), (89.9, 20.0), (-89.95, -170.0), (0.0, 0.0)])
def test_neighbours_are_those_of_brute_force(centre: tuple[float, float]) -> None:
    random = np.random.default_rng(5)
    spread = np.array([0.5, min(0.5 / np.cos(np.radians(centre[0])), 180)])
    where = centre + random.uniform(-1, 1, (40, 2)) * spread
    where[:, 0] = np.degrees(np.arcsin(np.sin(np.radians(where[:, 0]))))  # beyond a pole it goes down again
    where[:, 1] = (where[:, 1] + 180) % 360 - 180
    where[3] = np.nan
    sites = places(*where, location_id=random.integers(100, 130, 40), indoor=random.choice([True, False, None], 40))
    grid = grid_of(np.where(random.random((40, 30)) < 0.6, np.nan, random.normal(20, 5, (40, 30))))
    heard = around(grid, sites, sites)
    wanted = np.array([brute(grid, sites, row) for row in range(40)])
    np.testing.assert_allclose(heard, wanted, rtol=1e-6)
    assert np.isnan(heard[3]).all()
    assert np.isfinite(np.delete(heard, 3, axis=0)).mean() > 0.5


def test_eight_speak_and_the_next_takes_the_place_of_a_silent_one() -> None:
    values = np.array([[99.0, 99], *([float(row), float(row)] for row in range(1, 13))])
    values[1, 1] = np.nan
    sites = places(*((50.0, 8 + row / 100) for row in range(13)))
    assert around(grid_of(values), sites, sites)[0].tolist() == [4.5, 5.5]


def test_nobody_around() -> None:
    far = places((50, 8), (51, 8))
    assert np.isnan(around(grid_of([[1], [2]]), far, far)).all()
    inside = places((50, 8), (50, 8.1), indoor=[True, True])
    assert np.isnan(around(grid_of([[1], [2]]), inside, inside)).all()
    unknown = places((np.nan, np.nan), (np.nan, 8))
    assert np.isnan(around(grid_of([[1], [2]]), unknown, unknown)).all()
    assert around(grid_of(np.empty((0, 3))), far[:0], far).shape == (2, 3)
    assert around(grid_of([[1], [2]]), far, far[:0]).shape == (0, 1)


def test_a_sensor_of_no_known_location_does_not_hear_itself() -> None:
    sites = places((50, 8), (50, 8.1), location_id=[None, None])
    assert around(grid_of([[1], [2]]), sites, sites).tolist() == [[2], [1]]
    assert np.isnan(around(grid_of([[1]]), sites[:1], sites[:1])).all()


def test_two_instruments_of_a_box_do_not_hear_each_other() -> None:
    sites = places((50, 8), (50, 8), (50, 8.2), location_id=[1, 1, 2])
    assert around(grid_of([[1], [2], [7]]), sites, sites).tolist() == [[7], [7], [1.5]]


def test_many_who_ask_are_answered_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    sites, grid = places(*random.uniform(50, 50.4, (23, 2))), grid_of(random.normal(size=(23, 5)))
    at_once = around(grid, sites, sites)
    monkeypatch.setattr(grids_module, "_AT_A_TIME", 4 * grid.steps)
    np.testing.assert_array_equal(around(grid, sites, sites), at_once)


def test_a_companion_is_of_the_same_place_or_else_around_it() -> None:
    asking = places((50, 8), (50, 8.1), (60, 20), location_id=[1, 2, 9])
    others = places((50, 8), (50, 8.05), location_id=[1, 5], sensor_id=[11, 12])
    beside = companion(grid_of([[4, np.nan], [6, 7]]), others, asking)
    np.testing.assert_array_equal(beside, [[4, 7], [5, 7], [np.nan, np.nan]])


def test_a_companion_is_of_the_same_sensor_where_it_has_one() -> None:
    twins = places((50, 8), (50, 8), location_id=[1, 1])
    assert companion(grid_of([[4], [6]]), twins, twins).tolist() == [[4], [6]]
    lost = twins.assign(location_id=pd.array([None, None], "Int64"))
    assert companion(grid_of([[4], [6]]), lost, lost).tolist() == [[4], [6]]


def test_where_a_sensor_stands_is_told_by_its_newest_reading() -> None:
    rows = pd.DataFrame(judged_rows()).drop_duplicates(["sensor_id", "value_type"]).reset_index(drop=True)
    moved = rows.assign(lat=1.0, ts=rows["ts"] + timedelta(days=1))[::2]
    placed = sites_of(pd.concat([moved, rows]))
    assert placed["sensor_id"].tolist() == sorted(city().sensors["sensor_id"])
    assert {*placed.query("lat == 1")["sensor_id"]} == {*moved["sensor_id"]}


def test_both_are_sources(store: SqliteStore, history: History) -> None:
    sources: list[Source] = [store, history]
    assert [len(source.latest("noise")) > 0 for source in sources] == [True, True]
