"""A real Kubernetes API server for tests, as `make apiserver` built it; without it the test is skipped."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from manifests import CRDS, KUBECTL, ROOT, Object
from waiting import built, wait_until

from sensorlib.local import Part, free_ports, start_part

NAMESPACE = "sensorlib"
PATIENCE_S = 60.0


def needed_programs() -> Path:
    "Folder with the programs that `make apiserver` built; the test is skipped where anything it needs is absent."
    programs = built("apiserver", "apiserver/go.sum", "apiserver/kwok.sum")
    if not programs:
        pytest.skip("no Kubernetes API server: run `make apiserver`")
    if not KUBECTL.exists():
        pytest.skip(f"no kubectl beside {sys.executable}: run `make setup`")
    if not CRDS.is_dir():
        pytest.skip("the definitions of Kafka's and Flink's objects (../shared/crds) are not on this machine")
    return programs


@dataclass(frozen=True)
class Cluster:
    "An API server, and what it takes to speak with it."

    programs: Path  # What `make apiserver` built
    folder: Path  # Its keys and logs
    port: int

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def kubectl(self, *words: str, objects: list[Object] | None = None) -> subprocess.CompletedProcess[str]:
        "Run kubectl, with objects on its standard input."
        return subprocess.run(
            [KUBECTL, f"--namespace={NAMESPACE}", *words],
            input="---\n".join(json.dumps(one) + "\n" for one in objects or []),
            env={**os.environ, "KUBECONFIG": str(self.config), "KUBECACHEDIR": str(self.folder / "cache")},
            capture_output=True,
            text=True,
        )

    def done(self, *words: str, objects: list[Object] | None = None) -> str:
        "Run kubectl, which has to succeed, and give what it printed."
        ran = self.kubectl(*words, objects=objects)
        assert ran.returncode == 0, f"kubectl {' '.join(words)}: {ran.stderr}"
        return ran.stdout

    def apply(self, objects: list[Object]) -> str:
        return self.done("apply", "--server-side", "--validate=strict", "--filename=-", objects=objects)

    def dry_run(self, objects: list[Object]) -> subprocess.CompletedProcess[str]:
        "Have the server judge objects as if it took them."
        words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
        return self.kubectl(*words, objects=objects)

    def get(self, what: str) -> Object:
        "An object, named as in deployment/scraper."
        return json.loads(self.done("get", what, "--output=json"))

    def write_config(self, token: str) -> None:
        "Write the file by which kubectl and the parts of the cluster find the server."
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "keys/apiserver.crt"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        self.config.write_text(json.dumps(config))

    def start(self, name: str, *flags: str) -> Part:
        "Start one of the programs."
        return start_part(name, [self.programs / name, *flags], self.folder / "logs")


def start_etcd(cluster: Cluster) -> tuple[Part, str]:
    "Start the API server's store, which loses everything with the machine."
    own, peers = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    part = cluster.start(
        "etcd",
        f"--data-dir={cluster.folder / 'etcd'}",
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
    )
    return part, own


def start_apiserver(cluster: Cluster, etcd: str) -> Part:
    "Start the API server; its own key, which it makes, signs the tokens of service accounts too."
    token = secrets.token_hex(16)
    keys, tokens = cluster.folder / "keys", cluster.folder / "tokens.csv"
    tokens.write_text(f"{token},test,test,system:masters\n")
    cluster.write_config(token)
    return cluster.start(
        "kube-apiserver",
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={cluster.port}",
        f"--cert-dir={keys}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        f"--service-account-issuer=https://127.0.0.1:{cluster.port}",
        f"--service-account-key-file={keys / 'apiserver.key'}",
        f"--service-account-signing-key-file={keys / 'apiserver.key'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",  # it would refuse a loopback address
    )


def is_ready(cluster: Cluster, server: Part) -> bool:
    server.check()
    return cluster.kubectl("get", "--raw=/readyz").stdout == "ok"


def prepare(cluster: Cluster) -> None:
    "Make our namespace, and the kinds of Strimzi and of Flink's operator."
    cluster.done(
        "apply", "--server-side", f"--filename={ROOT / 'k8s' / 'base' / 'namespace.yaml'}", f"--filename={CRDS}"
    )
    cluster.done("wait", "--for=condition=Established", f"--timeout={PATIENCE_S}s", "crd", "--all")


@contextmanager
def running_apiserver(programs: Path, folder: Path) -> Iterator[Cluster]:
    "Have an API server with our namespace and all kinds that we use, but nobody who acts on what it is told."
    cluster = Cluster(programs, folder, free_ports(1)[0])
    with ExitStack() as stack:
        etcd, address = start_etcd(cluster)
        stack.callback(etcd.stop)
        server = start_apiserver(cluster, address)
        stack.callback(server.stop)
        wait_until("the API server is ready", lambda: is_ready(cluster, server))
        prepare(cluster)
        yield cluster


@contextmanager
def played_nodes(cluster: Cluster) -> Iterator[None]:
    "Have Kubernetes' controllers and scheduler act, and kwok play one node, whose pods are ready at once, without images."
    quiet = [f"--kubeconfig={cluster.config}", "--leader-elect=false", "--secure-port=0"]
    stages = f"--config={cluster.programs / 'stages.yaml'}"
    with ExitStack() as stack:
        stack.callback(cluster.start("kube-controller-manager", *quiet).stop)
        stack.callback(cluster.start("kube-scheduler", *quiet).stop)
        lease = "--node-lease-duration-seconds=40"
        stack.callback(
            cluster.start("kwok", f"--kubeconfig={cluster.config}", stages, "--manage-all-nodes", lease).stop
        )
        cluster.apply(
            [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "played"}}, *(disk(n) for n in range(20))]
        )
        yield


def disk(number: int) -> Object:
    "A volume that any claim may have."
    spec = {"capacity": {"storage": "1Ti"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/none"}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"disk-{number}"}, "spec": spec}
