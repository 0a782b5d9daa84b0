"""The owner's report: findings of hand-made sensors, their words, pictures and pages, and the command."""

import json
import re
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sensorlib import cli
from sensorlib.core import MissingPart, Reading, SettingError
from sensorlib.health import (
    CAUSES,
    JOIN,
    LEADS,
    Finding,
    as_json,
    as_text,
    examine_records,
    findings,
    health_figure,
    health_page,
    leading,
    network,
    network_figure,
    network_page,
    network_summary,
    network_words,
    newest,
    report,
    stored,
    summary,
    words,
)
from sensorlib.quality import FLAGS, is_good
from sensorlib.simulate import inject, make_city, records
from sensorlib.store import open_store

START = pd.Timestamp("2026-03-02", tz="UTC")
STEP = pd.Timedelta("150s")


def sensor(
    number: int = 1, values: Any = 20.0, value_type: str = "temperature", sensor_type: str = "BME280", **location: Any
) -> list[dict[str, Any]]:
    "Records of one sensor, one each step; a value that is not a number stands for silence."
    said = np.broadcast_to(values, 200) if np.ndim(values) == 0 else np.asarray(values, float)
    place = {"id": number, "latitude": f"{48.71 + number / 1000:.3f}", "longitude": "9.150", "altitude": "100.0"}
    place |= {"country": "DE", "indoor": 0}
    return [
        {
            "id": number * 10_000 + n, "timestamp": f"{START + n * STEP:%Y-%m-%d %H:%M:%S}",
            "sensor": {"id": number, "sensor_type": {"name": sensor_type}}, "location": place | location,
            "sensordatavalues": [{"value_type": value_type, "value": f"{value:.2f}"}],
        }
        for n, value in enumerate(said) if not np.isnan(value)
    ]  # fmt: skip


def wavy(level: float = 20.0, rows: int = 200) -> np.ndarray:
    "Values that never hold still."
    return level + 0.5 * np.sin(np.arange(rows) * 0.7)


def town(first: Any, rows: int = 200, **more: Any) -> pd.DataFrame:
    "Sensor 1 with these values, among five that are fine."
    others = [record for number in (2, 3, 4, 5, 6) for record in sensor(number, wavy(rows=rows))]
    return examine_records([sensor(1, first, **more) + others])


def at(row: int) -> pd.Timestamp:
    return START + row * STEP


def one(examined: pd.DataFrame, sensor_id: int = 1) -> Finding:
    (found,) = findings(examined, sensor_id)
    return found


def test_the_flag_that_says_most_leads() -> None:
    qc = [0, FLAGS["humid"], FLAGS["stuck"] | FLAGS["code"], FLAGS["position"] | FLAGS["relation"], FLAGS["spike"]]
    assert list(leading(np.array(qc))) == ["", "", "code", "relation", "spike"]
    assert {name for name, bit in FLAGS.items() if bit < 128} == set(LEADS)


def test_a_healthy_sensor_has_no_findings_and_says_so() -> None:
    examined = town(wavy())
    assert findings(examined, 1) == []
    assert "Temperature: all 200 readings good." in report(examined, [1])


def test_error_codes_are_certain_and_end_with_the_last_of_them() -> None:
    values = wavy()
    values[50:60] = -147.58
    found = one(town(values))
    assert (found.check, found.sure, found.since, found.until) == ("code", "certain", at(50), at(59))
    assert (found.n, found.of, found.share, found.ongoing, found.from_start) == (10, 10, 1.0, False, False)
    assert "-147.58 °C (10 times)" in found.evidence
    assert found.causes.startswith("a chip that was not read")


@pytest.mark.parametrize(("good_between", "episodes"), [(JOIN, 1), (JOIN + 1, 2)])
def test_gaps_are_joined_up_to_the_limit(good_between: int, episodes: int) -> None:
    values = wavy()
    values[50:60] = values[60 + good_between : 70 + good_between] = -147.58
    found = findings(town(values), 1)
    assert len(found) == episodes
    assert (found[0].since, found[-1].until, sum(f.n for f in found)) == (at(50), at(69 + good_between), 20)
    assert sum(f.of for f in found) == (20 + good_between if episodes == 1 else 20)


@pytest.mark.parametrize(("after", "ongoing"), [(0, True), (4, True), (5, False), (JOIN + 1, False)])
def test_an_episode_goes_on_until_more_readings_pass_without_it(after: int, ongoing: bool) -> None:
    values = wavy()
    values[195 - after : 200 - after] = -147.58
    assert one(town(values)).ongoing is ongoing


def test_stuck_begins_where_the_value_began_to_be_held() -> None:
    values = np.append(wavy(rows=100), np.full(100, 20.1))
    found = one(town(values))
    assert (found.check, found.since, found.until, found.ongoing) == ("stuck", at(100), at(199), True)
    assert (found.n, found.of, found.sure) == (100 - 23, 100, "very likely")
    assert "held 20.1 °C for 100 readings in a row" in found.evidence
    assert "fewer than 24" in found.evidence


def test_stuck_for_less_than_twice_the_limit_is_possible() -> None:
    values = wavy()
    values[100:147] = 20.1
    assert one(town(values)).sure == "possible"


def test_what_was_so_from_the_first_reading_on_began_before_it() -> None:
    values = np.append(np.full(60, 20.1), wavy(rows=140))
    examined = town(values)
    assert one(examined).from_start
    assert f"from before {START:%Y-%m-%d %H:%M} to" in report(examined, [1])


def test_far_from_the_neighbours_tells_how_far_and_from_how_many() -> None:
    values = wavy()
    values[60:160] += np.concatenate([np.linspace(0, 30, 20), np.full(60, 30.0), np.linspace(30, 0, 20)])
    found = findings(town(values), 1)
    assert {f.check for f in found} == {"neighbours"}
    (found_one,) = found
    assert at(60) < found_one.since < at(80) and at(140) < found_one.until < at(160)
    assert (found_one.sure, found_one.ongoing) == ("very likely", False)
    told = re.search(r"lay ([\d.]+) °C above the median of 5 other locations", found_one.evidence)
    assert told and float(told[1]) == pytest.approx(30, abs=0.5)


def test_neighbours_are_named_by_distance_and_with_their_own_state() -> None:
    held = np.append(wavy(rows=100), np.full(100, 20.1))
    wrong = sensor(3, np.full(200, 999.9))
    far = sensor(7, wavy(), latitude="48.950")
    inside = sensor(8, wavy(), indoor=1)
    same_box = sensor(9, wavy(), id=1)
    others = [record for number in (2, 4, 5, 6, 10) for record in sensor(number, wavy())]
    found = one(examine_records([sensor(1, held) + wrong + far + inside + same_box + others]))
    assert [n.sensor_id for n in found.compared] == [2, 3, 4, 5, 6]
    assert [n.good for n in found.compared] == [1, 0, 1, 1, 1]
    assert [n.distance_km for n in found.compared] == pytest.approx([0.111, 0.222, 0.334, 0.445, 0.556], abs=0.006)
    assert found.compared[1].median is None
    assert found.compared[0].median == pytest.approx(20, abs=0.5)


def test_where_the_cell_is_too_empty_the_wider_one_is_named() -> None:
    held = np.append(wavy(rows=100), np.full(100, 20.1))
    around = [r for number in (2, 3, 4, 5) for r in sensor(number, wavy(), latitude=f"48.{620 + number}")]
    assert [n.sensor_id for n in one(examine_records([sensor(1, held) + around])).compared] == [5, 4, 3, 2]


def test_another_fault_in_between_does_not_part_an_episode() -> None:
    values = wavy()
    values[80:120] = 999.9
    found = findings(town(values, latitude="0", longitude="0"), 1)
    assert [(f.check, f.since, f.until, f.n, f.of) for f in found] == [
        ("code", at(80), at(119), 40, 40),
        ("position", at(0), at(199), 160, 200),
    ]


def test_a_silence_of_a_day_parts_an_episode() -> None:
    values = np.full(1400, np.nan)
    values[:30] = values[1300:1330] = -147.58
    assert [f.n for f in findings(town(values, rows=1400), 1)] == [30, 30]


@pytest.mark.parametrize(
    ("value_type", "sensor_type", "values", "check", "cause"),
    [
        ("humidity", "DHT22", np.full(200, 99.9), "stuck", "condensation"),
        ("P2", "SDS011", np.full(200, 999.9), "code", "an end of the scale"),
        ("P2", "SDS011", np.full(200, 0.0), "stuck", "a fan that stands still"),
        ("pressure", "BME280", wavy(950), "range", "hectopascals"),
        ("temperature", "DS18B20", np.full(200, 85.0), "code", "power-on value"),
        ("temperature", "DS18B20", np.full(200, -127.0), "code", "no contact"),
        ("noise_LAeq", "DNMS (Laerm)", np.full(200, 0.0), "code", "no answer of the microphone"),
    ],
)
def test_the_usual_cause_fits_the_instrument(
    value_type: str, sensor_type: str, values: np.ndarray, check: str, cause: str
) -> None:
    found = one(examine_records([sensor(1, values, value_type, sensor_type)]))
    assert (found.check, found.causes[: len(cause)]) == (check, cause)


def test_no_position_was_never_registered() -> None:
    found = one(examine_records([sensor(1, wavy(), latitude="0.0", longitude="0.0")]))
    assert (found.check, found.sure, found.ongoing) == ("position", "certain", True)
    assert "no place" in found.causes
    assert "at 0.000, 0.000" in found.evidence


def test_exchanged_dust_contradicts_itself() -> None:
    spoilt = sensor(1, wavy(), "P1", "SDS011")
    for record in spoilt:
        record["sensordatavalues"].append({"value_type": "P2", "value": "35.5"})
    found = findings(examine_records([spoilt]), 1)
    assert {(f.value_type, f.check, f.sure) for f in found} == {
        ("P1", "relation", "certain"),
        ("P2", "relation", "certain"),
    }
    assert "PM2.5 at 35.5 µg/m³" in found[0].evidence
    assert found[0].causes.startswith("exchanged values")


def test_every_cause_reads_after_usually() -> None:
    assert [c.says for c in CAUSES if c.says.endswith(".") or c.says[:2].istitle()] == []
    assert {c.check for c in CAUSES} == set(LEADS)


@pytest.fixture(scope="module")
def city() -> pd.DataFrame:
    "A day of a made city with many faults."
    made = records(make_city(sensors=40, seed=6, radius_km=4), START, START + pd.Timedelta(hours=12))
    faults = ["code", "unit", "swapped", "position", "range", "stuck", "spike", "offset"]
    return examine_records([inject(made, faults, seed=2, share=0.08)[0]])


def test_reports_reconcile(city: pd.DataFrame) -> None:
    flagged = 0
    for sensor_id in city["sensor_id"].unique():
        told = summary(city, sensor_id)
        own = city[city["sensor_id"] == sensor_id]
        assert told["good"] + told["flagged"] == told["readings"] == len(own)
        assert sum(f.n for f in told["findings"]) == told["flagged"] == int((~is_good(own["qc"])).sum())
        assert sum(t["readings"] for t in told["value_types"].values()) == told["readings"]
        assert sum(t["good"] for t in told["value_types"].values()) == told["good"]
        for found in told["findings"]:
            span = own[(own["value_type"] == found.value_type) & own["ts"].between(found.since, found.until)]
            assert 0 < found.n <= found.of == len(span)
        flagged += told["flagged"]
    assert flagged > 1000


def test_words_describe_every_flag_of_a_sensor(city: pd.DataFrame) -> None:
    for sensor_id in city["sensor_id"].unique():
        told = summary(city, sensor_id)
        names = set(re.findall(r"\[(\w+)\]", "\n".join(text for depth, text in words(told) if depth == 2)))
        assert {f.check for f in told["findings"]} <= names <= set(FLAGS)


def test_many_episodes_are_counted_and_three_described() -> None:
    values = wavy(rows=400)
    for row in (20, 60, 100, 140, 180):
        values[row : row + row // 20] = -147.58
    text = as_text(words(summary(town(values, rows=400), 1)), width=1000)
    assert "Error codes [code]: 5 times, 25 readings." in text
    assert text.count("Certain, ") == 3
    assert "Besides: 2 shorter times, 2026-03-02 00:50 to 2026-03-02 02:35 UTC (4 readings)." in text
    assert text.count("Usually:") == 1


def test_lines_keep_a_number_beside_its_unit() -> None:
    text = as_text([(1, "it said 20 °C " * 12)], width=40)
    assert len(text.splitlines()) > 3
    assert [line for line in text.splitlines() if line.endswith(" 20")] == []
    assert "\x1f" not in text


def test_silences_are_named() -> None:
    values = np.full(2510, np.nan)
    values[:10], values[2500:2510] = wavy(rows=10), wavy(rows=10)
    lines = {text.split(":")[0]: text for _, text in words(summary(town(values, rows=2510), 1))}
    assert "No reading on 3 days: 2026-03-03 to 2026-03-05" in lines["No reading on 3 days"]
    assert "4 days 7 h, from 2026-03-02 00:22 to 2026-03-06 08:10 UTC." in lines["Longest silence"]


def test_a_sensor_that_fell_silent_is_told_from_the_others() -> None:
    values = np.append(wavy(rows=50), np.full(150, np.nan))
    assert "it has not spoken since, while others did" in as_text(words(summary(town(values), 1)), width=1000)


def test_advice_is_no_fault() -> None:
    told = summary(town(wavy(), indoor=1), 1)
    assert (told["good"], told["flagged"], told["findings"]) == (200, 0, [])
    text = as_text(words(told), width=1000)
    assert "Temperature, 200 of 200 readings: measured indoors" in text
    assert "[alone]" in text


def test_json_is_plain(city: pd.DataFrame) -> None:
    bad = city.loc[~is_good(city["qc"]), "sensor_id"].iloc[0]
    told = json.loads(json.dumps(as_json(summary(city, bad)), allow_nan=False))
    assert told["findings"][0]["since"].endswith("Z")
    assert set(told["findings"][0]) > {"check", "since", "until", "sure", "causes", "evidence", "compared", "n", "of"}


def test_an_unknown_sensor_is_named_with_the_number_of_known_ones() -> None:
    with pytest.raises(
        SettingError, match=r"sensor 77 has no readings here, expected one of the 6 sensors 1, 2, 3, 4, 5, \.\.\."
    ):
        report(town(wavy()), [77])


def test_the_order_of_files_does_not_matter() -> None:
    batches = [sensor(number, wavy() + 30 * (number == 1)) for number in (1, 2, 3, 4, 5, 6)]
    mixed = sorted((record for batch in batches for record in batch), key=lambda record: record["timestamp"])
    by_sensor, by_time = (one(examine_records(b)) for b in (batches, [mixed]))
    assert (by_sensor.check, by_sensor.since, by_sensor.n) == (by_time.check, by_time.since, by_time.n)
    assert by_sensor.check == "neighbours"


def test_what_comes_again_counts_once() -> None:
    held = np.append(wavy(rows=185), np.full(15, 20.1))
    twice = examine_records([sensor(1, held), sensor(1, held)])
    assert (len(twice), findings(twice, 1)) == (200, [])


def points_of(figure: Any, name: str) -> int:
    return sum(len(trace.x) for trace in figure.data if trace.name == name)


def test_figure_shows_each_reading_once_and_the_span() -> None:
    values = wavy()
    values[50:60] = -147.58
    figure = health_figure(town(values), 1)
    assert (points_of(figure, "good"), points_of(figure, "flagged")) == (190, 10)
    (shape,) = figure.layout.shapes
    assert (pd.Timestamp(shape.x0), pd.Timestamp(shape.x1)) == (at(50), at(59))
    assert [a.text for a in figure.layout.annotations] == ["code"]
    low, high = figure.layout.yaxis.range
    assert 15 < low < 20 < high < 25
    (flagged,) = [trace for trace in figure.data if trace.name == "flagged"]
    assert set(flagged.marker.symbol) == {"triangle-down"}
    assert set(flagged.y) == {low}


def test_neighbours_are_drawn_at_the_height_of_the_sensor() -> None:
    high = examine_records(
        [sensor(1, wavy(13.5), altitude="1100.0") + [r for n in (2, 3, 4, 5, 6) for r in sensor(n, wavy())]]
    )
    (line,) = [trace for trace in health_figure(high, 1).data if trace.name == "neighbours, median"]
    assert np.nanmean(np.array(line.y, float)) == pytest.approx(13.5, abs=0.3)
    pressure = [sensor(1, wavy(89_000), "pressure", altitude="1100.0")]
    pressure += [sensor(n, wavy(100_000), "pressure") for n in (2, 3, 4, 5, 6)]
    (line,) = [t for t in health_figure(examine_records(pressure), 1).data if t.name == "neighbours, median"]
    assert np.nanmean(np.array(line.y, float)) == pytest.approx(100_000 * np.exp(-1000 / 8434), abs=30)


def test_network_counts_each_reading_and_each_sensor(city: pd.DataFrame) -> None:
    table, told = network(city), network_summary(city)
    assert table["readings"].sum() == told["readings"] == len(city)
    assert table["good"].sum() == told["good"] == told["readings"] - sum(told["by_check"].values())
    assert table["sensors"].sum() == told["sensors"] == city["sensor_id"].nunique()
    assert ((table["share"] * table["readings"]).round() == table["good"]).all()
    worst = table.iloc[0]
    rows = city[city["sensor_type"] == worst["sensor_type"]]
    counts = pd.Series(leading(rows["qc"])).value_counts().drop("")
    assert (worst["flagged_by_it"], counts[worst["check"]]) == (counts.max(), counts.max())


def test_network_in_words(city: pd.DataFrame) -> None:
    text = as_text(network_words(network_summary(city)), width=1000)
    assert text.startswith(
        f"{city['sensor_id'].nunique()} sensors: {is_good(city['qc']).sum():,} of {len(city):,} readings good"
    )
    assert "Lowest shares by type and country" in text
    with pytest.raises(SettingError, match="no readings to report on"):
        network_summary(city.head(0))


def test_network_figure_puts_small_countries_together() -> None:
    codes = ["DE", "DE", "AT", "CH", "IT", "FR", "ES", "PT", "NL", "BE", "PL", "CZ", "SK", "HU", "RO", "BG", "GB", None]
    rows = {"sensor_id": range(18), "sensor_type": "SDS011", "country": codes, "qc": [FLAGS["code"], *[0] * 17]}
    (heat,) = network_figure(pd.DataFrame(rows)).data
    assert len(heat.x) == 13
    assert (heat.x[0], heat.x[-1], heat.text[0][0]) == ("DE", "5 others", "50.0 %<br>2")
    assert heat.z[0][0] == 50
    (heat,) = network_figure(pd.DataFrame(rows).tail(2)).data
    assert set(heat.x) == {"GB", "unknown"}


def fetches(page: str) -> list[str]:
    "Parts of a page that would ask another file or host; scripts apart."
    plain = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    found = re.findall(r"<script[^>]+src=[^>]*>", page)
    return found + [
        word for word in ("http:", "https:", "//cdn", "@import", "url(", "<iframe", "<img") if word in plain
    ]


def test_pages_work_by_themselves(tmp_path: Path, city: pd.DataFrame) -> None:
    ids = [int(sensor_id) for sensor_id in city["sensor_id"].unique()[:2]]
    page = health_page(tmp_path / "health.html", city, ids).read_text()
    assert fetches(page) == []
    assert page.count("<h2>") == 2 and page.count("Plotly.newPlot(") == 2
    assert page.index(f"Sensor {ids[0]}") < page.index("Plotly.newPlot(")
    assert len(page) < 8_000_000
    network_html = network_page(tmp_path / "network.html", city).read_text()
    assert fetches(network_html) == []
    assert "40 sensors" in network_html


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    examined = town(wavy(), sensor_type="<b>evil</b>", id=1)
    for path in (health_page(tmp_path / "a.html", examined, [1]), network_page(tmp_path / "b.html", examined)):
        plain = re.sub(r"<script[^>]*>.*?</script>", "", path.read_text(), flags=re.DOTALL)
        assert "<b>evil" not in plain
        assert "&lt;b&gt;evil" in plain


def test_words_need_no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    examined = town(wavy())
    assert "all 200 readings good" in report(examined, [1])
    with pytest.raises(MissingPart, match=r"pip install 'sensorlib\[local\]'"):
        health_figure(examined, 1)


def reading(row: int, qc: int = 0, value: float = 20.0, sensor_id: int = 1) -> Reading:
    ts = (START + row * STEP).to_pydatetime()
    return Reading(
        sensor_id, ts, "temperature", "temperature", value, qc, sensor_type="DHT22", location_id=3, country="GB"
    )


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    "A store with two sensors, one of them with ten codes."
    url = f"sqlite:///{tmp_path / 'readings.db'}"
    with closing(open_store(url)) as store:
        own = [reading(n, FLAGS["code"] if 50 <= n < 60 else 0, 20 + n / 100) for n in range(100)]
        store.write([*own, reading(5, FLAGS["stuck"], sensor_id=2)])
    return url


def test_a_store_gives_verdicts_without_evidence(store_url: str) -> None:
    with closing(open_store(store_url)) as store:
        examined, latest = stored(store, [1]), newest(store)
        with pytest.raises(SettingError, match="sensor 5 has no readings here, expected one of the 2 sensors 1, 2"):
            stored(store, [5])
    found = one(examined)
    assert (found.check, found.since, found.until, found.n, found.of) == ("code", at(50), at(59), 10, 10)
    assert (found.compared, len(examined)) == ((), 100)
    assert "Neighbours are named" in as_text(words(summary(examined, 1)), width=1000)
    assert network_summary(latest)["by_check"] == {"stuck": 1}
    assert len(health_figure(examined, 1).data) == 2


def test_a_store_is_read_for_the_last_thirty_days(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path / 'readings.db'}")) as store:
        store.write([reading(0), reading(30 * 576 - 1), reading(40 * 576)])
        assert list(stored(store, [1])["ts"]) == [at(30 * 576 - 1), at(40 * 576)]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    "Exit code and what was printed on stdout and stderr."
    try:
        code = cli.main(["health", *map(str, arguments)])
    except SystemExit as end:
        code = int(str(end.code or 0))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Records that `simulate` wrote."
    path = tmp_path_factory.mktemp("made") / "city.ndjson"
    written = [
        "simulate",
        "--sensors",
        "20",
        "--hours",
        "3",
        "--faults",
        "code,unit,stuck",
        "--out",
        str(path),
        "--json",
    ]
    assert cli.main(written) == 0
    return path


def test_command_reports_on_sensors(capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path) -> None:
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, 900001, 900002, "--source", made, "--page", page)
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines() if line.startswith("Sensor")] == [
        "Sensor 900001",
        "Sensor 900002",
    ]
    assert out.splitlines()[-1] == f"page: {page}"
    assert fetches(page.read_text()) == []
    code, out, _ = run(capsys, 900001, "--source", made, "--json")
    (line,) = out.splitlines()
    (told,) = json.loads(line)["sensors"]
    assert (code, told["sensor_id"]) == (0, 900001)
    assert told["readings"] == told["good"] + told["flagged"] > 100


def test_command_reports_on_the_network(capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path) -> None:
    code, out, _ = run(capsys, "--source", made, "--json", "--page", tmp_path / "page.html")
    told = json.loads(out)
    assert (code, told["sensors"], told["page"]) == (0, 20, str(tmp_path / "page.html"))
    assert told["readings"] == told["good"] + told["flagged"] == sum(group["readings"] for group in told["groups"])
    assert run(capsys, "--source", made)[1].startswith("20 sensors: ")


def test_command_asks_the_store(capsys: pytest.CaptureFixture[str], store_url: str) -> None:
    code, out, _ = run(capsys, 1, "--store", store_url)
    assert code == 0
    assert "90 of 100 readings good, 10 flagged (10.0 %)" in out
    assert run(capsys, "--store", store_url)[1].startswith("2 sensors: 1 of 2 readings good (50.0 %)")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("77 --source {made}", 1, "sensor 77 has no readings here, expected one of the 20 sensors 900001"),
        ("900001 77 --source {made}", 1, "sensor 77"),
        ("900001 --source {tmp}/none.json", 1, "no such file: "),
        ("900001 --source {made} --page {tmp}/none/page.html", 1, "none/page.html"),
        ("1 --store sqlite:///{tmp}/none.db", 1, "no such store: "),
        ("one --source {made}", 2, "invalid int value: 'one'"),
        ("1 --source", 2, "expected at least one argument"),
    ],
)
def test_command_fails_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path, arguments: str, code: int, message: str
) -> None:
    ended, out, err = run(capsys, *arguments.format(made=made, tmp=tmp_path).split())
    assert (ended, out) == (code, "")
    assert message in err
    assert not (tmp_path / "none.db").exists()


def test_moments_of_a_report_are_utc() -> None:
    found = one(town(np.full(200, 999.9)))
    assert as_json(found)["since"] == datetime(2026, 3, 2, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
