"""The manifests of the cluster: valid to the last key, locked down, and each name in them stands for something."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import (
    CRDS,
    K8S,
    OVERLAYS,
    Object,
    Renamed,
    changed,
    containers,
    environment,
    kustomized,
    name_of,
    named,
    pods,
    values_of,
)

from sensorlib import __version__, cli
from sensorlib.bus import TOPICS, topic_settings
from sensorlib.core import KINDS, Settings, load_settings
from sensorlib.jobs import checked, find_job, parameters_of, read_parameters
from sensorlib.provision import GRANTS
from sensorlib.stream import job_settings, kafka_tables

BASE = K8S / "base"
OWN = ("kafka.strimzi.io", "flink.apache.org")
# Made inside the cluster: by Strimzi, by the job influxdb-setup, by k8s/minikube or an operator, and by whoever has an object store.
STRIMZI_SECRETS = {
    "scraper": {"password"},
    "stream": {"password"},
    "collector": {"password"},
    "sensorlib-cluster-ca-cert": {"ca.crt"},
}
INSTALLED_SECRETS = {
    "influxdb-tokens": {f"{part}.token" for part in GRANTS},
    "influxdb-admin": {"token"},
    "redis-auth": {"password"},
    "jupyter-token": {"token"},
    "grafana-admin": {"password"},
}
OUTSIDE = {"object-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}}
SERVICES_OF_OTHERS = {"sensorlib-kafka-bootstrap": {9093}}  # Strimzi's
LABELS_OF_OTHERS = {"strimzi.io/cluster"}


@cache
def overlay(name: str) -> tuple[Object, ...]:
    "Objects of an overlay, and of the smoke test that follows it."
    return (*kustomized(K8S / "overlays" / name), *kustomized(K8S / "smoke"))


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return list(overlay(request.param))


def names(objects: list[Object], kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in objects if one["kind"] == kind}


def unknown(value: Any, schema: Object, path: str = "") -> list[str]:
    "Keys that a structural schema does not know."
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [key for one in value for key in unknown(one, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict):
        return []
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    found = []
    for name, part in value.items():
        if name in known:
            found += unknown(part, known[name], f"{path}.{name}")
        elif not others:
            found.append(f"{path}.{name}")
    return found


@cache
def schemas() -> dict[tuple[str, str], Object]:
    "Kind and version of the operators' objects -> its schema."
    if not CRDS.is_dir():
        pytest.skip("the definitions of Kafka's and Flink's objects (../shared/crds) are not on this machine")
    return {
        (crd["spec"]["names"]["kind"], f"{crd['spec']['group']}/{version['name']}"): version["schema"][
            "openAPIV3Schema"
        ]
        for file in CRDS.glob("*.yaml")
        for crd in yaml.load_all(file.read_text(), yaml.CSafeLoader)
        for version in crd["spec"]["versions"]
    }


@cache
def check_keys(text: str) -> None:
    "Refuse an object, in JSON, with a key that nobody knows or a value of another type."
    one = json.loads(text)
    if not one["apiVersion"].startswith(OWN):
        kubernetes_validate.validate(one, "1.34", strict=True)
        return
    assert (one["kind"], one["apiVersion"]) in schemas(), name_of(one)
    schema = schemas()[one["kind"], one["apiVersion"]]
    jsonschema.validate(one, schema)
    body = {name: part for name, part in one.items() if name not in ("apiVersion", "kind", "metadata")}
    assert unknown(body, schema) == [], name_of(one)


def test_every_key_is_known(objects: list[Object]) -> None:
    for one in objects:
        check_keys(json.dumps(one))


def test_every_container_is_locked_and_limited(objects: list[Object]) -> None:
    for name, container in containers(objects):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        if not name.startswith("FlinkDeployment"):  # its operator sets them, from `resource`
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert {*limits} == {*requests} == {"cpu", "memory"}, name
    for name, template in pods(objects):
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_only_those_who_need_kubernetes_have_a_token(objects: list[Object]) -> None:
    mounting = {name for name, template in pods(objects) if template["spec"]["automountServiceAccountToken"]}
    assert mounting == {"FlinkDeployment/stream", "Job/influxdb-setup", "StatefulSet/prometheus"}
    accounts = {t["spec"]["serviceAccountName"] for _, t in pods(objects) if "serviceAccountName" in t["spec"]}
    accounts |= {one["spec"]["serviceAccount"] for one in objects if one["kind"] == "FlinkDeployment"}
    assert accounts == names(objects, "ServiceAccount")
    for binding in (one for one in objects if one["kind"] == "RoleBinding"):
        assert binding["roleRef"]["name"] in names(objects, "Role")
        assert {subject["name"] for subject in binding["subjects"]} <= accounts


def test_images_are_pinned_and_ours_have_the_version(objects: list[Object]) -> None:
    found = {image for one in objects for image in values_of(one, "image") if isinstance(image, str)}
    ours = set()
    for image in found:
        name, _, tag = image.rpartition(":")
        assert name and re.match(r"v?\d+\.\d+", tag), image
        if "sensorlib/" in name:
            assert tag == __version__, image
            ours.add(name.rpartition("sensorlib/")[2])
    roles = re.search(r"^roles=\((.*)\)$", (K8S / "images" / "build").read_text(), re.MULTILINE)
    assert roles and ours == set(roles[1].split())


def test_no_secret_is_in_the_tree_and_each_key_that_is_named_is_made(objects: list[Object]) -> None:
    assert names(objects, "Secret") == set()
    made = STRIMZI_SECRETS | INSTALLED_SECRETS | OUTSIDE
    asked: dict[str, set[str]] = {}
    for secret in (secret for one in objects for secret in values_of(one, "secret") if "secretName" in secret):
        asked.setdefault(secret["secretName"], set()).update(item["key"] for item in secret.get("items", []))
    for ref in (ref for one in objects for ref in values_of(one, "secretKeyRef")):
        asked.setdefault(ref["name"], set()).add(ref["key"])
    for ref in (ref for one in objects for ref in values_of(one, "secretRef")):
        asked.setdefault(ref["name"], set())
    for name, keys in asked.items():
        assert name in made and keys <= made[name], f"{name}: {keys}"
    assert set(asked) >= set(STRIMZI_SECRETS | INSTALLED_SECRETS)
    assert names(objects, "KafkaUser") == set(STRIMZI_SECRETS) - {"sensorlib-cluster-ca-cert"}
    assert asked["influxdb-tokens"] == INSTALLED_SECRETS["influxdb-tokens"]


def test_volumes_config_maps_and_claims_are_there(objects: list[Object]) -> None:
    claims = {ref["claimName"] for one in objects for ref in values_of(one, "persistentVolumeClaim")}
    assert claims == names(objects, "PersistentVolumeClaim")
    maps = {one["metadata"]["name"]: set(one["data"]) for one in objects if one["kind"] == "ConfigMap"}
    asked = [ref for one in objects for key in ("configMap", "configMapRef") for ref in values_of(one, key)]
    assert {ref["name"] for ref in asked} == set(maps)
    for ref in asked:
        assert {item["key"] for item in ref.get("items", [])} <= maps[ref["name"]], ref
    templates = {name_of(one): one["spec"].get("volumeClaimTemplates", []) for one in objects if "spec" in one}
    for name, template in pods(objects):
        spec = template["spec"]
        volumes = [volume["name"] for volume in (*spec.get("volumes", []), *(c["metadata"] for c in templates[name]))]
        every = (*spec.get("initContainers", []), *spec["containers"])
        mounted = [mount["name"] for c in every for mount in c.get("volumeMounts", [])]
        assert set(mounted) == set(volumes) and len(set(volumes)) == len(volumes), name
        for container in every:
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(places)) == len(places) and all(place.startswith("/") for place in places), name
            roots = tuple(places)
            for variable in container.get("env", []):
                if variable["name"].endswith(("_FILE", "__FILE")):
                    assert variable["value"].startswith(roots), f"{name}: {variable}"


def environments(objects: list[Object]) -> dict[str, dict[str, str]]:
    "Container -> what it finds in its environment."
    return {name: environment(objects, container) for name, container in containers(objects)}


def test_settings_are_those_that_sensorlib_reads(objects: list[Object]) -> None:
    known = {f"SENSORLIB_{name.upper()}" for name in Settings.__dataclass_fields__}
    known |= {
        f"SENSORLIB_{name}" for name in ("KAFKA_USER", "KAFKA_PASSWORD_FILE", "KAFKA_CA_FILE", "INFLUX_TOKEN_FILE")
    }
    for name, env in environments(objects).items():
        assert {key for key in env if key.startswith("SENSORLIB_")} <= known, name
        load_settings(env)
        if "SENSORLIB_KAFKA_USER" in env:
            assert env["SENSORLIB_KAFKA_USER"] in names(objects, "KafkaUser"), name


def test_arguments_are_those_that_the_commands_take(objects: list[Object]) -> None:
    ran = set()
    for name, container in containers(objects):
        if "sensorlib/" not in container.get("image", "") or "command" in container or "args" not in container:
            continue
        words = [word.replace("$(KIND)", "noise") for word in container["args"]]
        cli._parser().parse_args(words)
        ran.add(" ".join(words[:2]) if words[0] == "run" else words[0])
        for word in re.findall(r"^/\w+", "\n".join(words), re.MULTILINE):
            assert word in {mount["mountPath"] for mount in container["volumeMounts"]}, f"{name}: {word}"
    assert ran == {"scrape", "collect", "rollup", "run train", "run predict", "run verify"}


def test_services_find_pods_and_are_found(objects: list[Object]) -> None:
    services = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Service"}
    served = {name: {port["port"] for port in spec["ports"]} for name, spec in services.items()} | SERVICES_OF_OTHERS
    for name, spec in services.items():
        behind = [t["spec"] for _, t in pods(objects) if spec["selector"].items() <= t["metadata"]["labels"].items()]
        ports = {port["name"] for one in behind for c in one["containers"] for port in c["ports"]}
        assert len(behind) == 1 and {port["targetPort"] for port in spec["ports"]} <= ports, name
    told = [*(text for env in environments(objects).values() for text in env.values())]
    told += [text for one in objects if one["kind"] == "ConfigMap" for text in one["data"].values() if len(text) < 5000]
    inside = {found for text in told for found in re.findall(r"(?:://|@|^)([a-z-]+):(\d+)", text)}
    assert {name for name, _ in inside} == set(served) - {"grafana", "jupyter"}  # whom people ask
    for name, port in inside:
        assert int(port) in served[name], f"{name}:{port}"


def test_probes_and_metrics_ask_ports_that_are_there(objects: list[Object]) -> None:
    for name, template in pods(objects):
        ports = {
            port["name"]: port["containerPort"] for c in template["spec"]["containers"] for port in c.get("ports", [])
        }
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for asked in (get for found in values_of(template, probe) for get in values_of(found, "port")):
                assert asked in ports, f"{name}: {probe}"
        noted = template["metadata"].get("annotations", {})
        if noted:
            assert noted["prometheus.io/scrape"] == "true" and noted["prometheus.io/path"] == "/metrics", name
            assert int(noted["prometheus.io/port"]) in ports.values(), name
    kept = {name for name, t in pods(objects) if name.startswith(("Deployment", "StatefulSet"))}
    probed = {
        name
        for name, t in pods(objects)
        if all({"readinessProbe", "livenessProbe"} <= set(c) for c in t["spec"]["containers"])
    }
    assert kept <= probed


def test_policies_and_selectors_name_labels_that_pods_have(objects: list[Object]) -> None:
    labels = {pair for _, t in pods(objects) for pair in t["metadata"]["labels"].items()}
    for one in (
        one for one in objects if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Kafka", "Deployment")
    ):
        for wanted in (*values_of(one, "podSelector"), *values_of(one, "selector"), *values_of(one, "labelSelector")):
            for pair in wanted.get("matchLabels", {}).items():
                assert pair in labels or pair[0] in LABELS_OF_OTHERS, f"{name_of(one)}: {pair}"
            for rule in wanted.get("matchExpressions", []):
                assert {(rule["key"], value) for value in rule["values"]} <= labels, name_of(one)
    reach = {
        "sensorlib/kafka": "SENSORLIB_KAFKA_USER",
        "sensorlib/redis": "SENSORLIB_REDIS_URL",
        "sensorlib/store": "SENSORLIB_INFLUX_TOKEN_FILE",
    }
    environment = environments(objects)
    for name, template in pods(objects):
        needs = {v for c, env in environment.items() if c.startswith(f"{name},") for v in env}
        for label, variable in reach.items():
            if variable in needs:
                assert template["metadata"]["labels"].get(label) == "client", f"{name}: {label}"


def test_topics_are_those_of_the_bus(objects: list[Object]) -> None:
    (pool,) = (one for one in objects if one["kind"] == "KafkaNodePool")
    replicas = pool["spec"]["replicas"]
    found = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "KafkaTopic"}
    assert {name: spec["config"] for name, spec in found.items()} == {t: topic_settings(t, replicas) for t in TOPICS}
    assert {(spec["partitions"], spec["replicas"]) for spec in found.values()} == {(4, replicas)}
    (kafka,) = (one["spec"]["kafka"] for one in objects if one["kind"] == "Kafka")
    assert (
        kafka["config"]["default.replication.factor"] == kafka["config"]["offsets.topic.replication.factor"] == replicas
    )
    assert str(kafka["config"]["min.insync.replicas"]) == topic_settings("sensor.raw", replicas)["min.insync.replicas"]


def test_users_may_touch_what_exists_and_the_groups_that_read(objects: list[Object]) -> None:
    tables = kafka_tables("broker:9093")
    groups = set(
        re.findall(r"'properties.group.id' = '([\w-]+)'", tables["records_source"] + tables["messages_source"])
    )
    for user in (one for one in objects if one["kind"] == "KafkaUser"):
        assert user["metadata"]["labels"]["strimzi.io/cluster"] in names(objects, "Kafka")
        for rule in user["spec"]["authorization"]["acls"]:
            kind, name, prefix = rule["resource"]["type"], rule["resource"]["name"], "patternType" in rule["resource"]
            known = set(TOPICS) if kind == "topic" else groups | {"sensorlib-collect"}
            assert any(one.startswith(name) if prefix else one == name for one in known), f"{name_of(user)}: {name}"


def test_flink_saves_and_restarts_on_a_cluster_as_it_does_on_one_machine(objects: list[Object]) -> None:
    (job,) = (one for one in objects if one["kind"] == "FlinkDeployment")
    told, here = job["spec"]["flinkConfiguration"], job_settings(Settings())
    same = {name for name in here if name.startswith("restart-strategy")}
    same |= {f"execution.checkpointing.{name}" for name in ("interval", "externalized-checkpoint-retention")}
    assert len(same) == 6 and {name: told.get(name) for name in same} == {name: here[name] for name in same}
    slots = int(told["taskmanager.numberOfTaskSlots"]) * job["spec"]["taskManager"]["replicas"]
    assert job["spec"]["job"]["parallelism"] <= slots


@pytest.mark.parametrize("job", ["train", "predict", "verify"])
def test_each_kind_has_its_jobs_at_a_time_of_its_own(objects: list[Object], job: str) -> None:
    found = {o["metadata"]["name"]: o["spec"] for o in objects if o["metadata"]["name"].startswith(f"{job}-")}
    assert {*found} == {f"{job}-{kind}" for kind in KINDS}
    assert len({spec["schedule"] for spec in found.values()}) == len(KINDS)
    for name, spec in found.items():
        labels = spec["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        assert (spec["concurrencyPolicy"], labels["sensorlib/kind"]) == ("Forbid", name.removeprefix(f"{job}-"))
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] and spec["startingDeadlineSeconds"]
        assert spec["failedJobsHistoryLimit"] and spec["successfulJobsHistoryLimit"]


@pytest.mark.parametrize("job", ["train", "predict", "verify"])
def test_jobs_know_the_parameters_of_the_config_map(objects: list[Object], job: str, tmp_path: Path) -> None:
    (given,) = (one["data"] for one in objects if one["metadata"]["name"].startswith("job-parameters-"))
    (tmp_path / f"{job}.yaml").write_text(given[f"{job}.yaml"])
    told = read_parameters(tmp_path / f"{job}.yaml")
    assert told and checked(job, parameters_of(find_job(job)), {**told, "kinds": "noise"}) == {**told, "kinds": "noise"}


CHECKS = [check for name, check in globals().items() if name.startswith("test_")]
POD, CRON = "spec.template.spec", "spec.jobTemplate.spec.template.spec"
SCRAPER, PREDICT, FLINK, KAFKA = (
    "Deployment/scraper",
    "CronJob/predict-noise",
    "FlinkDeployment/stream",
    "Kafka/sensorlib",
)
# One typing error each: object, field, and what it says instead.
MUTATIONS = [
    (SCRAPER, "spec.replicas", "one"),
    (SCRAPER, f"{POD}.serviceAccountName", "sensorlibs"),
    (SCRAPER, f"{POD}.automountServiceAccountToken", True),
    (SCRAPER, f"{POD}.terminationGracePeriodSeconds", Renamed("terminationGracePeriod")),
    (SCRAPER, f"{POD}.securityContext.runAsNonRoot", False),
    (SCRAPER, f"{POD}.containers[0].image", "sensorlib/services:0.1.1"),
    (SCRAPER, f"{POD}.containers[0].image", "sensorlib/service:0.1.0"),
    (SCRAPER, f"{POD}.containers[0].image", "sensorlib/services:latest"),
    (SCRAPER, f"{POD}.containers[0].args", ["scarpe"]),
    (SCRAPER, f"{POD}.containers[0].envFrom[0].configMapRef.name", "sensorlib-setting"),
    (SCRAPER, f"{POD}.containers[0].env[0].value", "scrapper"),
    (SCRAPER, f"{POD}.containers[0].env[1].name", "SENSORLIB_KAFKA_PASWORD_FILE"),
    (SCRAPER, f"{POD}.containers[0].env[1].value", "/kafak/password"),
    (SCRAPER, f"{POD}.containers[0].env[2].valueFrom.secretKeyRef.name", "redis-auht"),
    (SCRAPER, f"{POD}.containers[0].env[2].valueFrom.secretKeyRef.key", "pasword"),
    (SCRAPER, f"{POD}.containers[0].env[3].value", "redis://:$(REDIS_PASSWORD)@reddis:6379/0"),
    (SCRAPER, f"{POD}.containers[0].readinessProbe", Renamed("readynessProbe")),
    (SCRAPER, f"{POD}.containers[0].readinessProbe.httpGet.port", "web"),
    (SCRAPER, f"{POD}.containers[0].resources.limits", Renamed("limit")),
    (SCRAPER, f"{POD}.containers[0].resources.limits.memory", None),
    (SCRAPER, f"{POD}.containers[0].securityContext.readOnlyRootFilesystem", None),
    (SCRAPER, f"{POD}.containers[0].volumeMounts[0].name", "kafak"),
    (SCRAPER, f"{POD}.volumes[0].secret.secretName", "scrapper"),
    (SCRAPER, f"{POD}.volumes[0].secret.items[0].key", "pasword"),
    (SCRAPER, "spec.template.metadata.annotations", {"prometheus.io/scrape": "true", "prometheus.io/port": "800", "prometheus.io/path": "/metrics"}),
    (SCRAPER, "spec.template.metadata.labels", {"app.kubernetes.io/name": "scraper", "sensorlib/kafka": "client"}),
    ("PodDisruptionBudget/collector", "spec.selector.matchLabels", {"app.kubernetes.io/name": "colector"}),
    ("ConfigMap/sensorlib-settings", "data.SENSORLIB_POLL_S", "sixty"),
    ("ConfigMap/sensorlib-settings", "data.SENSORLIB_STORE", "influxdb://influxdb:8068?org=sensorlib&bucket=readings"),
    ("ConfigMap/sensorlib-settings", "data.SENSORLIB_POLL_S", Renamed("SENSORLIB_POL_S")),
    (PREDICT, "spec.concurrencyPolicy", "Allow"),
    (PREDICT, "spec.schedule", Renamed("shedule")),
    (PREDICT, f"{CRON}.containers[0].args", ["run", "predict", "-f", "/parameter/predict.yaml"]),
    (PREDICT, f"{CRON}.containers[0].args", ["run", "predict", "--timout", "480"]),
    (PREDICT, f"{CRON}.volumes[0].configMap.name", "jobs-parameters"),
    (PREDICT, f"{CRON}.volumes[1].secret.items[0].key", "forcast.token"),
    ("Service/influxdb", "spec.ports[0].targetPort", "htpp"),
    ("Service/grafana", "spec.selector", {"app.kubernetes.io/name": "graphana"}),
    ("StatefulSet/influxdb", "spec.volumeClaimTemplates[0].metadata.name", "dta"),
    ("RoleBinding/prometheus", "roleRef.name", "promtheus"),
    ("NetworkPolicy/store-clients", "spec.podSelector.matchLabels", {"sensorlib/stor": "client"}),
    (KAFKA, "spec.kafka.config", {"default.replication.factor": 2, "min.insync.replicas": 1, "offsets.topic.replication.factor": 1}),
    (KAFKA, "spec.kafka.listeners[0].authentication.type", "scram-sha-521"),
    (KAFKA, "spec.kafkaExporter", Renamed("kafkaExport")),
    ("KafkaTopic/sensor.raw", "metadata.name", "sensor.row"),
    ("KafkaTopic/sensor.raw", "spec.partitions", 3),
    ("KafkaUser/scraper", "spec.authorization.acls[1].resource.name", "sensor.row"),
    ("KafkaUser/collector", "spec.authorization.acls[2].resource.name", "sensorlib-colect"),
    (FLINK, "spec.flinkVersion", "v2_22"),
    (FLINK, "spec.job.parallelism", 20),
    (FLINK, "spec.serviceAccount", "flinks"),
    (FLINK, "spec.flinkConfiguration", {"taskmanager.numberOfTaskSlots": "2"}),
]  # fmt: skip


def complaint(objects: list[Object], tmp_path: Path) -> str:
    "The first check that these objects do not pass; empty when they pass all."
    for check in CHECKS:
        given: list[dict[str, Any]] = [{"objects": objects}]
        if "job" in check.__annotations__:
            given = [{"objects": objects, "job": job} for job in ("train", "predict", "verify")]
        for told in given:
            try:
                check(**told, **({"tmp_path": tmp_path} if "tmp_path" in check.__annotations__ else {}))
            except (Exception, SystemExit) as error:
                return f"{check.__name__}: {error}"
    return ""


def test_the_checks_find_nothing_wrong_when_nothing_is(objects: list[Object], tmp_path: Path) -> None:
    assert complaint(objects, tmp_path) == ""


@pytest.mark.parametrize(("name", "place", "value"), MUTATIONS, ids=lambda part: str(part).replace(" ", "_")[:60])
def test_every_typing_error_is_noticed(name: str, place: str, value: object, tmp_path: Path) -> None:
    schemas()
    right = list(overlay("minikube"))
    wrong = changed(named(right, name), place, value)
    assert complaint([wrong if name_of(one) == name else one for one in right], tmp_path)
