"""The manifests of the cluster: valid to the last key, locked down, and each name in them stands for something."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from apiserver import CRDS, ROOT, Object, kustomized

from sensorlib import __version__
from sensorlib.bus import TOPICS, topic_settings
from sensorlib.core import KINDS, Settings
from sensorlib.jobs import checked, find_job, parameters_of, read_parameters
from sensorlib.provision import GRANTS
from sensorlib.stream import job_settings

BASE = ROOT / "k8s" / "base"
OWN = ("kafka.strimzi.io", "flink.apache.org")
# Made inside the cluster: by Strimzi, by the job influxdb-setup, and by whoever installs.
STRIMZI_SECRETS = {"scraper", "stream", "collector", "sensorlib-cluster-ca-cert"}
INSTALLED_SECRETS = {"influxdb-tokens", "influxdb-admin", "redis-auth", "jupyter-token", "grafana-admin"}


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return kustomized(BASE)


def names(objects: list[Object], kind: str) -> set[str]:
    return {o["metadata"]["name"] for o in objects if o["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    "Name and specification of each pod that we describe ourselves."
    for one in objects:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        template = spec.get("podTemplate") or spec.get("template")
        if template and one["kind"] not in ("KafkaNodePool", "Kafka"):
            yield f"{one['kind']} {one['metadata']['name']}", template["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for name, spec in pods(objects):
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            yield f"{name}, {container['name']}", container


def values_of(tree: Any, key: str) -> list[Any]:
    "Everything that stands under a key, however deep."
    found = []
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += [value] if name == key else []
        found += values_of(value, key)
    return found


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


def test_kubernetes_knows_every_key(objects: list[Object]) -> None:
    builtin = [one for one in objects if not one["apiVersion"].startswith(OWN)]
    assert len(builtin) > 30
    for one in builtin:
        kubernetes_validate.validate(one, "1.34", strict=True)


def test_operators_know_every_key(objects: list[Object]) -> None:
    if not CRDS.is_dir():
        pytest.skip("the definitions of Kafka's and Flink's objects (../shared/crds) are not on this machine")
    schemas = {
        (crd["spec"]["names"]["kind"], f"{crd['spec']['group']}/{version['name']}"): version["schema"][
            "openAPIV3Schema"
        ]
        for file in CRDS.glob("*.yaml")
        for crd in yaml.safe_load_all(file.read_text())
        for version in crd["spec"]["versions"]
    }
    custom = [one for one in objects if one["apiVersion"].startswith(OWN)]
    assert {one["kind"] for one in custom} == {kind for kind, _ in schemas}
    for one in custom:
        schema = schemas[one["kind"], one["apiVersion"]]
        jsonschema.validate(one, schema)
        body = {name: part for name, part in one.items() if name not in ("apiVersion", "kind", "metadata")}
        assert unknown(body, schema) == [], one["metadata"]["name"]


def test_every_container_is_locked_and_limited(objects: list[Object]) -> None:
    for name, container in containers(objects):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        if not name.startswith("FlinkDeployment"):  # its operator sets them, from `resource`
            assert {*container["resources"]["limits"]} == {*container["resources"]["requests"]} == {"cpu", "memory"}, (
                name
            )
    for name, spec in pods(objects):
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_only_those_who_need_kubernetes_have_a_token(objects: list[Object]) -> None:
    mounting = {name for name, spec in pods(objects) if spec["automountServiceAccountToken"]}
    assert mounting == {"FlinkDeployment stream", "Job influxdb-setup", "StatefulSet prometheus"}
    accounts = {spec["serviceAccountName"] for _, spec in pods(objects) if "serviceAccountName" in spec}
    accounts |= {one["spec"]["serviceAccount"] for one in objects if one["kind"] == "FlinkDeployment"}
    assert accounts == names(objects, "ServiceAccount")


def test_images_are_pinned_and_ours_have_the_version(objects: list[Object]) -> None:
    found = {image for one in objects for image in values_of(one, "image") if isinstance(image, str)}
    assert len(found) >= 7
    for image in found:
        name, _, tag = image.rpartition(":")
        assert name and tag and tag != "latest", image
        if name.startswith("sensorlib/"):
            assert tag == __version__, image


def test_no_secret_is_in_the_tree_and_each_that_is_named_is_made(objects: list[Object]) -> None:
    assert names(objects, "Secret") == set()
    named = {ref["secretName"] for one in objects for ref in values_of(one, "secret") if "secretName" in ref}
    named |= {ref["name"] for one in objects for ref in values_of(one, "secretKeyRef")}
    assert named == STRIMZI_SECRETS | INSTALLED_SECRETS
    assert names(objects, "KafkaUser") == STRIMZI_SECRETS - {"sensorlib-cluster-ca-cert"}


def test_tokens_of_the_store_are_those_that_setup_makes(objects: list[Object]) -> None:
    volumes = [volume for _, spec in pods(objects) for volume in spec.get("volumes", [])]
    secrets = [volume["secret"] for volume in volumes if "secret" in volume]
    keys = {item["key"] for s in secrets if s["secretName"] == "influxdb-tokens" for item in s.get("items", [])}
    assert keys == {f"{part}.token" for part in GRANTS}


def test_volumes_config_maps_and_claims_are_there(objects: list[Object]) -> None:
    claims = {ref["claimName"] for one in objects for ref in values_of(one, "persistentVolumeClaim")}
    assert claims == names(objects, "PersistentVolumeClaim")
    maps = {ref["name"] for one in objects for key in ("configMap", "configMapRef") for ref in values_of(one, key)}
    assert maps == names(objects, "ConfigMap")
    for name, spec in pods(objects):
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | {"data"}  # of a StatefulSet's template
        mounted = {mount["name"] for c in spec["containers"] for mount in c.get("volumeMounts", [])}
        assert mounted <= volumes, name


def test_topics_are_those_of_the_bus(objects: list[Object]) -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "KafkaTopic"}
    assert {name: spec["config"] for name, spec in found.items()} == {t: topic_settings(t, 1) for t in TOPICS}
    assert {(spec["partitions"], spec["replicas"]) for spec in found.values()} == {(4, 1)}


def test_flink_saves_and_restarts_on_a_cluster_as_it_does_on_one_machine(objects: list[Object]) -> None:
    (job,) = (one for one in objects if one["kind"] == "FlinkDeployment")
    told, here = job["spec"]["flinkConfiguration"], job_settings(Settings())
    names = {name for name in here if name.startswith("restart-strategy")}
    names |= {f"execution.checkpointing.{name}" for name in ("interval", "externalized-checkpoint-retention")}
    assert len(names) == 6 and {name: told[name] for name in names} == {name: here[name] for name in names}


@pytest.mark.parametrize("job", ["train", "predict", "verify"])
def test_each_kind_has_its_jobs_at_a_time_of_its_own(objects: list[Object], job: str) -> None:
    found = {o["metadata"]["name"]: o["spec"] for o in objects if o["metadata"]["name"].startswith(f"{job}-")}
    assert {*found} == {f"{job}-{kind}" for kind in KINDS}
    assert len({spec["schedule"] for spec in found.values()}) == len(KINDS)
    for name, spec in found.items():
        labels = spec["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        assert (spec["concurrencyPolicy"], labels["sensorlib/kind"]) == ("Forbid", name.removeprefix(f"{job}-"))


@pytest.mark.parametrize("job", ["train", "predict", "verify"])
def test_jobs_know_the_parameters_of_the_config_map(job: str) -> None:
    given = read_parameters(BASE / "jobs" / "parameters" / f"{job}.yaml")
    told = checked(job, parameters_of(find_job(job)), {**given, "kinds": "noise"})
    assert given and told == {**given, "kinds": "noise"}
