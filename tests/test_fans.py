"""Pictures of forecasts: what is drawn, what is said, what is counted."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from sensorlib.core import VALUE_TYPES, Reading, SettingError
from sensorlib.fans import (
    FEW,
    FORECAST_JS,
    FORECAST_LIVE_JS,
    Outlook,
    ahead,
    asked_series,
    band_outline,
    candidates,
    compare,
    compared_horizon,
    fan,
    figure_html,
    forecast_block,
    forecast_page,
    forecast_section,
    legend_html,
    look,
    maker,
    pick_series,
    read_forecasts,
    read_history,
    reliability,
    skill_html,
    skill_map,
    skill_table,
    verdict,
    waiting,
    write_forecasts,
    yesterday,
)
from sensorlib.figures import DARK, LIGHT, PAGE_CSS, serve_page
from sensorlib.store import Store, open_store

NOON = pd.Timestamp("2026-03-02 12:00", tz="UTC")
HORIZONS_MIN = (10, 30, 60, 120, 180, 360, 540, 720, 1080, 1440)


def history(hours: int = 36, sensor_id: int = 1, value_type: str = "P2") -> pd.DataFrame:
    "Values every ten minutes until noon, each its own hour of the day."
    ts = pd.date_range(NOON - pd.Timedelta(hours=hours), NOON, freq="10min")
    value = (ts.hour + ts.minute / 60).to_numpy()
    return pd.DataFrame({"sensor_id": sensor_id, "value_type": value_type, "ts": ts, "value": value})


def forecasts(error: float = 1.0, spread: float = 2.0, **columns: Any) -> pd.DataFrame:
    "Forecasts issued every ten minutes for a day until noon, each too high by `error`."
    parts = []
    for horizon in HORIZONS_MIN:
        issued = pd.date_range(NOON - pd.Timedelta("1D"), NOON, freq="10min")
        ts = issued + pd.Timedelta(minutes=horizon)
        truth = (ts.hour + ts.minute / 60).to_numpy()
        row = {"ts": ts, "horizon_min": horizon, "issued": issued, "p50": truth + error}
        row |= {"p05": truth + error - spread, "p25": truth + error - spread / 2}
        row |= {"p75": truth + error + spread / 2, "p95": truth + error + spread}
        row |= {"persistence": truth + 2.0, "daily": truth - 4.0, "observed": np.where(ts <= NOON, truth, np.nan)}
        parts.append(pd.DataFrame(row))
    names = {"sensor_id": 1, "value_type": "P2", "model": "7", "place": "Aberdeen", "country": "GB"}
    return pd.concat(parts, ignore_index=True).assign(**{**names, "lat": 57.1, "lon": -2.1, **columns})


def trace(figure: Any, name: str) -> Any:
    "The trace of a figure that has this name."
    return next(trace for trace in figure.data if trace.name == name)


def lines(figure: Any) -> list[str]:
    "What stands below the title of a figure."
    return figure.layout.title.subtitle.text.split("<br>")


def figures_of(text: str) -> list[dict[str, Any]]:
    "The figures that lie in a fragment."
    return [json.loads(part) for part in re.findall(r"<script type='application/json'>(.*?)</script>", text, re.S)]


def test_horizons_are_written_as_a_person_would() -> None:
    assert [ahead(minutes) for minutes in (0, 10, 60, 95, 1440)] == ["0 min", "10 min", "1 h", "1 h 35 min", "24 h"]


def test_fan_shows_the_newest_forecast_and_the_day_before_it() -> None:
    figure = fan(history(), forecasts(), 1, "P2")
    assert figure.layout.title.text == "Aberdeen, GB · sensor 1 · PM2.5 [µg/m³]"
    assert lines(figure) == ["model 7", "issued 2026-03-02 12:00 UTC"]
    assert list(trace(figure, "median").x) == [f"{NOON + pd.Timedelta(minutes=h):%Y-%m-%d %H:%M}" for h in HORIZONS_MIN]
    assert len(trace(figure, "measured").x) == 24 * 6
    assert figure.layout.shapes[0].x0 == "2026-03-02 12:00"


def test_fan_keeps_a_gap_of_two_windows() -> None:
    past = history()
    kept = past[(past.ts < NOON - pd.Timedelta("60min")) | (past.ts > NOON - pd.Timedelta("50min"))]
    assert np.isnan(trace(fan(past, forecasts(), 1, "P2"), "measured").y).sum() == 0
    assert np.isnan(trace(fan(kept[::-1], forecasts(), 1, "P2"), "measured").y).sum() == 1


def test_fan_repeats_yesterday_one_day_later() -> None:
    again = trace(fan(history(), forecasts(), 1, "P2"), "same as yesterday")
    assert (again.x[0], again.x[-1]) == ("2026-03-02 12:00", "2026-03-03 12:00")
    assert again.y[6] == pytest.approx(13.0)


def test_fan_opens_at_the_value_known_when_it_was_issued() -> None:
    rows = forecasts()
    band = trace(fan(history(), rows, 1, "P2"), "90 % band")
    known = rows.loc[rows["issued"] == NOON, "persistence"].iloc[0]
    assert (band.x[0], band.y[0], band.y[-1]) == ("2026-03-02 12:00", pytest.approx(known, abs=0.01), band.y[0])
    unknown = trace(fan(history(), rows.assign(persistence=np.nan), 1, "P2"), "90 % band")
    assert unknown.x[0] == "2026-03-02 12:10"


def test_fan_tells_bands_guesses_and_moment_under_the_pointer() -> None:
    median = trace(fan(history(), forecasts(daily=np.nan), 1, "P2"), "median")
    assert list(median.customdata[2]) == ["12", "13", "14", "15", "16", "15 µg/m³", "unknown", "1 h"]
    assert "%{customdata[0]} to %{customdata[4]} µg/m³" in median.hovertemplate
    assert "%{x|%Y-%m-%d %H:%M} UTC" in median.hovertemplate


def test_fan_without_a_forecast_shows_the_history() -> None:
    figure = fan(history(), forecasts()[:0], 1, "P2")
    assert [trace.name for trace in figure.data] == ["measured"]
    assert lines(figure) == ["no forecast yet"]


def test_fan_escapes_a_place() -> None:
    figure = fan(history(), forecasts(place="<img src=x>"), 1, "P2")
    assert "&lt;img src=x&gt;, GB" in figure.layout.title.text
    assert "<img" not in figure_html({"light": figure})


def test_figures_are_drawn_in_the_dark() -> None:
    drawn = [fan(history(), forecasts(), 1, "P2", dark=True), yesterday(forecasts(), 1, "P2", dark=True)]
    drawn += [skill_map(skill_table(forecasts()), dark=True), reliability(forecasts(), dark=True)]
    assert {figure.layout.paper_bgcolor for figure in drawn} == {DARK.paper}
    assert all(LIGHT.ink not in figure.to_json() for figure in drawn)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["damped"], "no model yet: damped persistence"),
        (["7"], "model 7"),
        (["7", "daily"], "model 7 and same as yesterday"),
    ],
)
def test_maker_is_named(models: list[str], said: str) -> None:
    rows = pd.DataFrame({"model": models})
    assert maker(rows, rows) == said


def test_baseline_beside_a_model_is_no_missing_model() -> None:
    everything = pd.DataFrame({"model": ["7", "damped"]})
    assert maker(everything, everything[1:]) == "no model is better here: damped persistence"


def test_band_breaks_where_moments_are_missing() -> None:
    ts = NOON + pd.to_timedelta([0, 10, 60, 70], unit="min")
    points = pd.DataFrame({"ts": ts, "p05": [1.0, 2.0, 3.0, 4.0], "p95": [5.0, 6.0, 7.0, 8.0]})
    x, y = band_outline(points, "p05", "p95", pd.Timedelta("15min"))
    assert y == [1, 2, 6, 5, None, 3, 4, 8, 7]
    assert x.index(None) == 4


def test_comparison_counts_the_moments_that_all_know() -> None:
    rows = forecasts()[lambda f: f["horizon_min"] == 10]
    found = compare(rows)
    assert (found["n"], found["mae"], found["persistence"], found["daily"]) == (144, 1, 2, 4)
    assert (found["gain"], found["coverage_90"]) == (0.5, 1)
    half = compare(rows.assign(daily=rows["daily"].where(rows.index < 100)))
    assert half["n"] == 100


def test_gain_is_over_the_better_guess() -> None:
    rows = forecasts()[lambda f: f["horizon_min"] == 10]
    assert compare(rows.assign(daily=rows["observed"] + 0.5))["gain"] == -1


def test_guess_that_is_mostly_unknown_takes_no_part() -> None:
    rows = forecasts()[lambda f: f["horizon_min"] == 10]
    found = compare(rows.assign(daily=rows["daily"].where(rows.index < 20)))
    assert (found["n"], found["persistence"]) == (144, 2)
    assert np.isnan(found["daily"])


def test_comparison_of_nothing_is_nothing() -> None:
    found = compare(forecasts().assign(observed=np.nan))
    assert found["n"] == 0
    assert np.isnan([found["mae"], found["gain"], found["coverage_90"]]).all()


@pytest.mark.parametrize(
    ("n", "gain", "model", "said"),
    [
        (144, 0.123, "7", "better than the best simple guess by 12 %"),
        (144, -0.04, "damped", "worse by 4 %: the baseline is served"),
        (144, -0.04, "7", "worse by 4 %: a simple guess was closer"),
        (144, -0.004, "7", "as good as the best simple guess"),
        (FEW - 1, 0.5, "7", "too few to tell, 29 of 30"),
        (144, np.nan, "7", "no simple guess to compare with"),
    ],
)
def test_verdict_is_plain(n: int, gain: float, model: str, said: str) -> None:
    assert verdict(n, gain, model) == said


def test_skill_table_has_a_row_for_each_value_type_and_horizon() -> None:
    both = pd.concat([forecasts(), forecasts(error=3.0, value_type="temperature", model="damped")])
    table = skill_table(both)
    assert [*table["value_type"].unique()] == ["temperature", "P2"]
    assert len(table) == 2 * len(HORIZONS_MIN)
    hour = table[table["horizon_min"] == 60]
    assert [*hour["verdict"]] == [
        "worse by 50 %: the baseline is served",
        "better than the best simple guess by 50 %",
    ]
    assert [*hour["coverage_90"]] == [0, 1]


def test_skill_table_names_who_serves_now() -> None:
    rows = forecasts()
    rows["model"] = np.where(rows["issued"] == NOON, "8", "7")
    assert {*skill_table(rows)["model"]} == {"8"}


class Cells(HTMLParser):
    "Counts the cells of each row of a table."

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += 1


def test_skill_html_is_a_table_without_colours_of_its_own() -> None:
    text = skill_html(skill_table(forecasts(error=5.0, model="damped")))
    assert Cells(text).rows == [7] * (1 + len(HORIZONS_MIN))
    assert "PM2.5, 1 sensor: mean error [µg/m³]" in text
    assert "<td class='verdict worse'>worse by 150 %: the baseline is served</td>" in text
    assert "style=" not in text and "#" not in text


def test_skill_map_is_centred_and_leaves_out_what_is_too_few() -> None:
    table = skill_table(pd.concat([forecasts(), forecasts(error=5.0, value_type="noise_LAeq")]))
    table.loc[table["horizon_min"] == 10, "n"] = FEW - 1
    cells = skill_map(table).data[0]
    assert cells.zmin == -cells.zmax
    assert [row[2] for row in cells.text] == ["+50", "−150"]
    assert [row[0] for row in cells.text] == ["", ""]


def test_reliability_is_the_share_at_or_below_each_quantile() -> None:
    rows = forecasts(error=0.0)
    rows["observed"] = rows["p05"].where(rows.index % 4 == 0, rows["p75"])
    seen = trace(reliability(rows), "PM2.5")
    assert list(seen.x) == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert list(seen.y) == pytest.approx([0.25, 0.25, 0.25, 1, 1], abs=0.01)


def test_yesterday_says_what_its_points_say() -> None:
    rows = forecasts(spread=2.0)
    off = (rows["horizon_min"] == 60) & (rows["ts"] == NOON)
    rows.loc[off, ["p05", "p95"]] += 10
    figure = yesterday(rows, 1, "P2", 60)
    assert lines(figure) == [
        "as forecast 1 h ahead · model 7 · 99 % of 139 truths inside the 90 % band",
        "mean error 1, same as now 2, same as yesterday 4 µg/m³",
    ]
    assert list(trace(figure, "outside the 90 % band").x) == ["2026-03-02 12:00"]


def test_yesterday_ends_with_the_last_truth_and_breaks_at_gaps() -> None:
    rows = forecasts()
    gone = rows["ts"].between(NOON - pd.Timedelta("3h"), NOON - pd.Timedelta("2h"))
    figure = yesterday(rows[~gone], 1, "P2", 10)
    assert [trace(figure, name).x[-1] for name in ("median", "measured")] == ["2026-03-02 12:00"] * 2
    assert [np.isnan(trace(figure, name).y).sum() for name in ("median", "measured")] == [1, 1]
    assert trace(figure, "90 % band").x.count(None) == 1


def test_yesterday_before_any_truth_says_so() -> None:
    figure = yesterday(forecasts(observed=np.nan), 1, "P2", 360)
    assert lines(figure) == ["6 h ahead", "nothing to compare yet: no moment that was forecast has passed"]


def test_picked_series_are_one_for_each_kind_and_the_longest() -> None:
    known = [(3, "P2", 40), (4, "P2", 20), (5, "P1", 30), (6, "temperature", 10), (6, "humidity", 10)]
    past = pd.concat([history(hours, sensor_id, name) for sensor_id, name, hours in known])
    assert pick_series(past, 4) == [(6, "temperature"), (6, "humidity"), (3, "P2"), (5, "P1")]


def test_one_sensor_counts_once_for_a_kind() -> None:
    past = pd.concat([history(30, 3, name) for name in ("P1", "P2", "noise_LA_max", "noise_LAeq")])
    assert pick_series(past) == [(3, "P2"), (3, "noise_LAeq")]


def test_waiting_says_why_and_what_happens_in_one_sentence() -> None:
    run = datetime(2026, 3, 2, 14, 20)
    said = [waiting(history()[:0], next_run=run), waiting(history(), "sensor 1", run), waiting(history())]
    assert all(re.fullmatch(r"[^.]*\.", text) for text in said)
    assert ["14:20 UTC" in text for text in said] == [True, True, False]
    assert "since 2026-03-01 00:00 UTC" in said[1]


def test_section_brings_one_series_in_one_theme_and_offers_the_others() -> None:
    past = pd.concat([history(), history(20, 2, "noise_LAeq")])
    rows = pd.concat([forecasts(), forecasts(sensor_id=2, value_type="noise_LAeq")])
    text = forecast_section(past, rows, (1, "P2"), dark=True)
    assert re.findall(r"<option value='(.*?)'", text) == ["1-P2", "2-noise_LAeq"]
    assert [[*figures] for figures in figures_of(text)] == [["dark"], ["dark"]]
    assert len(text) < 60_000


def test_data_of_a_figure_cannot_end_its_script() -> None:
    (data,) = re.findall(r"<script[^>]*>(.*)</script>", figure_html({"light": fan(history(), forecasts(), 1, "P2")}))
    assert "<" not in data
    assert "<br>" in json.loads(data)["light"]["data"][3]["hovertemplate"]


def test_section_shows_the_skill_that_is_handed_in() -> None:
    network = skill_table(pd.concat([forecasts(), forecasts(sensor_id=2)]))
    text = forecast_section(history(), forecasts(), (1, "P2"), table=network)
    assert "PM2.5, 2 sensors:" in text


def test_section_shows_a_sensor_that_has_no_forecast_yet() -> None:
    text = forecast_section(history(), forecasts(), (9, "P1"))
    assert "<option value='9-P1' selected>sensor 9 · PM10 [µg/m³]</option>" in text
    assert "No forecast of sensor 9 · PM10 [µg/m³] yet: no good reading has come" in text


def test_section_without_forecasts_is_one_sentence() -> None:
    text = forecast_section(history(), forecasts()[:0])
    assert text.startswith("<h2>Forecasts</h2><p class='waiting'>No forecast yet: readings have come since")
    assert "<figure" not in text


def test_section_lives_without_history() -> None:
    text = forecast_section(history()[:0], forecasts())
    assert [len(figures["light"]["data"]) for figures in figures_of(text)] == [5, 5]


def test_legend_takes_the_colours_of_the_page() -> None:
    for theme in (LIGHT, DARK):
        key = legend_html(fan(history(), forecasts(), 1, "P2", dark=theme is DARK), theme)
        assert re.findall(r"</i> (.*?)</li>", key) == [
            "90 % band",
            "50 % band",
            "same as yesterday",
            "median",
            "measured",
        ]
        assert "#" not in key


def test_page_works_by_itself(tmp_path: Path) -> None:
    path = forecast_page(tmp_path / "forecasts.html", history(), forecasts())
    text = path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert [[*figures] for figures in figures_of(text)] == [["light", "dark"]] * 4
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", text) == []
    assert "http" not in text


def test_page_before_any_truth_leaves_out_what_compares(tmp_path: Path) -> None:
    path = forecast_page(tmp_path / "forecasts.html", history(), forecasts(observed=np.nan))
    assert "All series" not in path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def test_style_knows_the_colours_that_the_block_uses() -> None:
    known = {*re.findall(r"(--[a-z]+):", PAGE_CSS)}
    text = forecast_section(history(), forecasts()) + FORECAST_JS
    assert {*re.findall(r"var\((--[a-z]+)\)", text)} <= known


def test_every_value_type_is_drawn_with_its_unit() -> None:
    for name in VALUE_TYPES:
        figure = fan(history(), forecasts(value_type=name), 1, name)
        assert f"[{VALUE_TYPES[name].unit}]" in figure.layout.title.text
        assert figure.layout.yaxis.title.text == f"[{VALUE_TYPES[name].unit}]"


def reading(sensor_id: int, minute: float, value: float, value_type: str = "P2", qc: int = 0) -> Reading:
    "A reading so long after noon."
    ts = (NOON + pd.Timedelta(minutes=minute)).to_pydatetime()
    return Reading(sensor_id, ts, VALUE_TYPES[value_type].kind, value_type, value, qc)


class Watched:
    "A store that refuses to read all of everything, and counts the series that it reads."

    def __init__(self, store: Store) -> None:
        self.store, self.series_read = store, 0

    def __getattr__(self, name: str) -> Any:
        assert name not in ("readings", "counts", "averages"), f"{name} reads all sensors"
        return getattr(self.store, name)

    def series(self, *which: Any) -> pd.DataFrame:
        self.series_read += 1
        return self.store.series(*which)

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Watched]:
    "An empty store."
    with closing(open_store(f"sqlite:///{tmp_path / 'readings.db'}")) as opened:
        yield Watched(opened)


def fill(store: Watched, sensors: int = 60) -> None:
    "A day of forecasts of P2 and of noise, and readings each ten minutes, a minute before they count."
    for sensor_id in range(1, sensors + 1):
        store.write_forecasts(forecasts(sensor_id=sensor_id).assign(place=f"Place {sensor_id}"))
        store.write([reading(sensor_id, -10 * n - 1, float(n)) for n in range(150 if sensor_id < 3 else 1)])
    store.write_forecasts(forecasts(sensor_id=500, value_type="noise_LAeq", model="damped"))
    store.write([reading(500, -10 * n - 1, 50.0, "noise_LAeq") for n in range(20)])


def test_the_newest_of_a_store_is_found_without_reading_it_all(store: Watched) -> None:
    fill(store, 8)
    store.write([reading(99, 4, 1.0)])
    newest = look(store)
    assert (newest.now, newest.issued) == (NOON + pd.Timedelta("4min"), NOON)
    assert len(newest.forecasts) == 9
    assert candidates(newest) | {"noise": [500]} == {
        "temperature": [], "humidity": [], "pressure": [], "particulates": [1, 2, 3, 4], "noise": [500],
    }  # fmt: skip
    lonely = replace(newest, forecasts=newest.forecasts[:0])
    assert (lonely.issued, candidates(lonely)["particulates"]) == (None, [1, 2, 3, 4])


@pytest.mark.parametrize(("age", "found"), [("15min", 1), ("3h", 1), ("7h", 0)])
def test_forecasts_count_as_newest_for_six_hours(store: Watched, age: str, found: int) -> None:
    one = forecasts()
    store.write_forecasts(one[one["issued"] == NOON])
    store.write([Reading(1, (NOON + pd.Timedelta(age)).to_pydatetime(), "particulates", "P2", 1.0)])
    assert len(look(store).forecasts) == found


def test_a_value_of_the_history_stands_at_the_end_of_its_ten_minutes(store: Watched) -> None:
    store.write(
        [reading(1, minute, value) for minute, value in ((-20, 1.0), (-16, 3.0), (-11, 2.0), (-1, 9.0), (0, 7.0))]
    )
    store.write([reading(1, -5, 999.9, qc=2), reading(1, -5, 5.0, "P1")])
    past = read_history(store, {"particulates": [1]}, NOON)
    rows = [(name, (ts - NOON) / pd.Timedelta("1min"), value) for _, name, ts, value in past.itertuples(index=False)]
    assert sorted(rows) == [("P1", 0, 5.0), ("P2", -10, 2.0), ("P2", 0, 9.0)]
    assert read_history(store, {"noise": [1]}, NOON).columns.tolist() == ["sensor_id", "value_type", "ts", "value"]


def test_skill_is_of_a_sample_and_the_future_of_the_chosen_alone(store: Watched) -> None:
    fill(store)
    rows = read_forecasts(store, look(store), [(1, "P2")])
    assert rows["sensor_id"].nunique() == 40
    assert rows[rows["ts"] > NOON]["sensor_id"].unique().tolist() == [1]
    assert not rows.duplicated(["sensor_id", "value_type", "ts", "horizon_min"]).any()


@pytest.mark.parametrize(
    ("horizons", "shown"), [([10, 30, 60, 120], 60), ([10, 30], 30), ([120, 180], 120), ([], None)]
)
def test_the_longest_horizon_up_to_an_hour_that_was_compared_is_shown(horizons: list[int], shown: int | None) -> None:
    rows = forecasts()
    rows["observed"] = rows["observed"].where(rows["horizon_min"].isin(horizons))
    assert compared_horizon(rows, 60) == shown


def test_before_anything_was_compared_there_is_one_figure_and_no_table() -> None:
    part = forecast_section(history(), forecasts().assign(observed=np.nan), (1, "P2"), dark=False)
    assert [part.count(tag) for tag in ("<figure>", "<table", "Nothing to compare yet")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "found"), [("", None), ("103-noise_LAeq", (103, "noise_LAeq")), ("9999999999999-P2", (9999999999999, "P2"))]
)  # fmt: skip
def test_a_query_names_a_series(text: str, found: tuple[int, str] | None) -> None:
    assert asked_series({"series": [text]}) == found


@pytest.mark.parametrize("text", ["x", "1", "1-", "-P2", "1-P9", "1-P2-", "0-P2", "1;-P2", "9" * 5000 + "-P2"])
def test_a_series_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"sensor is|value type of the series is"):
        asked_series({"series": [text]})


def test_the_block_shows_the_series_that_is_asked_for_and_says_why_there_is_no_model(store: Watched) -> None:
    fill(store, 5)
    block = forecast_block(lambda: Outlook(note="No <model> yet."))
    text = block.answer({"series": ["500-noise_LAeq"], "dark": ["1"]}, lambda: closing(store))
    assert re.findall("<article data-series='(.*?)'", text) == ["500-noise_LAeq"]
    assert [next(iter(figure)) for figure in figures_of(text)] == ["dark", "dark"]
    assert "<p class='note'>No &lt;model&gt; yet.</p>" in text
    assert re.findall("<option value='(.*?)'", text)[0] == "1-P2"
    first = block.answer({}, lambda: closing(store))
    assert re.findall("<article data-series='(.*?)'", first) == ["1-P2"]
    other = block.answer({"series": ["77-P1"]}, lambda: closing(store))
    assert "No forecast of sensor 77 · PM10" in other


def test_an_empty_store_says_when_the_next_forecast_comes(store: Watched) -> None:
    outlook = Outlook(datetime(2026, 3, 2, 12, 11), "No model yet.")
    text = forecast_block(lambda: outlook).answer({}, lambda: closing(store))
    assert "the next run, at 12:11 UTC, makes one. No model yet." in text


def test_a_text_is_kept_until_something_new_can_be_in_it(store: Watched) -> None:
    fill(store, 5)
    ended = [0]
    block = forecast_block(lambda: Outlook(ended=ended[0]))

    def series_read(**query: str) -> int:
        "Series that one answer reads from the store."
        before = store.series_read
        block.answer({name: [value] for name, value in query.items()}, lambda: closing(store))
        return store.series_read - before

    reads = [series_read(dark="0"), series_read(dark="0"), series_read(dark="1"), series_read(dark="0")]
    assert [number > 0 for number in reads] == [True, False, True, False]
    ended[0] = 1
    assert series_read(dark="0") > 0
    late = forecasts().tail(1)
    shift = pd.Timedelta("10min")
    store.write_forecasts(late.assign(ts=late["ts"] + shift, issued=late["issued"] + shift, observed=np.nan))
    assert (series_read(dark="0") > 0, series_read(dark="0")) == (True, 0)


def test_a_page_of_a_store_works_by_itself_and_one_of_an_empty_store_waits(store: Watched, tmp_path: Path) -> None:
    assert "class='waiting'" in write_forecasts(store, tmp_path / "empty.html").read_text()
    fill(store, 5)
    page = write_forecasts(store, tmp_path / "page.html").read_text()
    assert page.count("<article") == 5
    assert "Reliability of the quantiles" in page


LISTEN = """
setTimeout(() => { choose({ type: "noise_LAeq" }); choose({ sensor: "500", kind: "noise" }); }, 4000);
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a chromium to run the script")
def test_a_sensor_chosen_on_the_map_is_shown_as_a_forecast(store: Watched, tmp_path: Path) -> None:
    fill(store, 3)
    block = forecast_block()
    counts = {"fetched": 1, "raw": 1, "kinds": {}, "other": 0, "dead": 0, "stored": 1, "flagged": 0, "p50_s": None}
    told = counts | {
        "lost": 0,
        "duplicates": 0,
        "p99_s": None,
        "source": "x",
        "since": "2026-03-02T12:00:00Z",
        "messages": [],
    }
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    where = f"sqlite:///{tmp_path / 'readings.db'}"
    doms = []
    for script in ("", LISTEN):
        with closing(serve_page(where, lambda: told, block=replace(block, js=block.js + script))) as page:
            command = [*browser, "--virtual-time-budget=12000", "--dump-dom", page.url]
            doms.append(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    shown = [re.findall('<article data-series="(.*?)"', dom) for dom in doms]
    assert shown == [["1-P2"], ["500-noise_LAeq"]]
    assert [dom.count('class="main-svg"') > 0 for dom in doms] == [True, True]


def test_the_live_script_loads_nothing_from_elsewhere() -> None:
    assert [word for word in ("http:", "https:", "//cdn", "eval(") if word in FORECAST_JS + FORECAST_LIVE_JS] == []
