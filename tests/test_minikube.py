"""From an empty machine to dashboards by one command: the order of its steps, what it says when one fails, and that it can be run again."""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apiserver import Cluster, needed_programs, played_nodes, running_apiserver
from manifests import CRDS, KUBECTL, ROOT

PLAIN_TOOLS = (
    "awk base64 bash cat df dirname env getconf git grep head rm sed tail touch tr".split()
)  # all that there is beside
SCRIPT = ROOT / "k8s" / "minikube"
# Each tool writes down what it is asked for; what matches $FAIL fails. minikube knows the images that it was told to build.
MINIKUBE = """#!/usr/bin/env bash
echo "minikube $*" >>"$ASKED"
if [ -n "${FAIL:-}" ] && [[ "minikube $*" =~ $FAIL ]]; then exit 1; fi
case "$1 ${2:-}" in
  "status "*) [ -e "$ASKED.up" ] ;;
  "start "*) touch "$ASKED.up" ;;
  "delete "*) rm -f "$ASKED.up" ;;
  "kubectl "*) echo docker://29.1.0 ;;
  "image build") echo "$4" >>"$ASKED.images" ;;
  "image ls") cat "$ASKED.images" ;;
esac
"""
HELM = """#!/usr/bin/env bash
echo "helm $*" >>"$ASKED"
if [ -n "${FAIL:-}" ] && [[ "helm $*" =~ $FAIL ]]; then exit 1; fi
if [ -n "${CRDS:-}" ] && [ "$3" = strimzi ]; then kubectl apply --server-side --filename="$CRDS"; fi
"""
STUB_KUBECTL = """#!/usr/bin/env bash
echo "kubectl $*" >>"$ASKED"
if [ -n "${FAIL:-}" ] && [[ "kubectl $*" =~ $FAIL ]]; then exit 1; fi
case "$*" in
  *"get secret grafana-admin -o"*) printf c2VjcmV0 ;;
  *"get secret"*) [ -e "$ASKED.secret-${*: -1}" ] ;;
  *"create secret generic"*) [[ "$*" =~ generic\\ ([a-z-]+) ]] && cat >"$ASKED.secret-${BASH_REMATCH[1]}" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    "A machine with stand-ins for minikube and helm, and for kubectl unless there is a server."

    folder: Path

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def add(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        small = {"CPUS": "1", "MEMORY_GB": "1", "DISK_GB": "1", "HOME": str(self.folder)}
        for tool in PLAIN_TOOLS:
            link = self.folder / "bin" / tool
            if not link.exists():
                link.symlink_to(str(shutil.which(tool)))
        return subprocess.run(
            [SCRIPT, *words],
            env={"PATH": str(self.folder / "bin"), "ASKED": str(self.folder / "asked"), **small, **env},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name, text in (("minikube", MINIKUBE), ("helm", HELM), ("kubectl", STUB_KUBECTL)):
        made.add(name, text)
    return made


STEPS = (
    "minikube start",
    "kubectl .*namespace.yaml",
    "helm .* strimzi oci://quay.io/strimzi-helm/strimzi-kafka-operator --version=1.2.0",
    "helm .* flink-operator flink-kubernetes-operator --version=1.15.0",
    "kubectl .*create secret generic influxdb-admin",
    "kubectl .*create secret generic grafana-admin",
    "minikube image build .*sensorlib/services",
    "minikube image build .*sensorlib/flink",
    "kubectl .*delete job influxdb-setup",
    "kubectl .*apply .*--kustomize=.*/k8s/overlays/minikube",
    "kubectl .*wait .*kafka/sensorlib",
    "kubectl .*wait .*job/influxdb-setup",
    "kubectl .*wait .*RUNNING flinkdeployment/stream",
    "kubectl .*rollout status deployment/grafana",
    "kubectl .*apply .*--kustomize=.*/k8s/smoke",
    "kubectl .*wait .*Complete job/smoke",
)


def order(asked: list[str]) -> list[int]:
    "Place of each step among what was asked, -1 for one that was not."
    return [next((at for at, line in enumerate(asked) if re.match(step, line)), -1) for step in STEPS]


def test_one_command_goes_from_nothing_to_a_record_in_the_store(machine: Machine) -> None:
    ran = machine.run()
    assert ran.returncode == 0, ran.stderr
    places = order(machine.asked)
    assert -1 not in places and places == sorted(places)
    assert "port-forward service/grafana" in ran.stdout and "password: " in ran.stdout
    for part in ("1/11 ", "11/11", "Stream job", "It arrived."):
        assert part in ran.stdout


def test_run_again_it_makes_nothing_anew(machine: Machine) -> None:
    machine.run()
    before = len(machine.asked)
    secrets = {file.name: file.read_bytes() for file in machine.folder.glob("asked.secret-*")}
    assert machine.run().returncode == 0
    again = machine.asked[before:]
    assert not [line for line in again if "minikube start" in line or "create secret" in line]
    assert {file.name: file.read_bytes() for file in machine.folder.glob("asked.secret-*")} == secrets


def test_secrets_are_long_and_all_different_and_stand_in_no_command_line(machine: Machine) -> None:
    ran = machine.run()
    secrets = [file.read_text() for file in machine.folder.glob("asked.secret-*")]
    assert len(set(secrets)) == 4 and min(map(len, secrets)) == 32
    assert not [secret for secret in secrets if secret in ran.stdout + ran.stderr + "\n".join(machine.asked)]


@pytest.mark.parametrize("tool", ["minikube", "kubectl", "helm"])
def test_a_tool_that_is_missing_is_named_with_where_it_is(machine: Machine, tool: str) -> None:
    (machine.folder / "bin" / tool).unlink()
    ran = machine.run()
    assert ran.returncode == 1
    assert f"No {tool} on PATH: https://" in ran.stderr


@pytest.mark.parametrize(
    ("env", "says"),
    [({"CPUS": "4000"}, "CPUs"), ({"MEMORY_GB": "90000"}, "GB of memory"), ({"DISK_GB": "900000000"}, "are free in")],
)
def test_a_machine_that_is_too_small_is_told_so_before_anything_starts(
    machine: Machine, env: dict[str, str], says: str
) -> None:
    ran = machine.run(**env)
    assert ran.returncode == 1 and says in ran.stderr
    assert [line for line in machine.asked if "start" in line] == []


FAILURES = [
    ("minikube start", "minikube did not start"),
    ("namespace.yaml", "Kubernetes does not answer"),
    ("helm .*strimzi", "Is quay.io within reach?"),
    ("helm .*flink", "Is archive.apache.org within reach?"),
    ("minikube image build", "An image was not built"),
    ("kustomize=.*overlays", "did not take every object"),
    ("wait .*kafka/sensorlib", "Kafka is not there"),
    ("wait .*kafkatopic", "Topics and users is not there"),
    ("rollout status statefulset/redis", "Redis is not there"),
    ("rollout status statefulset/influxdb", "InfluxDB is not there"),
    ("job/influxdb-setup", "Buckets and tokens is not there"),
    ("flinkdeployment", "Stream job is not there"),
    ("deployment/scraper", "Scraper is not there"),
    ("deployment/collector", "Collector is not there"),
    ("statefulset/prometheus", "Prometheus is not there"),
    ("deployment/grafana", "Grafana is not there"),
    ("deployment/jupyter", "JupyterLab is not there"),
    ("wait .*job/smoke", "RUNBOOK.md"),
]


@pytest.mark.parametrize(("step", "says"), FAILURES)
def test_each_step_that_fails_says_what_to_do_and_the_next_try_goes_through(
    machine: Machine, step: str, says: str
) -> None:
    ran = machine.run(FAIL=step)
    assert ran.returncode == 1
    assert says in ran.stderr and "Everything runs" not in ran.stdout
    assert machine.run().returncode == 0


def test_delete_and_password_and_what_is_none(machine: Machine) -> None:
    assert machine.run("password").stdout == "secret\n"
    assert machine.run("delete").returncode == 0
    assert machine.asked[-1] == "minikube delete --profile=sensorlib"
    assert machine.run("frobnicate").returncode == 2
    assert "Usage:" in machine.run("--help").stdout


def test_shellcheck_finds_nothing() -> None:
    files = [SCRIPT, ROOT / "k8s" / "images" / "build", *sorted((ROOT / "tools").glob("*/build"))]
    try:
        ran = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no shellcheck on PATH: apt-get install shellcheck")
    assert ran.returncode == 0, ran.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if os.environ.get("KWOK") != "1":
        pytest.skip("Kubernetes' controllers take a minute: KWOK=1 has them run")
    with running_apiserver(needed_programs(), tmp_path / "server") as made, played_nodes(made):
        yield made


def play_operators(cluster: Cluster, stop: threading.Event) -> None:
    "Say of what the operators should make that it is made."
    ready = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    running = '{"status":{"jobStatus":{"state":"RUNNING"}}}'
    while not stop.wait(1.0):
        found = cluster.kubectl("get", "kafka,kafkatopic,kafkauser", "--output=name").stdout.split()
        for name in found:
            cluster.kubectl("patch", name, "--subresource=status", "--type=merge", f"--patch={ready}")
        cluster.kubectl("patch", "flinkdeployment/stream", "--subresource=status", "--type=merge", f"--patch={running}")


def test_a_real_kubernetes_takes_every_step(cluster: Cluster, tmp_path: Path) -> None:
    machine, stop = Machine(tmp_path), threading.Event()
    for name, text in (("minikube", MINIKUBE), ("helm", HELM)):
        machine.add(name, text)
    (machine.folder / "bin" / "kubectl").symlink_to(KUBECTL)
    operators = threading.Thread(target=play_operators, args=(cluster, stop))
    operators.start()
    try:
        env = {"KUBECONFIG": str(cluster.config), "MINIKUBE_PROFILE": "test", "PATIENCE_S": "120", "CRDS": str(CRDS)}
        first = machine.run(**env)
        assert first.returncode == 0, first.stdout + first.stderr
        made = {name: cluster.get(f"secret/{name}")["data"] for name in ("influxdb-admin", "grafana-admin")}
        time.sleep(1)
        again = machine.run(**env)
        assert again.returncode == 0, again.stdout + again.stderr
        assert {name: cluster.get(f"secret/{name}")["data"] for name in made} == made
    finally:
        stop.set()
        operators.join()
