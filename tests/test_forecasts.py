"""Forecasts of a store: what is said when something is missing, wrong, late or new; and what became of it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from cities import START, judged, panel_of, said

from sensorlib import cli
from sensorlib.baselines import BASELINES, dump_climates, fit_climates
from sensorlib.core import KINDS, VALUE_TYPES, MissingPart, Reading, StoreError
from sensorlib.forecasts import CLIMATE_FILE, MODEL_FILE, Forecaster, Observed, forecast_panel, load_forecaster
from sensorlib.forecasts import long_frame, observe, past_of, predict
from sensorlib.grids import STEP_S
from sensorlib.influx import FORECASTS
from sensorlib.registry import About, Registry, newest, open_registry, publish
from sensorlib.rows import DAY, FORECAST_COLUMNS, QUANTILE_COLUMNS
from sensorlib.sqlite import SqliteStore
from sensorlib.store import Store, open_store
from sensorlib.widths import keep_following
from sensorlib.windows import HORIZONS_MIN, PAST, QUANTILES, Panel, context_columns, moments, value_types_of

if TYPE_CHECKING:
    from influx import Influx

pytest_plugins = ("influx",)

DAYS, SENSORS = 3, 8
ISSUED = START + timedelta(days=DAYS, hours=7)
NOW = ISSUED + timedelta(minutes=3)
STEP = timedelta(seconds=STEP_S)


@pytest.fixture(params=["sqlite", "influxdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    "An empty store of each sort."
    if request.param == "sqlite":
        with closing(open_store(f"sqlite:///{tmp_path}/readings.db")) as opened:
            yield opened
        return
    influx: Influx = request.getfixturevalue("influx")
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", influx.token)
    with influx.bucket() as url, influx.made(FORECASTS), closing(open_store(url)) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteStore]:
    "An empty store in a file."
    with closing(SqliteStore(tmp_path / "readings.db")) as opened:
        yield opened


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    "A registry without models."
    return open_registry(f"{tmp_path}/models")


@cache
def city(days: float = DAYS + 7 / 24) -> pd.DataFrame:
    "What the city said until the moment of issue, or for other days."
    return said(days, SENSORS)


def fill(store: Store, readings: pd.DataFrame) -> None:
    assert store.write(judged(readings, SENSORS)) == []


def stored(store: Store, kinds: tuple[str, ...] = KINDS) -> pd.DataFrame:
    "Forecasts in a store, in a fixed order."
    found = [store.forecasts(kind, START, START + 9 * DAY) for kind in kinds]
    return pd.concat([some for some in found if len(some)] or found[:1], ignore_index=True)


def one(value_type: str) -> pd.DataFrame:
    "What one sensor of the city said of a value type."
    rows = city()[city()["value_type"] == value_type]
    return rows[rows["sensor_id"] == rows["sensor_id"].min()]


def bare(readings: pd.DataFrame) -> list[Reading]:
    "Readings of which nothing else is known, neither position nor location nor country."
    rows = readings.itertuples()
    return [
        Reading(r.sensor_id, r.ts.to_pydatetime(), VALUE_TYPES[r.value_type].kind, r.value_type, r.value, r.qc)
        for r in rows
    ]


def series_of(frame: pd.DataFrame) -> int:
    return len(frame[["sensor_id", "value_type"]].drop_duplicates())


@cache
def onnx_model(kind: str, columns: int, value: float | None = None) -> bytes:
    "A model that says the newest value, or a fixed one, with bands of -3, -1, 0, 1, 3; NaN where the last step is a gap."
    helper, numpy_helper = (pytest.importorskip(f"onnx.{name}") for name in ("helper", "numpy_helper"))
    bands = np.zeros((1, len(HORIZONS_MIN), 5), "float32") + np.array([-3, -1, 0, 1, 3], "float32")
    channels = panel_of(kind, city(), DAYS, SENSORS).channels
    width = next(iter(channels.values())).shape[2]
    numbers = {"bands": bands, "begin": [PAST - 1, 0], "end": [PAST, 1], "axes": [1, 2]}
    numbers |= {"scale": np.float32(value is None), "shift": np.float32(value or 0)}
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items()]
    nodes = [
        helper.make_node("Slice", ["past", "begin", "end", "axes"], ["newest"]),
        helper.make_node("Mul", ["newest", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["middle"]),
        helper.make_node("Add", ["middle", "bands"], ["said"]),
    ]
    given = [
        helper.make_tensor_value_info("past", 1, ["n", PAST, width]),
        helper.make_tensor_value_info("context", 1, ["n", columns]),
        helper.make_tensor_value_info("station", 6, ["n"]),
    ]
    out = [helper.make_tensor_value_info("said", 1, ["n", len(HORIZONS_MIN), 5])]
    graph = helper.make_graph(nodes, "newest", given, out, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@cache
def climates_of(kind: str) -> bytes:
    panel = panel_of(kind, said(6, SENSORS), 6, SENSORS)
    return dump_climates(fit_climates(panel, 0, panel.steps))


def put_model(
    registry: Registry, kind: str, value: float | None = None, who: str = "network", columns: int = 0, **changes: Any
) -> str:
    "Publish a model of a kind that says the newest value, and listens to so many columns of context; its version."
    pytest.importorskip("onnxruntime")
    panel = panel_of(kind, city(), DAYS, SENSORS)
    told = {
        "trained_from": START, "trained_until": ISSUED, "value_types": (*panel.channels,), "horizons_min": HORIZONS_MIN,
        "quantiles": QUANTILES, "vocabulary": {"sensor_ids": sorted(city()["sensor_id"].unique().tolist())},
        "served": {name: dict.fromkeys(HORIZONS_MIN, who) for name in panel.channels},
    }  # fmt: skip
    files = {MODEL_FILE: onnx_model(kind, columns or context_columns(kind), value), CLIMATE_FILE: climates_of(kind)}
    return publish(registry, kind, files, About(**told | changes)).version


def put_models(registry: Registry) -> dict[str, str]:
    return {kind: put_model(registry, kind) for kind in KINDS}


def artefact_made(registry: Registry, kind: str) -> datetime:
    artefact = newest(registry, kind)
    assert artefact is not None
    return artefact.manifest.made


def check_bands(frame: pd.DataFrame) -> None:
    "Check that quantiles are finite, in order, and not all the same."
    bands = frame[list(QUANTILE_COLUMNS)].to_numpy("float64")
    assert len(bands) and np.isfinite(bands).all()
    assert (np.diff(bands, axis=1) >= 0).all()
    assert (np.ptp(bands, axis=1) > 0).mean() > 0.9


# Without a model


def test_without_a_model_the_better_of_two_guesses_speaks_with_bands(store: Store, registry: Registry) -> None:
    fill(store, city())
    done = predict(store, registry, NOW)
    frame = stored(store)
    assert (done.series, done.forecasts, done.silent, done.unsure) == (series_of(city()), len(frame), 0, 0)
    assert len(frame) == len(HORIZONS_MIN) * done.series
    assert done.models == dict.fromkeys(KINDS)
    assert done.by_model == frame["model"].value_counts().to_dict() and {*done.by_model} == {"persistence", "daily"}
    assert list(frame) == list(FORECAST_COLUMNS) and frame["observed"].isna().all()
    assert (frame["ts"] - frame["issued"] == pd.to_timedelta(frame["horizon_min"], unit="min")).all()
    assert {*frame["issued"]} == {pd.Timestamp(ISSUED)}
    check_bands(frame)


def test_a_kind_alone_is_told_what_it_is_told_among_all(file: SqliteStore, registry: Registry) -> None:
    fill(file, city())
    done = predict(file, registry, NOW, kinds=("humidity",))
    alone = stored(file)
    assert {*alone["value_type"]} == {"humidity"} and len(alone) == done.forecasts and [*done.models] == ["humidity"]
    predict(file, registry, NOW)
    pd.testing.assert_frame_equal(stored(file, ("humidity",)), alone)


def test_a_guess_serves_where_it_was_better(file: SqliteStore, registry: Registry) -> None:
    "A day that repeats itself is told by yesterday; a day ahead both say the same."
    hour = (city()["ts"] - pd.Timestamp(START)).dt.total_seconds() / 3600
    fill(file, city().assign(value=20 + 5 * np.sin(hour / 24 * 2 * np.pi)).query("value_type == 'temperature'"))
    predict(file, registry, NOW)
    served = stored(file).groupby("horizon_min")["model"].agg(lambda names: "|".join({*names}))
    assert served.to_dict() == {**dict.fromkeys(HORIZONS_MIN[:-1], "daily"), HORIZONS_MIN[-1]: "persistence"}


def test_in_the_first_hours_nothing_can_be_said(store: Store, registry: Registry) -> None:
    fill(store, city()[lambda frame: frame["ts"] >= ISSUED - timedelta(minutes=50)])
    done = predict(store, registry, NOW)
    assert (done.series, done.forecasts, done.silent, done.unsure) == (0, 0, 0, series_of(city()))
    assert stored(store).empty and done.by_model == {}


def test_an_empty_store_has_no_future(store: Store, registry: Registry) -> None:
    done = predict(store, registry, NOW)
    assert (done.series, done.forecasts, done.silent, done.unsure) == (0, 0, 0, 0)
    assert observe(store, NOW) == Observed(0, 0)


# With one


def test_models_serve_and_nobody_asks_for_redis(
    store: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORLIB_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("redis.connection.AbstractConnection.connect", None)
    versions = put_models(registry)
    fill(store, city())
    done = predict(store, registry, NOW)
    frame = stored(store)
    assert done.models == versions and done.by_model == frame["model"].value_counts().to_dict()
    assert {*frame["model"]} == {*versions.values()}
    np.testing.assert_allclose(frame["p50"], frame["persistence"], atol=2e-3)
    check_bands(frame)


ALONE = """
import sys
from sensorlib.core import parse_time
from sensorlib.forecasts import observe, predict
from sensorlib.registry import open_registry
from sensorlib.store import open_store
store = open_store(sys.argv[1])
done = predict(store, open_registry(sys.argv[2]), parse_time(sys.argv[3]))
observe(store, parse_time(sys.argv[3]))
print(done.forecasts, None not in done.models.values(), *({"tensorflow", "keras", "pyflink", "kafka"} & {*sys.modules}))
"""


def test_prediction_imports_neither_what_trains_nor_what_streams(file: SqliteStore, tmp_path: Path) -> None:
    fill(file, city())
    put_models(open_registry(f"{tmp_path}/models"))
    words = [f"sqlite:///{tmp_path}/readings.db", f"{tmp_path}/models", ISSUED.strftime("%Y-%m-%dT%H:%M:%SZ")]
    told = subprocess.check_output([sys.executable, "-c", ALONE, *words], text=True)
    assert told.split() == [str(len(HORIZONS_MIN) * series_of(city())), "True"]


@pytest.mark.parametrize("who", ["network", *BASELINES])
def test_a_sensor_that_no_model_has_seen_is_forecast_like_the_others(
    who: str, file: SqliteStore, registry: Registry
) -> None:
    "The climates know eight sensors, the vocabulary none; a ninth has spoken for a day."
    file.write(bare(one("temperature")[lambda frame: frame["ts"] >= ISSUED - DAY].assign(sensor_id=7)))
    version = put_model(registry, "temperature", who=who, vocabulary={"sensor_ids": []})
    done = predict(file, registry, NOW)
    frame = stored(file, ("temperature",))
    assert done.unsure == 0 and len(frame) == len(HORIZONS_MIN)
    assert {*frame["model"]} == {version if who == "network" else who}
    check_bands(frame)


def test_where_yesterday_has_a_gap_now_stands_in_and_says_so(file: SqliteStore, registry: Registry) -> None:
    hole = (ISSUED - DAY, ISSUED - DAY + timedelta(hours=4))
    readings = city().query("value_type == 'temperature'")
    fill(file, readings[(readings["ts"] < hole[0]) | (readings["ts"] >= hole[1])])
    put_model(registry, "temperature", who="daily")
    predict(file, registry, NOW)
    frame = stored(file, ("temperature",))
    by_horizon = frame.groupby("horizon_min")["model"].agg(lambda names: "|".join(sorted({*names})))
    assert by_horizon.loc[:120].eq("persistence").all() and by_horizon.loc[360:].eq("daily").all()
    assert frame.loc[frame["model"] == "persistence", "daily"].isna().all()
    check_bands(frame)


def test_what_the_network_cannot_say_is_left_out_and_counted(file: SqliteStore, registry: Registry) -> None:
    "Two sensors of particulates were silent in the last step: the model answers NaN."
    quiet = sorted(city().query("value_type == 'P1'")["sensor_id"].unique())[:2]
    fill(file, city()[~(city()["sensor_id"].isin(quiet) & (city()["ts"] >= ISSUED - STEP))])
    put_models(registry)
    done = predict(file, registry, NOW)
    missing = city()[city()["sensor_id"].isin(quiet)]
    assert done.unsure == series_of(missing) and done.series == series_of(city()) - done.unsure
    assert not stored(file)["sensor_id"].isin(quiet).any()
    assert done.forecasts == len(HORIZONS_MIN) * done.series == len(stored(file))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_that_is_none_is_written(bad: float) -> None:
    panel = panel_of("temperature", city(), DAYS, SENSORS)

    def run(past: np.ndarray, context: np.ndarray, station: np.ndarray) -> np.ndarray:
        answer = np.tile(np.arange(5.0), (len(past), len(HORIZONS_MIN), 1))
        answer[0], answer[1, 3, 4] = bad, bad
        return answer

    served = {"temperature": dict.fromkeys(HORIZONS_MIN, "network")}
    frame = forecast_panel(
        panel,
        Forecaster("temperature", "v", run, np.array([], "int64"), fit_climates(panel, 0, panel.steps), served, {}),
    )
    series = len(panel.own("temperature"))
    assert len(frame) == len(HORIZONS_MIN) * (series - 1) - 1
    assert np.isfinite(frame[list(QUANTILE_COLUMNS)]).all(axis=None)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_what_was_infinite_yesterday_is_unknown(file: SqliteStore, registry: Registry) -> None:
    "A store may hold what float32 cannot; it is never written back, as a guess or as what came."
    readings = one("temperature").copy()
    readings.loc[readings["ts"].between(ISSUED - DAY, ISSUED - DAY + STEP * 30), "value"] = 1e39
    fill(file, pd.concat([readings, one("humidity")]))
    put_model(registry, "temperature")
    done = predict(file, registry, NOW)
    frame = stored(file, ("temperature",))
    assert done.forecasts > 0 and len(frame) == len(HORIZONS_MIN) and frame["daily"].isna().any()
    later = one("temperature").iloc[:7].assign(ts=[pd.Timestamp(ISSUED) + STEP * step for step in range(7)], value=1e39)
    fill(file, later)
    before = observe(file, ISSUED + timedelta(hours=2) + STEP)
    assert before.compared == 0 and before.waiting == len(HORIZONS_MIN[:4]) * done.series


@pytest.mark.parametrize("value", [-500.0, 500.0])
def test_humidity_ends_at_0_and_100(value: float, file: SqliteStore, registry: Registry) -> None:
    fill(file, city().query("value_type == 'humidity'"))
    put_model(registry, "humidity", value)
    predict(file, registry, NOW)
    frame = stored(file, ("humidity",))
    assert {*frame[list(QUANTILE_COLUMNS)].to_numpy().ravel()} == {min(max(value, 0), 100)}


@pytest.mark.parametrize("who", ["network", "persistence"])
def test_fans_are_as_wide_as_what_came_asks_for(who: str, file: SqliteStore, registry: Registry) -> None:
    fill(file, city().query("value_type == 'temperature'"))
    put_model(registry, "temperature", who=who)
    predict(file, registry, NOW)
    plain = stored(file, ("temperature",)).set_index(["sensor_id", "horizon_min"])
    put_model(registry, "temperature", who=who, widths={"temperature": {60: 2.0, 1440: 0.5}})
    predict(file, registry, NOW)
    wide = stored(file, ("temperature",)).set_index(["sensor_id", "horizon_min"])
    factor = wide.index.get_level_values(1).map({60: 2.0, 1440: 0.5}).fillna(1.0)
    for name in QUANTILE_COLUMNS:
        np.testing.assert_allclose(wide[name] - wide["p50"], factor * (plain[name] - plain["p50"]), atol=2e-3)
    np.testing.assert_allclose(wide["p50"], plain["p50"], atol=1e-6)


def test_what_came_widens_and_narrows_the_next_fans(file: SqliteStore, registry: Registry) -> None:
    "Bands of 3 degrees around a value that nobody ever measures, but for the hour."
    fill(file, city())
    put_model(registry, "temperature", 60.0)
    issued = max(artefact_made(registry, "temperature"), ISSUED)
    told = pd.DataFrame({"value_type": "temperature", "horizon_min": [10, 60], "issued": pd.Timestamp(issued)})
    compared = told.assign(observed=[60.0, 20.0], p05=57.0, p95=63.0)
    keep_following(registry, issued + DAY, "temperature", compared)
    predict(file, registry, NOW)
    frame = stored(file, ("temperature",))
    width = (frame["p95"] - frame["p50"]).groupby(frame["horizon_min"]).mean()
    assert width[10] < 3 - 0.2 and width[60] > 3 + 1 and width[1440] == pytest.approx(3, abs=2e-3)


@pytest.mark.parametrize("who", BASELINES)
@pytest.mark.parametrize("kind", KINDS)
def test_bands_of_stand_ins_are_ordered(kind: str, who: str) -> None:
    panel = panel_of(kind, city(), DAYS, SENSORS)
    served = {name: dict.fromkeys(HORIZONS_MIN, who) for name in panel.channels}

    def run(past: np.ndarray, context: np.ndarray, station: np.ndarray) -> np.ndarray:
        return np.full((len(past), len(HORIZONS_MIN), 5), np.nan)

    climates = fit_climates(panel, 0, panel.steps)
    frame = forecast_panel(panel, Forecaster(kind, "v", run, np.array([], "int64"), climates, served, {}))
    assert {*frame["model"]} <= {who, "persistence"}
    check_bands(frame)
    assert not (kind in ("humidity", "particulates") and (frame[list(QUANTILE_COLUMNS)] < 0).any(axis=None))


def test_a_value_type_that_the_model_does_not_know_is_not_guessed_by_it(file: SqliteStore, registry: Registry) -> None:
    "The model was trained before anybody measured P2."
    fill(file, city().query("value_type in ('P1', 'P2')"))
    served = {"P1": dict.fromkeys(HORIZONS_MIN, "network")}
    for kind in KINDS:
        put_model(registry, kind, served=served) if kind == "particulates" else put_model(registry, kind)
    done = predict(file, registry, NOW)
    assert {*stored(file, ("particulates",))["value_type"]} == {"P1"}
    assert done.unsure == series_of(city().query("value_type == 'P2'"))


@pytest.mark.parametrize("changes", [{"horizons_min": (10, 60)}, {"quantiles": (0.1, 0.25, 0.5, 0.75, 0.9)}])
def test_a_model_for_other_horizons_is_refused(
    changes: dict, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    version = put_model(registry, "noise", **changes)
    assert load_forecaster(registry, "noise") is None
    assert f"model noise/{version} is for horizons and quantiles" in caplog.text


def test_a_model_of_other_inputs_is_refused(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    version = put_model(registry, "noise", columns=3)
    assert load_forecaster(registry, "noise") is None
    assert f"model noise/{version} cannot be loaded, baselines serve" in caplog.text


def test_a_corrupt_version_is_passed_over(file: SqliteStore, registry: Registry, tmp_path: Path) -> None:
    fill(file, city().query("value_type == 'temperature'"))
    old, new = put_model(registry, "temperature"), put_model(registry, "temperature", 5.0)
    path = tmp_path / "models" / "temperature" / new / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert predict(file, registry, NOW).models["temperature"] == old
    assert {*stored(file)["model"]} == {old}


@pytest.mark.parametrize("files", [{MODEL_FILE: b"no network", CLIMATE_FILE: b"no climates"}, {"other": b"1"}])
def test_a_file_that_nobody_can_run_stops_no_other_kind(
    files: dict, file: SqliteStore, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    fill(file, city())
    good = put_model(registry, "humidity")
    about = newest(registry, "humidity").manifest
    told = About(**{name: getattr(about, name) for name in About.__struct_fields__})
    bad = publish(registry, "temperature", files, told).version
    done = predict(file, registry, NOW)
    assert (done.models["humidity"], done.models["temperature"]) == (good, None)
    assert f"model temperature/{bad} cannot be loaded, baselines serve" in caplog.text
    assert {*stored(file, ("temperature",))["model"]} <= {"persistence", "daily"}


def test_without_onnxruntime_the_error_says_what_to_install(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(registry, "noise")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPart, match="pip install 'sensorlib"):
        load_forecaster(registry, "noise")


# Readings that are missing, wrong or late


def test_a_sensor_with_a_day_of_gap_is_left_out_and_comes_back(store: Store, registry: Registry) -> None:
    sensor, back = one("P1")["sensor_id"].iloc[0], ISSUED + timedelta(hours=1)
    late = said(DAYS + 8 / 24, SENSORS)
    gap = (late["sensor_id"] == sensor) & late["ts"].between(ISSUED - DAY, back - timedelta(minutes=20))
    fill(store, late[~gap & (late["ts"] < ISSUED)])
    theirs = series_of(late[late["sensor_id"] == sensor])
    done = predict(store, registry, NOW)
    assert (done.silent, done.unsure) == (theirs, 0) and sensor not in {*stored(store)["sensor_id"]}
    fill(store, late[~gap & (late["ts"] >= ISSUED)])
    again = predict(store, registry, back)
    assert (again.silent, again.unsure, again.series) == (0, 0, done.series + theirs)
    frame = stored(store)
    check_bands(frame[frame["sensor_id"] == sensor])


def test_who_is_silent_for_an_hour_is_counted_also_by_a_model(file: SqliteStore, registry: Registry) -> None:
    sensor = one("P1")["sensor_id"].iloc[0]
    fill(file, city()[(city()["sensor_id"] != sensor) | (city()["ts"] < ISSUED - timedelta(hours=1))])
    put_models(registry)
    done = predict(file, registry, NOW)
    theirs = series_of(city()[city()["sensor_id"] == sensor])
    assert (done.silent, done.series) == (theirs, series_of(city()) - theirs)


def test_flagged_readings_are_ignored(store: Store, tmp_path: Path, registry: Registry) -> None:
    readings = city().query("value_type in ('temperature', 'humidity', 'pressure')")
    wrong = readings.assign(ts=readings["ts"] + timedelta(seconds=77), value=60.0, qc=2)
    fill(store, pd.concat([readings, wrong]))
    with closing(SqliteStore(tmp_path / "clean.db")) as clean:
        fill(clean, readings)
        assert predict(clean, registry, NOW) == predict(store, registry, NOW)
        pd.testing.assert_frame_equal(stored(store), stored(clean))


def test_a_sensor_whose_last_hour_is_flagged_is_silent(store: Store, registry: Registry) -> None:
    sensor = one("P1")["sensor_id"].iloc[0]
    bad = (city()["sensor_id"] == sensor) & (city()["ts"] >= ISSUED - timedelta(hours=1))
    fill(store, city().assign(qc=np.where(bad, 2, 0)))
    done = predict(store, registry, NOW)
    assert done.silent == series_of(city()[bad]) and sensor not in {*stored(store)["sensor_id"]}


@pytest.mark.parametrize("minutes", [0, 3, 9.99])
def test_issued_is_the_end_of_the_last_whole_step(minutes: float, file: SqliteStore, registry: Registry) -> None:
    "What was said in the step that has only begun is not known yet."
    fill(file, pd.concat([city(), one("P1").tail(1).assign(ts=pd.Timestamp(ISSUED), value=900.0)]))
    assert predict(file, registry, ISSUED + timedelta(minutes=minutes)).issued == ISSUED
    assert stored(file, ("particulates",))["persistence"].max() < 900
    assert predict(file, registry, ISSUED - timedelta(seconds=1)).issued == ISSUED - STEP


def test_a_sensor_of_which_nothing_is_known_is_forecast(store: Store, registry: Registry) -> None:
    assert store.write(bare(city())) == []
    done = predict(store, registry, NOW)
    frame = stored(store)
    assert done.series == series_of(city()) and frame[["lat", "lon", "country"]].isna().all(axis=None)
    assert frame["place"].fillna("").eq("").all()
    check_bands(frame)
    put_models(registry)
    assert predict(store, registry, NOW).unsure == 0


def test_a_repeated_run_changes_nothing(store: Store, registry: Registry) -> None:
    fill(store, city())
    first, before = predict(store, registry, NOW), stored(store)
    assert predict(store, registry, NOW + timedelta(minutes=6)) == first
    pd.testing.assert_frame_equal(stored(store), before)


# What came of it


def test_late_readings_are_compared_later_and_only_once(store: Store, registry: Registry) -> None:
    late = said(DAYS + 10 / 24, SENSORS)
    fill(store, city())
    done = predict(store, registry, NOW)
    assert observe(store, ISSUED + timedelta(hours=2) + STEP) == Observed(0, 4 * done.series)
    in_time = late["ts"].between(ISSUED, ISSUED + timedelta(minutes=50), inclusive="left")
    fill(store, late[in_time])
    assert observe(store, ISSUED + timedelta(hours=2) + STEP) == Observed(2 * done.series, 2 * done.series)
    fill(store, late[late["ts"] >= ISSUED])
    assert observe(store, ISSUED + timedelta(hours=2) + STEP) == Observed(2 * done.series, 0)
    assert observe(store, ISSUED + timedelta(hours=2) + STEP) == Observed(0, 0)
    frame = stored(store).dropna(subset=["observed"])
    assert {*frame["horizon_min"]} == {10, 30, 60, 120}
    truth = late.assign(ts=late["ts"] + STEP).merge(frame, on=["sensor_id", "value_type", "ts"])
    assert len(truth) == len(frame)
    np.testing.assert_allclose(truth["observed"], truth["value"], atol=1e-3)
    predict(store, registry, NOW)
    assert stored(store)["observed"].notna().sum() == len(frame)


def test_a_step_is_compared_when_it_is_complete(file: SqliteStore, registry: Registry) -> None:
    "The last reading of a step comes minutes after its end, and what was compared is never compared again."
    fill(file, city())
    done, ripe = predict(file, registry, NOW), ISSUED + 2 * STEP
    fill(file, one("P1").tail(1).assign(ts=pd.Timestamp(ISSUED), value=10.0))
    assert observe(file, ripe - timedelta(seconds=1)) == Observed(0, 0)
    fill(file, one("P1").tail(1).assign(ts=pd.Timestamp(ISSUED) + STEP / 2, value=20.0))
    assert observe(file, ripe) == Observed(1, done.series - 1)
    assert stored(file)["observed"].dropna().tolist() == [15.0]


def test_a_flagged_reading_is_nothing_that_came(file: SqliteStore, registry: Registry) -> None:
    fill(file, city())
    done = predict(file, registry, NOW)
    fill(file, one("P1").tail(1).assign(ts=pd.Timestamp(ISSUED), value=10.0, qc=2))
    assert observe(file, ISSUED + 2 * STEP) == Observed(0, done.series)


def test_what_is_too_old_is_not_waited_for(file: SqliteStore, registry: Registry) -> None:
    fill(file, city())
    predict(file, registry, NOW)
    assert observe(file, ISSUED + 9 * DAY) == Observed(0, 0)
    assert observe(file, ISSUED + 9 * DAY, days=9).waiting == len(stored(file))


def test_the_past_of_a_series_is_that_of_the_panel(store: Store) -> None:
    fill(store, city())
    row = one("P1").iloc[-1]
    past = past_of(store, row["sensor_id"], "P1", ISSUED - DAY, ISSUED)
    panel = panel_of("particulates", city(), DAYS + 7 / 24, SENSORS)
    at = panel.sites["P1"]["sensor_id"].tolist().index(row["sensor_id"])
    np.testing.assert_array_equal(past["value"], panel.own("P1")[at, -PAST:].astype("float64"))
    assert past["ts"].iloc[-1] == pd.Timestamp(ISSUED)
    assert past_of(store, 1, "P1", ISSUED - DAY, ISSUED).empty


# A store that is down


def test_a_store_that_breaks_off_is_an_error_and_the_next_run_makes_it_good(
    file: SqliteStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(file, city())
    write, calls = file.write_forecasts, []

    def breaks(frame: pd.DataFrame) -> None:
        calls.append(len(frame))
        if len(calls) == 2:
            raise StoreError("the disk is gone")
        write(frame)

    monkeypatch.setattr(file, "write_forecasts", breaks)
    with pytest.raises(StoreError, match="the disk is gone"):
        predict(file, registry, NOW)
    done = predict(file, registry, NOW)
    assert len(stored(file)) == done.forecasts == len(HORIZONS_MIN) * series_of(city())


def test_a_store_that_is_down_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", "none-of-them-is-right")
    down = "influxdb://127.0.0.1:9?org=home&bucket=readings"
    words = ["run", "predict", "-p", "store", down, "-p", "models", f"{tmp_path}/models", "--out", f"{tmp_path}/runs"]
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert told.out == "" and "StoreError" in told.err and "127.0.0.1:9" in told.err
    assert [path.name.split(".", 1)[1] for path in (tmp_path / "runs" / "predict").glob("*.ipynb")] == ["failed.ipynb"]


# Tables


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_holds_what_the_arrays_hold(kind: str) -> None:
    panel: Panel = panel_of(kind, city(), DAYS, SENSORS)
    examples = moments(panel, PAST, panel.steps, every=36)
    values = np.arange(len(examples) * len(HORIZONS_MIN), dtype="float64").reshape(len(examples), -1)
    frame = long_frame(panel, examples, {"value": values}, (60, 1440))
    assert frame["value"].tolist() == values[:, [HORIZONS_MIN.index(60), HORIZONS_MIN.index(1440)]].ravel().tolist()
    assert frame["horizon_min"].tolist() == [60, 1440] * len(examples)
    assert {*frame["value_type"]} == {*panel.channels} <= {*value_types_of(kind)}
