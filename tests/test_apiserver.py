"""What a real Kubernetes API server says to our manifests, and what its controllers make of them."""

import os
from collections.abc import Iterator
from functools import cache

import pytest
from apiserver import PATIENCE_S, Cluster, needed_programs, played_nodes, running_apiserver
from manifests import K8S, OVERLAYS, Object, Renamed, changed, kustomized, named
from waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    "An API server on which nothing is done but judged."
    with running_apiserver(needed_programs(), tmp_path_factory.mktemp("apiserver")) as cluster:
        yield cluster


@cache
def objects(overlay: str = "minikube") -> list[Object]:
    return kustomized(K8S / "overlays" / overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_accepts_every_object(cluster: Cluster, overlay: str) -> None:
    wanted = [*objects(overlay), *kustomized(K8S / "smoke")]
    ran = cluster.dry_run(wanted)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == len(wanted)


POD = "spec.template.spec"
CRON_POD = f"spec.jobTemplate.{POD}"
ANOTHER = {"app.kubernetes.io/name": "another"}
# Object, field, what it becomes, and what the server's answer names; "" stands for the field itself
MUTATIONS = [
    ("CronJob/predict-temperature", "apiVersion", "batch/v2", 'no matches for kind "CronJob" in version "batch/v2"'),
    ("CronJob/predict-temperature", "spec.schedule", "61 * * * *", ""),
    ("CronJob/predict-temperature", "spec.schedule", None, ""),
    ("CronJob/predict-temperature", "spec.schedule", Renamed("shedule"), "spec.shedule"),
    ("CronJob/predict-temperature", "spec.timeZone", "Europe/Atlantis", ""),
    ("CronJob/predict-temperature", "spec.concurrencyPolicy", "Forbidden", ""),
    ("CronJob/predict-temperature", "spec.startingDeadlineSeconds", -1, ""),
    ("CronJob/predict-temperature", "spec.jobTemplate.spec.backoffLimit", -1, ""),
    ("CronJob/predict-temperature", f"{CRON_POD}.restartPolicy", "Always", ""),
    ("CronJob/predict-temperature", f"{CRON_POD}.containers[0].args", "run", ".args"),
    ("Deployment/scraper", "metadata.name", "Scraper_1", ""),
    ("Deployment/scraper", "metadata.labels", {"app.kubernetes.io/name": "the scraper"}, ""),
    ("Deployment/scraper", "spec.replicas", -1, ""),
    ("Deployment/scraper", "spec.selector", None, ""),
    ("Deployment/scraper", "spec.selector.matchLabels", ANOTHER, "spec.template.metadata.labels"),
    ("Deployment/scraper", "spec.strategy", {"type": "Rolling"}, ""),
    ("Deployment/scraper", f"{POD}.securityContext.runAsUser", -1, ""),
    ("Deployment/scraper", f"{POD}.containers", [], ""),
    ("Deployment/scraper", f"{POD}.containers[0].image", None, ""),
    ("Deployment/scraper", f"{POD}.containers[0].imagePullPolicy", "Sometimes", ""),
    ("Deployment/scraper", f"{POD}.containers[0].ports[0].containerPort", 65536, ""),
    ("Deployment/scraper", f"{POD}.containers[0].ports[0].name", "a-name-of-a-port-too-long", ""),
    ("Deployment/scraper", f"{POD}.containers[0].resources.limits.memory", "512MB", "quantities must match"),
    ("Deployment/scraper", f"{POD}.containers[0].resources.requests.memory", "2Gi", "containers[0].resources.requests"),
    ("Deployment/scraper", f"{POD}.containers[0].livenessProbe.httpGet", None, f"{POD}.containers[0].livenessProbe"),
    ("Deployment/scraper", f"{POD}.containers[0].livenessProbe.periodSeconds", -5, ""),
    ("Deployment/scraper", f"{POD}.containers[0].readinessProbe", Renamed("readynessProbe"), ".readynessProbe"),
    ("Deployment/scraper", f"{POD}.containers[0].volumeMounts[0].name", "unknown", ""),
    ("Deployment/scraper", f"{POD}.containers[0].volumeMounts[0].mountPath", None, ""),
    ("Deployment/scraper", f"{POD}.volumes[1].name", "kafka", f"{POD}.volumes"),
    ("PodDisruptionBudget/scraper", "spec.minAvailable", 1, "maxUnavailable"),
    ("PodDisruptionBudget/scraper", "spec.maxUnavailable", "half", ""),
    ("Service/influxdb", "spec.ports[0].port", 86400, ""),
    ("Service/influxdb", "spec.type", "Balanced", ""),
    ("StatefulSet/influxdb", "spec.volumeClaimTemplates[0].spec.accessModes", ["ReadWriteSometimes"], "accessModes"),
    ("PersistentVolumeClaim/models", "spec.resources.requests.storage", "-5Gi", "spec.resources[storage]"),
    ("ConfigMap/sensorlib-settings", "data.SENSORLIB_POLL_S", 60, ""),
    ("RoleBinding/influxdb-setup", "roleRef.kind", "Rolle", ""),
    ("NetworkPolicy/scraper", "spec.policyTypes", ["Outgress"], ""),
    ("NetworkPolicy/names", "spec.egress[0].ports[0].protocol", "ICMP", ""),
    ("KafkaTopic/sensor.raw", "spec.partitions", 0, ""),
    ("KafkaTopic/sensor.raw", "spec.partitions", Renamed("partition"), "spec.partition"),
    ("KafkaUser/scraper", "spec.authentication.type", "scram-sha-256", ""),
    ("Kafka/sensorlib", "apiVersion", "kafka.strimzi.io/v2", 'version "kafka.strimzi.io/v2"'),
    ("Kafka/sensorlib", "spec.kafka.listeners[0].type", "outside", ""),
    ("KafkaNodePool/nodes", "spec.roles", ["leader"], ""),
    ("FlinkDeployment/stream", "spec.flinkVersion", "v2_9", ""),
    ("FlinkDeployment/stream", "spec.job.upgradeMode", "careful", ""),
    ("FlinkDeployment/stream", "spec.job.parallelism", "two", ""),
]


@pytest.mark.parametrize(("name", "field", "value", "answer"), MUTATIONS, ids=lambda part: str(part).replace(" ", "_"))
def test_the_server_refuses_one_wrong_field(
    cluster: Cluster, name: str, field: str, value: object, answer: str
) -> None:
    ran = cluster.dry_run([changed(named(objects(), name), field, value)])
    assert ran.returncode == 1 and not ran.stdout, "the server took it"
    assert (answer or field) in ran.stderr


EVERY_MINUTE = "CronJob/predict-temperature"


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    "Minikube's overlay with Kubernetes' controllers at work and a played node; one schedule is every minute, the rest as it is."
    if os.environ.get("KWOK") != "1":
        pytest.skip("Kubernetes' controllers take up to 90 s: KWOK=1 has them run")
    with running_apiserver(needed_programs(), tmp_path_factory.mktemp("acting")) as cluster, played_nodes(cluster):
        often = named(objects(), EVERY_MINUTE)
        kept = [one for one in objects() if one != often]
        cluster.apply([*kept, changed(often, "spec.schedule", "* * * * *")])
        yield cluster


def test_every_part_reaches_its_replicas(acting: Cluster) -> None:
    acting.done("scale", "deployment/collector", "--replicas=3")
    parts = [
        f"{one['kind']}/{one['metadata']['name']}" for one in objects() if one["kind"] in ("Deployment", "StatefulSet")
    ]
    for part in parts:
        acting.done("rollout", "status", part, f"--timeout={PATIENCE_S}s")
    replicas = {part: acting.get(part)["status"]["readyReplicas"] for part in parts}
    assert replicas == {**dict.fromkeys(parts, 1), "Deployment/collector": 3}


@pytest.mark.parametrize(("name", "replicas"), [("scraper", 1), ("collector", 3)])
def test_a_disruption_budget_counts_healthy_pods(acting: Cluster, name: str, replicas: int) -> None:
    def counted() -> bool:
        status = acting.get(f"poddisruptionbudget/{name}")["status"]
        return (status["expectedPods"], status["currentHealthy"], status["disruptionsAllowed"]) == (
            replicas,
            replicas,
            1,
        )

    wait_until(f"the budget of {name} counts {replicas} healthy pods and allows one to go", counted)


def test_a_cron_job_fires_and_ends_well(acting: Cluster) -> None:
    def status() -> Object:
        return acting.get(EVERY_MINUTE)["status"]

    wait_until("the job ran once", lambda: "lastSuccessfulTime" in status(), patience_s=75)
    assert status()["lastScheduleTime"].endswith(":00Z")
