"""Metrics, alarms and what to do: each name asked for is told by somebody, each alarm fires when it should and has its section."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from city import City
from waiting import built
from prometheus_client import CollectorRegistry

from sensorlib.collector import CollectorMetrics, Progress
from sensorlib.completeness import Tracker
from sensorlib.core import DEAD_REASONS, KINDS
from sensorlib.quality import FAULT_NAMES
from sensorlib.scraper import ScraperMetrics
from sensorlib.service import Health

ROOT = Path(__file__).resolve().parents[1]
GRAFANA = ROOT / "k8s" / "base" / "grafana"
METRICS = (ROOT / "k8s" / "METRICS.md").read_text(encoding="utf-8")
RUNBOOK = (ROOT / "k8s" / "RUNBOOK.md").read_text(encoding="utf-8")
(GROUP,) = yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "rules.yaml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["uid"]: rule for rule in GROUP["rules"]}
ASKED = {uid: rule["data"][0]["model"] for uid, rule in RULES.items()}
FROM_PROMETHEUS = {uid: model["expr"] for uid, model in ASKED.items() if "expr" in model}
NAME = re.compile(r"\b(?:sensorlib|flink|kafka|process)_[a-zA-Z_]\w+")


def documented() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", METRICS, re.MULTILINE))


def told() -> set[str]:
    "Names of all metrics of our services, as they tell them."
    health, progress = Health(), Progress()
    ScraperMetrics(health.registry)
    Tracker(datetime.now(UTC), health.registry)
    CollectorMetrics(health.registry, progress)
    families = health.registry.collect()
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def expressions() -> list[str]:
    "All that alarms and dashboards ask of Prometheus."
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in (GRAFANA / "dashboards").glob("*.json")]
    found = [match for board in boards for match in re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', json.dumps(board))]
    return [*FROM_PROMETHEUS.values(), *(json.loads(f'"{text}"') for text in found)]


def test_every_metric_of_ours_is_documented_and_no_other() -> None:
    ours = {name for name in documented() if name.startswith("sensorlib_")} - {"sensorlib_stream_job_state"}
    assert ours == {name for name in told() if name.startswith("sensorlib_")}
    assert {name for name in documented() if name.startswith("process_")} <= told()


def test_every_metric_that_is_asked_for_is_documented() -> None:
    asked = {name for text in expressions() for name in NAME.findall(text)}
    assert len(asked) > 20
    assert {re.sub("_bucket$", "", name) for name in asked} <= documented()


def test_labels_in_alarms_are_told() -> None:
    told_reasons = set(re.findall(r'reason="(\w+)"', " ".join(expressions())))
    told_checks = set(re.findall(r'check="(\w+)"', " ".join(expressions())))
    assert told_reasons <= set(DEAD_REASONS)
    assert told_checks <= set(FAULT_NAMES)
    registry = CollectorRegistry()
    CollectorMetrics(registry, Progress())
    assert registry.get_sample_value("sensorlib_collector_faults_total", {"check": "stuck"}) == 0
    assert registry.get_sample_value("sensorlib_collector_dead_letters_total", {"reason": "refused"}) == 0


def test_every_alarm_has_a_section_and_every_section_an_alarm() -> None:
    assert re.findall(r"^## ([\w-]+)$", RUNBOOK, re.MULTILINE) == list(RULES)
    for uid, rule in RULES.items():
        assert rule["annotations"]["runbook"] == f"k8s/RUNBOOK.md#{uid}"
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_alarms_are_as_grafana_wants_them() -> None:
    assert {"nothing-stored", "dead-letters", "lag", "stuck-share", "checkpoint-age"} < set(RULES)
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "sources.yaml").read_text())["datasources"]
    for rule in RULES.values():
        first, second = rule["data"]
        assert first["datasourceUid"] in {source["uid"] for source in sources}
        assert (first["refId"], second["refId"], rule["condition"]) == ("A", "B", "B")
        assert (second["datasourceUid"], second["model"]["type"], second["model"]["expression"]) == (
            "__expr__",
            "threshold",
            "A",
        )
        assert rule["noDataState"] in {"OK", "Alerting"} and rule["labels"]["severity"] in {"warning", "critical"}


# What each alarm sees when all is well, and when it should fire: PromQL's test series, a value a minute, two hours long.
WELL_AND_ILL = {
    "nothing-stored": [
        ({"sensorlib_collector_readings_stored_total": "0+600x120"}, {"sensorlib_collector_readings_stored_total": "9000+0x120"}),
        ({"sensorlib_collector_readings_stored_total": "0+600x120"}, {}),
    ],
    "feed-behind": [({"sensorlib_scraper_newest_reading_timestamp_seconds": "0+60x120"}, {"sensorlib_scraper_newest_reading_timestamp_seconds": "60+0x120"})],
    "part-not-ready": [({'sensorlib_ready{app="scraper"}': "1x120"}, {'sensorlib_ready{app="scraper"}': "0x120"})],
    "part-unseen": [({'up{app="flink"}': "1x120"}, {'up{app="flink"}': "0x120"})],
    "dead-letters": [
        (
            {'kafka_topic_partition_current_offset{topic="sensor.raw"}': "0+1000x120", 'kafka_topic_partition_current_offset{topic="sensor.dead"}': "0+5x120"},
            {'kafka_topic_partition_current_offset{topic="sensor.raw"}': "0+1000x120", 'kafka_topic_partition_current_offset{topic="sensor.dead"}': "0+50x120"},
        )
    ],
    "store-refuses": [
        (
            {'sensorlib_collector_dead_letters_total{reason="refused"}': "0x120"},
            {'sensorlib_collector_dead_letters_total{reason="refused"}': "0x100 1x20"},
        )
    ],
    "lag": [
        (
            {'kafka_consumergroup_lag{consumergroup="a"}': "1000x120", 'kafka_consumergroup_current_offset{consumergroup="a"}': "0+6000x120"},
            {'kafka_consumergroup_lag{consumergroup="a"}': "90000x120", 'kafka_consumergroup_current_offset{consumergroup="a"}': "0+6000x120"},
        ),
        (
            {'kafka_consumergroup_lag{consumergroup="a"}': "0x120", 'kafka_consumergroup_current_offset{consumergroup="a"}': "7x120"},
            {'kafka_consumergroup_lag{consumergroup="a"}': "0+60x120", 'kafka_consumergroup_current_offset{consumergroup="a"}': "7x120"},
        ),
    ],
    "stuck-share": [
        (
            {'sensorlib_collector_faults_total{check="stuck"}': "0+10x120", "sensorlib_collector_readings_stored_total": "0+600x120"},
            {'sensorlib_collector_faults_total{check="stuck"}': "0+300x120", "sensorlib_collector_readings_stored_total": "0+600x120"},
        )
    ],
    "checkpoint-age": [
        (
            {"flink_jobmanager_job_lastCheckpointCompletedTimestamp": "0+60000x120"},
            {"flink_jobmanager_job_lastCheckpointCompletedTimestamp": "60000x120"},
        )
    ],
    "stream-restarts": [({"flink_jobmanager_job_numRestarts": "1x120"}, {"flink_jobmanager_job_numRestarts": "0x100 1+1x20"})],
}  # fmt: skip


def promtool() -> str:
    "Prometheus' own tool, on PATH or from `make promtool`; the test is skipped without it."
    found = built("promtool", "promtool/go.sum") or shutil.which("promtool")
    if not found:
        pytest.skip("no promtool: run `make promtool`")
    return str(found)


def as_rule(uid: str) -> dict[str, Any]:
    "An alarm of Grafana as one of Prometheus: the same expression, threshold and patience."
    rule = RULES[uid]
    (condition,) = rule["data"][1]["model"]["conditions"]
    sign = {"gt": ">", "lt": "<"}[condition["evaluator"]["type"]]
    expression = f"({FROM_PROMETHEUS[uid]}) {sign} {condition['evaluator']['params'][0]}"
    return {"alert": uid, "expr": expression, "for": rule["for"]}


def fired(uid: str, series: dict[str, str], folder: Path) -> bool:
    "Whether an alarm fires after two hours of some series."
    folder.mkdir()
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": [as_rule(uid)]}]}))
    asked = {"expr": f'count(ALERTS{{alertname="{uid}", alertstate="firing"}}) or vector(0)', "eval_time": "115m"}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{**asked, "exp_samples": [{"labels": "{}", "value": 0}]}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    ran = subprocess.run([promtool(), "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0 or "got:" in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    return ran.returncode != 0


@pytest.mark.parametrize("uid", FROM_PROMETHEUS)
def test_an_alarm_fires_when_it_should_and_only_then(uid: str, tmp_path: Path) -> None:
    for number, (well, ill) in enumerate(WELL_AND_ILL[uid]):
        assert not fired(uid, well, tmp_path / f"well-{number}")
        assert fired(uid, ill, tmp_path / f"ill-{number}")


def test_prometheus_understands_every_expression_and_its_settings(tmp_path: Path) -> None:
    rules = [
        {"record": f"asked:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(expressions())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    subprocess.run([promtool(), "check", "rules", tmp_path / "rules.yaml"], check=True, capture_output=True)
    config = ROOT / "k8s" / "base" / "prometheus" / "scrape.yaml"
    subprocess.run([promtool(), "check", "config", "--syntax-only", config], check=True, capture_output=True)


LABELS = {
    "topic": ("sensor.raw", "sensor.dead"),
    "check": ("stuck",),
    "reason": ("refused",),
    "le": ("1", "+Inf"),
}  # Others have the value `any`


def series_of_everything() -> dict[str, str]:
    "A growing series for every metric that is documented, with its labels."
    found = {'up{app="any"}': "1+0x60"}
    for name, kind in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", METRICS, re.MULTILINE):
        labels = re.findall(r"`(\w+)`", kind) + (["le"] if kind == "histogram" else [])
        labels = ["consumergroup", "topic"] if kind == "gauge, likewise" else labels
        full = f"{name}_bucket" if kind == "histogram" else name
        for values in product(*(LABELS.get(label, ("any",)) for label in labels)):
            told = "".join(f', {label}="{value}"' for label, value in zip(labels, values, strict=True))
            found[f'{full}{{app="any", pod="any"{told}}}'] = "1+1x60"
    return found


def test_every_question_of_a_dashboard_has_an_answer(tmp_path: Path) -> None:
    "Prometheus' own engine answers each, when every metric that is documented is told."
    asked = [text.replace("$__rate_interval", "5m") for text in expressions()]
    tests = [
        {"expr": f"count({text}) > bool 0", "eval_time": "50m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for text in asked
    ]
    series = [{"series": name, "values": values} for name, values in series_of_everything().items()]
    file = {"rule_files": [], "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(file))
    ran = subprocess.run([promtool(), "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert len(asked) > 30
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_age_of_forecasts_is_one_number_a_kind(city: City) -> None:
    answer = city.ask(ASKED["forecasts-old"]["query"])
    ages = dict(zip(answer["_measurement"], answer["age"], strict=True))
    assert set(ages) == set(KINDS)
    since = (datetime.now(UTC) - city.now).total_seconds()
    assert all(since <= age < since + 1200 for age in ages.values()), (since, ages)
