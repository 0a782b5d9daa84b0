"""Grafana's dashboards: what is committed, how it is laid out, and every question asked of a real InfluxDB."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from city import OWNER, STUCK, City
from manifests import kustomized
from waiting import built

from sensorlib import cli
from sensorlib.core import KINDS, VALUE_TYPES
from sensorlib.indices import EUROPEAN_BANDS, noise_days
from sensorlib.panels import EUROPEAN_COLOURS, GRID, TAG
from sensorlib.quality import FAULTS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "k8s" / "base" / "grafana" / "dashboards"
SOURCES = {"influxdb": "influxdb", "prometheus": "prometheus"}  # uid -> type, as they are provisioned
Board = dict[str, Any]
Panel = dict[str, Any]


@cache
def boards() -> dict[str, Board]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: Board) -> list[Panel]:
    "Panels of a dashboard, those in closed sections too."
    inside = [panel for row in board["panels"] for panel in row.get("panels", [])]
    return [panel for panel in [*board["panels"], *inside] if panel["type"] != "row"]


def everywhere(*types: str) -> list[Any]:
    "Every panel of every dashboard, or those of some types."
    found = [(uid, panel) for uid, board in boards().items() for panel in panels(board)]
    kept = [(uid, panel) for uid, panel in found if not types or panel["type"] in types]
    return [pytest.param(uid, panel, id=f"{uid}-{panel['id']}-{panel['type']}") for uid, panel in kept]


each = pytest.mark.parametrize("board", [pytest.param(board, id=uid) for uid, board in boards().items()])


def test_written_again_they_are_what_is_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboards", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"dashboards": len(boards()), "out": str(tmp_path)}
    made, kept = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (tmp_path, FOLDER))
    assert made == kept, "run sensorlib dashboards --out k8s/base/grafana/dashboards"


def test_grafana_gets_every_one_of_them() -> None:
    (held,) = (
        one["data"] for one in kustomized(FOLDER.parent) if one["metadata"]["name"].startswith("grafana-dashboards")
    )
    assert {name: json.loads(text) for name, text in held.items()} == {f"{uid}.json": b for uid, b in boards().items()}
    assert sum(map(len, held.values())) < 1_000_000, "a config map holds 1 MiB: make two of them"


def test_without_the_sdk_the_command_says_what_to_install() -> None:
    hide = "import sys; sys.modules['grafana_foundation_sdk'] = None; from sensorlib import cli; sys.exit(cli.main())"
    words = [sys.executable, "-c", hide, "dashboards", "--out", "nowhere"]
    said = subprocess.run(words, capture_output=True, text=True)
    assert said.returncode == 1
    assert "pip install grafana-foundation-sdk==" in said.stderr


def test_each_has_its_own_uid_and_a_map_for_each_kind() -> None:
    assert {uid: board["uid"] for uid, board in boards().items()} == {uid: uid for uid in boards()}
    assert {f"sensorlib-map-{kind}" for kind in KINDS} < set(boards())
    assert len({board["title"] for board in boards().values()}) == len(boards())


@each
def test_numbers_of_panels_are_unique(board: Board) -> None:
    numbers = [panel["id"] for panel in panels(board)] + [p["id"] for p in board["panels"] if p["type"] == "row"]
    assert len(set(numbers)) == len(numbers)


def overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    aside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not aside and not below


@each
def test_no_panel_covers_another(board: Board) -> None:
    for shown in [board["panels"], *(row["panels"] for row in board["panels"] if row.get("panels"))]:
        places = [panel["gridPos"] for panel in shown]
        assert [pair for pair in combinations(places, 2) if overlap(*pair)] == []
        assert max(at["x"] + at["w"] for at in places) <= GRID


def test_the_check_of_overlaps_sees_one() -> None:
    one, beside = {"x": 0, "y": 0, "w": 12, "h": 4}, {"x": 12, "y": 0, "w": 12, "h": 4}
    assert not overlap(one, beside)
    assert overlap(one, {**beside, "x": 11})
    assert overlap(one, {**beside, "x": 0, "y": 3})


@pytest.mark.parametrize(("uid", "panel"), everywhere())
def test_every_panel_says_what_it_is(uid: str, panel: Panel) -> None:
    assert panel["title"] and panel["description"]
    if panel["type"] == "text":
        return
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert re.search(r" Window: .+\. Count: .+\. Age: .+\.$", panel["description"]), panel["description"]


@each
def test_every_page_says_whose_data_these_are(board: Board) -> None:
    last = max(board["panels"], key=lambda panel: panel["gridPos"]["y"])
    assert last["type"] == "text"
    for word in ("sensor.community", "ODbL", "DbCL", "GeoNames", "CC BY 4.0"):
        assert word in last["options"]["content"]


@each
def test_every_page_names_its_window_and_looks_again(board: Board) -> None:
    assert "${__from:date" in board["panels"][0]["options"]["content"]
    assert (board["refresh"], board["timezone"], board["tags"]) == ("1m", "browser", [TAG])


def parts_of(value: Any) -> Iterator[Any]:
    "Everything inside a piece of JSON."
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts_of(part)


@each
def test_sources_are_those_that_are_provisioned(board: Board) -> None:
    named = [part["datasource"] for part in parts_of(board) if isinstance(part, dict) and part.get("datasource")]
    assert named
    assert {found["uid"]: found["type"] for found in named}.items() <= SOURCES.items()
    assert "${DS_" not in json.dumps(board)


@each
def test_links_lead_to_pages_that_are_there(board: Board) -> None:
    texts = [part for part in parts_of(board) if isinstance(part, str)]
    leads = [found for text in texts for found in re.findall(r"/d/([\w-]+)\?([^)\s]*)", text)]
    for uid, query in leads:
        assert uid in boards()
        known = {variable["name"] for variable in boards()[uid]["templating"].get("list", [])}
        assert set(re.findall(r"var-(\w+)=", query)) <= known
        assert "${__url_time_range}" in query
    others = [link for link in board["links"] if link["type"] == "dashboards"]
    assert [link["tags"] for link in others] == [[TAG]]


@pytest.mark.parametrize(("uid", "panel"), everywhere("table", "geomap"))
def test_links_take_columns_that_are_there(uid: str, panel: Panel) -> None:
    columns = {rule["matcher"]["options"] for rule in panel["fieldConfig"]["overrides"]}
    assert set(re.findall(r"__data\.fields\.(\w+)", json.dumps(panel))) <= columns


def compiler() -> Path:
    "Folder with Grafana's types and TypeScript's compiler; the test is skipped without them."
    found = built("grafana-types", "grafana/package-lock.json")
    if not found or not shutil.which("node"):
        pytest.skip("no types of Grafana: run `make grafana-types`")
    return found


def refused(some: Mapping[str, Board], folder: Path) -> set[str]:
    "Names of the dashboards in which TypeScript finds what is no part of Grafana's own types."
    for name in ("tsconfig.json", "plain.ts", "node_modules"):
        (folder / name).symlink_to(compiler() / name)
    types = "import type { Dashboard } from '@grafana/schema';\nimport type { Plain } from './plain';\n"
    for name, board in some.items():
        (folder / f"{name}.ts").write_text(
            f"{types}export const board = {json.dumps(board)} satisfies Plain<Dashboard>;\n"
        )
    words = ["node", "node_modules/typescript/bin/tsc", "--preserveSymlinks", "--project", "."]
    said = subprocess.run(words, cwd=folder, capture_output=True, text=True).stdout
    return set(re.findall(r"^(.+)\.ts\(.*error TS", said, re.MULTILINE))


def test_grafanas_own_types_accept_them(tmp_path: Path) -> None:
    assert refused(boards(), tmp_path) == set()


def test_grafanas_own_types_refuse_what_is_wrong(tmp_path: Path) -> None:
    wrong = {"title": 3, "gridPos": {"h": "8", "w": 8, "x": 0, "y": 0}, "targets": {}, "fieldConfig": {"defaults": []}}
    first, *others = boards()["sensorlib-noise"]["panels"]
    mutants = {
        key: boards()["sensorlib-noise"] | {"panels": [{**first, key: value}, *others]} for key, value in wrong.items()
    }
    assert refused(mutants, tmp_path) == set(wrong)


def steps_of(panel: Panel) -> list[tuple[float | None, str]]:
    return [(step["value"], step["color"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]


@pytest.mark.parametrize("value_type", EUROPEAN_BANDS)
def test_particles_have_the_colours_of_the_european_index(value_type: str) -> None:
    label = VALUE_TYPES[value_type].label
    (found,) = [panel for panel in panels(boards()["sensorlib-map-particulates"]) if panel["title"] == label]
    assert found["type"] == "geomap"
    assert steps_of(found) == list(zip((None, *EUROPEAN_BANDS[value_type]), EUROPEAN_COLOURS, strict=True))
    assert found["fieldConfig"]["defaults"]["color"]["mode"] == "thresholds"


def test_maps_take_latitude_and_longitude_from_one_table() -> None:
    maps = [panel for board in boards().values() for panel in panels(board) if panel["type"] == "geomap"]
    assert len(maps) == len(VALUE_TYPES)
    for panel in maps:
        (layer,) = panel["options"]["layers"]
        assert layer["location"] == {"mode": "coords", "latitude": "lat", "longitude": "lon"}
        assert layer["config"]["style"]["color"] == {"field": "value"}
        assert len(panel["targets"]) == 1


def test_bands_are_filled_down_to_the_line_below() -> None:
    fans = [panel for board in boards().values() for panel in panels(board) if "fillBelowTo" in json.dumps(panel)]
    assert len(fans) == 3
    for panel in fans:
        rules = panel["fieldConfig"]["overrides"]
        fills = {
            rule["matcher"]["options"]: prop["value"]
            for rule in rules
            for prop in rule["properties"]
            if prop["id"] == "custom.fillBelowTo"
        }
        pairs = (("p95", "p05"), ("p75", "p25"))
        assert fills == {f"{name}_{up}": f"{name}_{low}" for name in VALUE_TYPES for up, low in pairs}


# What Grafana does with a question before InfluxDB sees it. Times and the step: its backend's InfluxDB plugin replaces
# `v.timeRangeStart`, `v.timeRangeStop` and `v.windowPeriod` (docs: InfluxDB query editor, Flux macros). Variables: its
# frontend replaces `${name}` and `${name:regex}`; the latter escapes a value and joins several with a bar in brackets,
# and a custom value for All goes in as it is (docs: Variable syntax, Advanced variable format options).
Chosen = dict[str, str | list[str]]
ALL = ".*"


def as_regex(value: str | list[str]) -> str:
    if value == ALL:
        return ALL
    if isinstance(value, list):
        return f"({'|'.join(map(as_regex, value))})" if len(value) > 1 else as_regex(value[0])
    return re.sub(r"([\\^$*+?.()|\[\]{}/])", r"\\\1", value)


def filled(question: str, chosen: Chosen, since: datetime, until: datetime) -> str:
    "Put into a question what Grafana puts in."
    for name, value in chosen.items():
        question = question.replace(f"${{{name}:regex}}", as_regex(value))
        question = question.replace(f"${{{name}}}", value if isinstance(value, str) else ",".join(value))
    times = {"v.timeRangeStart": since, "v.timeRangeStop": until}
    for name, moment in times.items():
        question = question.replace(name, moment.isoformat().replace("+00:00", "Z"))
    question = question.replace("v.windowPeriod", "5m0s")
    assert "${" not in question and "v." not in re.findall(r"\bv\.(?=[a-z])", question), question
    return question


def test_variables_go_in_as_grafana_puts_them_in() -> None:
    moment = datetime(2026, 1, 15, tzinfo=UTC)
    asked = "r.place =~ /^${place:regex}$/ and r.country =~ /^${country:regex}$/ in ${zone}"
    chosen: Chosen = {"place": ["A/B", "C (D)"], "country": ALL, "zone": "UTC"}
    wanted = r"r.place =~ /^(A\/B|C \(D\))$/ and r.country =~ /^.*$/ in UTC"
    assert filled(asked, chosen, moment, moment) == wanted


def moment(told: str, now: datetime) -> datetime:
    "Moment that Grafana understands by words such as `now-2d`."
    found = re.fullmatch(r"now(?:([+-]\d+)([hd]))?", told)
    assert found, told
    return now + timedelta(hours=int(found[1] or 0) * {"h": 1, "d": 24}[found[2] or "h"])


@dataclass(frozen=True)
class Reader:
    "Whoever looks at a page of Grafana."

    city: City

    def ask(self, question: str, chosen: Chosen, since: str, until: str) -> pd.DataFrame:
        "Answer to a question of Grafana, in a window of its words."
        now = self.city.now
        return self.city.ask(filled(question, chosen, moment(since, now), moment(until, now)))

    def opened(self, uid: str) -> Chosen:
        "What stands in the variables of a page when it is opened at the owner's sensor; each has something to choose."
        chosen: Chosen = {}
        for variable in boards()[uid]["templating"].get("list", []):
            name, value = variable["name"], variable.get("current", {}).get("value")
            if variable["type"] == "query":
                window = boards()[uid]["time"]
                found = self.ask(variable["query"], chosen, window["from"], window["to"])["_value"].astype(str).tolist()
                assert found, f"nothing to choose for {name} of {uid}"
                several = found if name == "stuck" else ALL
                value = several if variable.get("multi") else str(OWNER) if str(OWNER) in found else found[0]
            chosen[name] = ALL if value == ["$__all"] else value
        return chosen

    def table(self, uid: str, title: str, **chosen: str) -> pd.DataFrame:
        "Answer to the first question of a panel, as the page is opened."
        (panel,) = [panel for panel in panels(boards()[uid]) if panel["title"] == title]
        window = boards()[uid]["time"]
        question = panel["targets"][0]["query"]
        return self.ask(question, self.opened(uid) | chosen, window["from"], window["to"])


@pytest.fixture(scope="module")
def reader(city: City) -> Reader:
    return Reader(city)


asked = pytest.mark.parametrize("uid", list(boards()))


@asked
def test_every_question_finds_something(reader: Reader, uid: str) -> None:
    chosen, window = reader.opened(uid), boards()[uid]["time"]
    for panel in panels(boards()[uid]):
        for target in panel.get("targets", []):
            if "query" not in target:
                continue
            answer = reader.ask(target["query"], chosen, window["from"], window["to"])
            assert len(answer), f"{panel['title']} {target['refId']}: no row\n{target['query']}"
            if panel["type"] != "timeseries":
                named = {rule["matcher"]["options"] for rule in panel["fieldConfig"]["overrides"]}
                assert named <= set(answer), f"{panel['title']}: {named - set(answer)} in no answer"


def test_a_map_shows_sensors_whose_newest_reading_is_good(reader: Reader) -> None:
    shown = reader.table("sensorlib-map-particulates", VALUE_TYPES["P2"].label)
    latest = reader.city.store.latest("particulates")
    recent = latest["ts"] >= reader.city.now - timedelta(hours=1)  # the page's window
    newest = latest[recent & (latest["value_type"] == "P2") & (latest["qc"] & FAULTS == 0)]
    assert sorted(shown["sensor_id"].astype(int)) == sorted(newest["sensor_id"])
    wanted = newest.sort_values("sensor_id")
    assert np.allclose(shown.sort_values("sensor_id")["value"], wanted["value"].astype(float))


def test_the_stuck_sensor_is_named(reader: Reader) -> None:
    shown = reader.table("sensorlib-quality", "Stuck, and since when")
    assert (str(STUCK), "pressure") in set(zip(shown["sensor_id"], shown["value_type"], strict=True))


def test_the_owner_sees_the_gap_and_the_fault(reader: Reader) -> None:
    gaps = reader.table("sensorlib-sensor", "Gaps", sensor=str(OWNER))
    assert (gaps["lasted"] - 3600).abs().min() < 400
    shares = reader.table("sensorlib-sensor", "Share of good readings", sensor=str(OWNER)).set_index("quantity")
    assert shares.loc[VALUE_TYPES["P2"].label, "good"] < 1
    assert shares.loc[VALUE_TYPES["P2"].label, "range"] > 0


def test_levels_of_noise_are_those_of_the_library(reader: Reader) -> None:
    shown = reader.table("sensorlib-noise", "Days", zone="Europe/Berlin")
    since = reader.city.now - timedelta(days=8)
    wanted = noise_days(reader.city.store.averages("noise", 3600, since, reader.city.now), "Europe/Berlin").dropna(
        subset=["Lden"]
    )
    assert shown["sensor_id"].astype(int).tolist() == wanted["sensor_id"].tolist()[::-1]
    assert np.allclose(shown["Lden"].to_numpy()[::-1], wanted["Lden"].astype(float))


def test_errors_of_forecasts_are_those_of_the_store(reader: Reader) -> None:
    shown = reader.table("sensorlib-skill", "Skill of every value type", sample="0123456789")
    found = reader.city.store.forecasts("temperature", reader.city.now - timedelta(days=1), reader.city.now)
    mine = found[(found["value_type"] == "temperature") & found["observed"].notna()]
    errors = (mine["observed"] - mine["p50"]).abs().groupby(mine["horizon_min"]).mean()
    rows = shown[shown["value_type"] == "temperature"].set_index("horizon")
    assert len(errors)
    assert np.allclose(rows.loc[errors.index, "mae"], errors)


def test_completeness_adds_up(reader: Reader) -> None:
    (row,) = reader.table("sensorlib-pipeline", "Missed most").query(f"sensor_id == '{OWNER}'").to_dict("records")
    assert row["missed"] == row["not in the feed"] > 20
    assert 0 < row["complete"] < 1
