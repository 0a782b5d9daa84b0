"""Figures and the live page: what is drawn, what is answered, what is refused."""

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import READING_COLUMNS, Reading, SettingError, StoreError
from sensorlib.figures import (
    LIGHT,
    PAGE_CSS,
    PAGE_HTML,
    PAGE_JS,
    SCALES,
    Block,
    Query,
    Reader,
    answer,
    base_map,
    break_gaps,
    colour_ticks,
    describe,
    fit_view,
    grid_lines,
    map_figure,
    outlines,
    serve_page,
    series_figure,
    stages_figure,
    stages_of,
)
from sensorlib.quality import FLAGS
from sensorlib.store import open_store

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def readings(count: int = 50, **columns: Any) -> pd.DataFrame:
    "Newest PM2.5 readings of a made city."
    rng = np.random.default_rng(5)
    values = {"sensor_id": range(1, count + 1), "lat": rng.normal(57, 0.1, count), "lon": rng.normal(-2, 0.1, count)}
    values |= {"value": rng.uniform(2, 20, count), "qc": 0, "ts": pd.Timestamp(NOON), "kind": "particulates"}
    values |= {"value_type": "P2", "sensor_type": "SDS011", "country": "GB", "place": "Aberdeen"}
    return pd.DataFrame(values | columns).reindex(columns=list(READING_COLUMNS))


def series(values: list[float], qc: list[int] | None = None, value_type: str = "P2") -> pd.DataFrame:
    "A series with a value every two and a half minutes."
    times = pd.date_range(NOON, periods=len(values), freq="150s")
    return pd.DataFrame({"ts": times, "value_type": value_type, "value": values, "qc": qc or [0] * len(values)})


class MemoryStore:
    "Newest readings in memory; fails when there are none."

    def __init__(self, latest: pd.DataFrame | None) -> None:
        self._latest = latest

    def latest(self, kind: str) -> pd.DataFrame:
        if self._latest is None:
            raise StoreError("store made.db: database is locked; try again")
        return self._latest[self._latest.kind == kind]

    def series(self, sensor_id: int, kind: str, since: datetime, until: datetime) -> pd.DataFrame:
        return series([8.0, 9.0, 8.5])

    def close(self) -> None:
        pass


def status() -> dict[str, Any]:
    "Counts of a system that just began."
    counts = {
        "fetched": 10,
        "raw": 10,
        "kinds": {"particulates": 20},
        "other": 1,
        "dead": 1,
        "stored": 20,
        "flagged": 1,
    }
    speed = {"lost": 0, "duplicates": 0, "p50_s": 1.5, "p99_s": None}
    return counts | speed | {"source": "test", "since": "2024-05-01T11:00:00Z", "messages": []}


def ask(target: str, latest: pd.DataFrame | None = None) -> tuple[int, Any]:
    "Code and JSON of an answer."
    found = answer(target, lambda: closing(MemoryStore(latest)), status)
    return found.code, json.loads(found.body)


def test_outlines_are_small_closed_and_without_jumps() -> None:
    assert (files("sensorlib") / "assets" / "outlines.geojson.gz").stat().st_size <= 400_000
    (land,) = [f for f in outlines()["features"] if f["properties"]["part"] == "land"]
    rings = [np.array(ring) for polygon in land["geometry"]["coordinates"] for ring in polygon]
    assert all((ring[0] == ring[-1]).all() for ring in rings)
    steps = np.concatenate([np.abs(np.diff(ring[:, 0])) for ring in rings if ring[:, 1].min() > -85])
    assert steps.max() < 30


def test_grid_lines_are_labelled_and_inside() -> None:
    labels = [line["properties"]["label"] for line in grid_lines(0.1, (-0.1, 51.4, 0.1, 51.5))]
    assert labels == ["0.1° W", "0.0° E", "0.1° E", "51.4° N", "51.5° N"]
    parts = {feature["properties"]["part"] for feature in base_map((0, 50, 1, 51))["features"]}
    assert parts == {"land", "border", "name", "grid"}


def test_map_draws_faults_apart_and_advice_among_the_good() -> None:
    qc = [FLAGS["code"]] * 3 + [FLAGS["indoor"]] * 2 + [0] * 45
    figure = map_figure(readings(qc=qc), "P2")
    assert [(trace.meta, len(trace.lat)) for trace in figure.data] == [
        ("good", 47), ("good", 47), ("flagged", 3), ("flagged", 3),
    ]  # fmt: skip
    assert figure.data[2].customdata[0][5] == "code"
    assert figure.data[1].customdata[0][5] == "indoor"


def test_map_needs_no_tiles_glyphs_or_network() -> None:
    style = map_figure(readings(), "P2").layout.map.style
    assert set(style) == {"version", "sources", "layers"}
    assert style["sources"]["base"]["type"] == "geojson"
    assert "http" not in json.dumps(style)


def test_map_served_by_a_page_stays_small_with_fifteen_thousand_sensors() -> None:
    found = answer("/figure/map?value_type=P2", lambda: closing(MemoryStore(readings(15_000))), status)
    assert len(gzip.compress(found.body, 1)) < 1_000_000


def test_map_leaves_out_readings_without_a_position() -> None:
    latest = readings()
    latest.loc[:9, "lat"] = np.nan
    assert len(map_figure(latest, "P2").data[1].lat) == 40


def test_map_without_readings_says_so() -> None:
    assert map_figure(readings(), "P4").layout.annotations[0].text == "no PM4 yet"


def test_map_marks_the_chosen_sensor_first() -> None:
    mark = map_figure(readings(), "P2", chosen=7).data[0]
    assert (mark.meta, len(mark.lat)) == ("chosen", 1)


@pytest.mark.parametrize("kind", SCALES)
def test_colour_limits_hold_for_constant_and_missing_values(kind: str) -> None:
    for values in (np.array([]), np.array([55.0]), np.full(10, -3.0)):
        ticks = colour_ticks(values, SCALES[kind])
        assert len(ticks) >= 4
        assert ticks[-1] - ticks[0] >= SCALES[kind].span * 0.99


def test_view_shows_most_sensors_whatever_a_few_say() -> None:
    here = np.random.default_rng(2).normal((48.8, 9.2), 0.05, (300, 2))
    lat, lon, zoom = fit_view(*np.vstack([here, [[-18.1, 178.4]]]).T, 900, 560)
    assert (abs(lat - 48.8) < 0.05, abs(lon - 9.2) < 0.05, zoom > 9) == (True, True, True)
    assert fit_view(np.array([]), np.array([]), 900, 560)[2] < 1


def test_texts_from_outside_are_escaped() -> None:
    bad = "<script>alert(1)</script>"
    assert "<" not in "".join(describe(readings(1, place=bad, sensor_type=bad, country=bad)).ravel())
    assert "<" not in series_figure(series([1.0]), bad).layout.title.text


def test_series_has_a_panel_per_value_type_and_faults_at_the_edge() -> None:
    both = pd.concat([series([8, 9, 999.9, 8], [0, 0, FLAGS["code"], 0]), series([12, 13, 12, 12], value_type="P1")])
    figure = series_figure(both, "Sensor 1")
    assert [axis.title.text for axis in figure.select_yaxes()] == ["PM10<br>[µg/m³]", "PM2.5<br>[µg/m³]"]
    flagged = figure.data[3]
    assert (flagged.text[0], flagged.customdata[0], flagged.marker.symbol[0]) == ("999.9", "code", "triangle-up")
    assert flagged.y[0] == figure.layout.yaxis2.range[1] < 10


def test_series_of_faults_alone_still_has_an_axis() -> None:
    figure = series_figure(series([85.0, 85.0], [FLAGS["code"]] * 2, "temperature"))
    assert figure.layout.yaxis.range[0] < 85 < figure.layout.yaxis.range[1]


def test_line_is_broken_where_the_sensor_was_silent() -> None:
    points = series([1.0] * 10).drop(index=[4, 5, 6, 7])
    assert break_gaps(points).value.isna().sum() == 1
    assert break_gaps(series([1.0])).value.isna().sum() == 0


def test_stages_come_in_the_order_of_the_flow() -> None:
    names = [name for name, _ in stages_of(status())]
    assert names == [
        "fetched",
        "raw",
        "temperature",
        "humidity",
        "pressure",
        "particulates",
        "noise",
        "other",
        "dead",
        "stored",
    ]
    assert list(stages_figure(status(), dark=True).data[0].x) == [10, 10, 0, 0, 0, 20, 0, 1, 1, 20]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/figure/map", "value_type is ''"),
        ("/figure/map?value_type=P9", "expected one of temperature"),
        ("/figure/map?value_type=P2&width=-5", "whole number from 100 to 10000"),
        ("/figure/map?value_type=P2&dark=yes", "whole number from 0 to 1"),
        ("/figure/series?kind=noise", "sensor is ''"),
        ("/figure/series?sensor=1;DROP&kind=noise", "sensor is '1;DROP'"),
        ("/figure/series?sensor=1&kind=rain", "kind is 'rain'"),
        ("/figure/series?sensor=1&kind=noise&hours=9999", "whole number from 1 to 744"),
        ("/figure/series?sensor=" + "9" * 5000 + "&kind=noise", "whole number"),
    ],
)
def test_unusable_parameters_are_refused_with_a_reason(target: str, says: str) -> None:
    code, body = ask(target, readings())
    assert code == 400
    assert says in body["error"]


def test_unknown_paths_are_not_found_and_a_broken_store_is_said() -> None:
    assert ask("/../../etc/passwd")[0] == 404
    code, body = ask("/figure/map?value_type=P2", None)
    assert (code, body["error"]) == (503, "The store cannot be read: store made.db: database is locked; try again")


def test_status_and_value_types_are_answered() -> None:
    assert ask("/status") == (200, status())
    assert {"name": "P2", "kind": "particulates", "unit": "µg/m³", "label": "PM2.5"} in ask("/value-types")[1]


def test_series_of_an_unknown_sensor_says_so() -> None:
    code, figure = ask("/figure/series?sensor=999&kind=particulates", readings())
    assert (code, figure["layout"]["title"]["text"]) == (200, "Sensor 999 has sent no particulates")


def test_page_names_no_other_host_and_parses_no_html() -> None:
    page = PAGE_HTML + PAGE_CSS + PAGE_JS
    assert [
        word for word in ("http:", "https:", "//cdn", "innerHTML", "insertAdjacentHTML", "eval(") if word in page
    ] == []
    assert "ODbL 1.0 / DbCL 1.0. Outlines: Natural Earth" in page


def block(error: Exception | None = None) -> Block:
    "A block that says how many sensors have P2, or fails."

    def answered(query: Query, reader: Reader) -> str:
        "One paragraph."
        if error:
            raise error
        with reader() as store:
            return f"<p>{query['series'][0]}: {len(store.latest('particulates'))} sensors</p>"

    return Block("<section id='more'></section>", "#more { color: red; }", "startMore();", answered)


def test_a_block_joins_the_page_and_answers_in_html() -> None:
    def get(target: str, with_block: Block | None) -> tuple[int, str, str]:
        "Code, content type and text."
        found = answer(target, lambda: closing(MemoryStore(readings())), status, with_block)
        return found.code, found.media, found.body.decode()

    mine = block()
    assert get("/forecast?series=7-P2", mine) == (200, "text/html; charset=utf-8", "<p>7-P2: 50 sensors</p>")
    assert get("/forecast?series=7-P2", None)[0] == 404
    for path, part in (("/", mine.html + "<footer>"), ("/page.css", mine.css), ("/page.js", mine.js)):
        assert (get(path, mine)[2].count(part), get(path, None)[2].count(part)) == (1, 0)
    assert get("/", None)[2] == PAGE_HTML


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (SettingError("series is 'x'"), 400, "series is 'x'"),
        (StoreError("made.db is locked"), 503, "The store cannot be read: made.db is locked"),
    ],
)
def test_what_a_block_cannot_answer_is_told_like_a_figure(error: Exception, code: int, says: str) -> None:
    found = answer("/forecast", lambda: closing(MemoryStore(None)), status, block(error))
    assert (found.code, found.media) == (code, "application/json; charset=utf-8")
    assert json.loads(found.body) == {"error": says}


def test_a_page_with_a_block_is_served_packed_and_under_the_same_policy() -> None:
    with closing(serve_page(MemoryStore(readings()), status, block=block())) as page:
        connection = HTTPConnection(urlsplit(page.url).netloc, timeout=30)
        texts = []
        for path in ("/page.js", "/page.js", "/forecast?series=1-P2"):
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            texts.append(gzip.decompress(response.read()).decode())
        connection.close()
    assert texts[0] == texts[1] == PAGE_JS + "startMore();"
    assert texts[2] == "<p>1-P2: 50 sensors</p>"


@pytest.fixture
def page_url(tmp_path: Path) -> Iterator[str]:
    "Address of a page over a store with an hour of one sensor."
    address = f"sqlite:///{tmp_path / 'readings.db'}"
    with closing(open_store(address)) as store:
        times = [NOON + timedelta(seconds=150 * i) for i in range(24)]
        known = {"sensor_type": "SDS011", "lat": 57.1, "lon": -2.1, "country": "GB", "place": "Aberdeen"}
        store.write([Reading(152, ts, "particulates", "P2", 8.0 + i, **known) for i, ts in enumerate(times)])
    with closing(serve_page(address, status)) as page:
        yield page.url


def test_page_shows_what_is_in_the_store(page_url: str) -> None:
    figure = json.load(urlopen(page_url + "figure/map?value_type=P2&sensor=152"))
    assert figure["data"][2]["customdata"][0][:4] == ["152", "SDS011", "31 µg/m³", "Aberdeen, GB"]
    figure = json.load(urlopen(page_url + "figure/series?sensor=152&kind=particulates&hours=24"))
    assert figure["layout"]["title"]["text"] == "Sensor 152 · SDS011 · Aberdeen · GB"
    assert len(figure["data"][0]["customdata"]) == 24


def test_page_answers_only_to_loopback_names_and_forbids_other_sources(page_url: str) -> None:
    where = urlsplit(page_url).netloc
    codes = {}
    for host in (where, "localhost:1", "evil.example"):
        connection = HTTPConnection(where, timeout=10)
        connection.request("GET", "/status", headers={"Host": host})
        response = connection.getresponse()
        codes[host] = response.status
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        connection.close()
    assert list(codes.values()) == [200, 200, 403]


def test_script_of_plotly_comes_packed_from_this_machine(page_url: str) -> None:
    connection = HTTPConnection(urlsplit(page_url).netloc, timeout=30)
    connection.request("GET", "/plotly.min.js", headers={"Accept-Encoding": "gzip"})
    body = connection.getresponse().read()
    connection.close()
    assert len(body) < 2_000_000
    assert b"plotly.js" in gzip.decompress(body)[:100]


def test_closing_frees_the_port() -> None:
    page = serve_page(MemoryStore(readings()), status)
    port = urlsplit(page.url).port
    page.close()
    again = serve_page(MemoryStore(readings()), status, port=port or 0)
    again.close()
    assert again.url == page.url


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a chromium to draw with")
def test_a_browser_draws_land_sea_and_readings() -> None:
    image = pytest.importorskip("PIL.Image", reason="needs pillow to look at the picture")
    png = map_figure(readings(value=9.0), "P2").to_image("png", width=600, height=480)
    pixels = np.asarray(image.open(BytesIO(png)).convert("RGB")).reshape(-1, 3)
    shares = [
        np.mean((pixels == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1)) for c in (LIGHT.land, LIGHT.sea)
    ]
    assert min(shares) > 0.05
