"""The data path as a cluster runs it: users with passwords, TLS and the ACLs of the manifests, and Flink in application mode."""

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka.admin as kafka
import httpx
import pyflink
import pytest
import yaml
from confluent_kafka import Consumer, Producer

from influx import influxd_program, running_influxd
from waiting import wait_until as wait

from sensorlib.bus import TOPICS, Access, client_settings, dead_letter
from sensorlib.influx import influx_address
from sensorlib.local import Part, free_ports, start_broker, start_part, wait_for_topics
from sensorlib.provision import provision
from sensorlib.simulate import make_city, records
from sensorlib.store import open_store
from sensorlib.stream import fetch_jars, java_home

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "k8s" / "base"
USERS = {
    one["metadata"]["name"]: one["spec"] for one in yaml.safe_load_all((BASE / "kafka" / "users.yaml").read_text())
}
SENSORLIB = Path(sys.executable).with_name("sensorlib")
PATIENCE_S = 180.0
wait_until = partial(wait, patience_s=PATIENCE_S)


@dataclass(frozen=True)
class Bus:
    "A broker that lets nobody in without a password."

    address: str  # For those who log in, over TLS
    admin: str  # For us alone
    ca: Path
    passwords: dict[str, Path]  # User -> file

    def env(self, user: str) -> dict[str, str]:
        "Environment of a part."
        return {
            "SENSORLIB_BROKERS": self.address,
            "SENSORLIB_KAFKA_USER": user,
            "SENSORLIB_KAFKA_PASSWORD_FILE": str(self.passwords[user]),
            "SENSORLIB_KAFKA_CA_FILE": str(self.ca),
        }

    def client(self, user: str) -> dict[str, Any]:
        "Settings of a client that is a part."
        return client_settings(self.address, Access(user, self.passwords[user].read_text(), "", str(self.ca)))


def certificate(folder: Path) -> tuple[Path, Path]:
    "Make a certificate for this machine, and the file with its key that the broker wants."
    key, ca, both = folder / "key.pem", folder / "ca.pem", folder / "broker.pem"
    if not shutil.which("openssl"):
        pytest.skip("no openssl on PATH: apt-get install openssl")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(ca)]
    subprocess.run(words, check=True, capture_output=True)
    both.write_text(key.read_text() + ca.read_text())
    return ca, both


def acls(user: str) -> list[kafka.AclBinding]:
    "Rules of a user, as Strimzi makes them of the manifest."
    kinds = {"topic": kafka.ResourceType.TOPIC, "group": kafka.ResourceType.GROUP}
    found = []
    for rule in USERS[user]["authorization"]["acls"]:
        what = rule["resource"]
        pattern = kafka.ResourcePatternType["PREFIXED" if what.get("patternType") == "prefix" else "LITERAL"]
        for operation in rule["operations"]:
            told = kafka.AclOperation[operation.upper()]
            who = f"User:{user}"
            binding = (kinds[what["type"]], what["name"], pattern, who, "*", told, kafka.AclPermissionType.ALLOW)
            found.append(kafka.AclBinding(*binding))
    return found


def let_in(bus: Bus) -> None:
    "Make the users, and allow them what the manifests say."
    admin = kafka.AdminClient({"bootstrap.servers": bus.admin})
    info = kafka.ScramCredentialInfo(kafka.ScramMechanism.SCRAM_SHA_512, 4096)
    made = [kafka.UserScramCredentialUpsertion(user, info, file.read_bytes()) for user, file in bus.passwords.items()]
    waiting = [*admin.alter_user_scram_credentials(made).values()]
    waiting += [done for user in bus.passwords for done in admin.create_acls(acls(user)).values()]
    for done in waiting:
        done.result(30)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    folder = tmp_path_factory.mktemp("broker")
    ca, both = certificate(folder)
    part, admin = start_broker(folder, folder)
    part.stop()
    (secure,) = free_ports(1)
    properties = folder / "server.properties"
    told = properties.read_text().replace(f"PLAINTEXT://{admin}", f"PLAINTEXT://{admin},SASL_SSL://127.0.0.1:{secure}")
    told += f"""listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={both}
"""
    properties.write_text(told)
    part = start_part("broker", part.process.args, folder)
    passwords = {user: folder / user / "password" for user in USERS}
    for file in passwords.values():
        file.parent.mkdir()
        file.write_text(secrets.token_hex(16))
    try:
        wait_for_topics(part, admin)
        made = Bus(f"127.0.0.1:{secure}", admin, ca, passwords)
        let_in(made)
        yield made
    finally:
        part.stop()


def refusal(bus: Bus, user: str, topic: str) -> str:
    "Why a user may not write to a topic; empty: it may."
    told: list[Any] = []
    producer = Producer({**bus.client(user), "error_cb": told.append, "message.timeout.ms": 20_000})
    producer.produce(topic, b"{}", on_delivery=lambda error, _: told.append(error))
    producer.flush(30)
    return " ".join(str(one) for one in told if one is not None)


WRITES = {"scraper": {"sensor.raw", "sensor.completeness"}, "stream": {*TOPICS}, "collector": {"sensor.dead"}}


@pytest.mark.parametrize("user", USERS)
def test_each_part_writes_where_it_should_and_nowhere_else(bus: Bus, user: str) -> None:
    refused = {
        topic: refusal(bus, user, topic)
        for topic in ("sensor.raw", "sensor.completeness", "sensor.noise", "sensor.dead")
    }
    assert {topic for topic, why in refused.items() if not why} == WRITES[user] & {*refused}
    assert all("authorization failed" in why.lower() for why in refused.values() if why)


def first_word(bus: Bus, user: str, group: str, topic: str) -> str:
    "What a reader of a topic with a message in it hears first: why it may not, or nothing but the message."
    sender = Producer({"bootstrap.servers": bus.admin})
    sender.produce(topic, b"{}")
    assert sender.flush(30) == 0
    reader = Consumer({**bus.client(user), "group.id": group, "auto.offset.reset": "earliest"})
    with closing(reader):
        reader.subscribe([topic])
        message = reader.poll(60)
        assert message is not None
        return "" if message.error() is None else message.error().name()


@pytest.mark.parametrize(
    ("user", "group", "topic", "told"),
    [
        ("scraper", "sensorlib-collect", "sensor.raw", "GROUP_AUTHORIZATION_FAILED"),
        ("collector", "sensorlib-stream", "sensor.noise", "GROUP_AUTHORIZATION_FAILED"),
        ("stream", "sensorlib-stream", "sensor.noise", "TOPIC_AUTHORIZATION_FAILED"),
        ("collector", "sensorlib-collect", "sensor.noise", ""),
        ("stream", "sensorlib-stream", "sensor.raw", ""),
    ],
)
def test_each_part_reads_what_it_should_and_nothing_else(
    bus: Bus, user: str, group: str, topic: str, told: str
) -> None:
    assert first_word(bus, user, group, topic) == told


def test_with_a_wrong_password_a_part_is_not_ready_and_says_why(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    env = {**bus.env("collector"), "SENSORLIB_KAFKA_PASSWORD_FILE": str(tmp_path / "password")}
    words = [SENSORLIB, "collect", "--store", f"sqlite:///{tmp_path}/readings.db", "--listen", ""]
    part = start_part("collector", words, tmp_path, env)
    wait_until("it is not ready", lambda: "not ready: no broker answers" in part.log_file.read_text(), parts=[part])
    part.stop()
    assert "invalid credentials" in part.log_file.read_text()


def test_the_runbook_reads_dead_letters_as_the_collector(bus: Bus) -> None:
    sender = Producer({"bootstrap.servers": bus.admin})
    sender.produce("sensor.dead", dead_letter("reading", b"what came", topic="sensor.noise"))
    assert sender.flush(30) == 0
    runbook = (ROOT / "k8s" / "RUNBOOK.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"python - <<'END'\n(.*?\n) +END\n", runbook, re.DOTALL)
    env = {**os.environ, **bus.env("collector")}
    ran = subprocess.run([sys.executable, "-"], input=textwrap.dedent(script), env=env, capture_output=True, text=True)
    assert base64.b64encode(b"what came").decode() in ran.stdout, ran.stderr


# Flink as its operator starts it: the same program, entry, arguments and settings, but for what names Kubernetes or a volume.
(MANIFEST,) = (
    one["spec"]
    for one in yaml.safe_load_all((BASE / "flink" / "flink.yaml").read_text())
    if one["kind"] == "FlinkDeployment"
)
PYTHON = "/opt/sensorlib/bin/python"


@dataclass
class Flink:
    "A job manager that runs one job, and its task manager."

    home: Path
    rest: int
    metrics: tuple[int, int]
    parts: list[Part] = field(default_factory=list)

    def ask(self, path: str, **told: Any) -> Any:
        "Ask the job manager; with something to tell it, by POST."
        url = f"http://127.0.0.1:{self.rest}{path}"
        answer = httpx.post(url, json=told) if told else httpx.get(url)
        return answer.raise_for_status().json()

    def job(self) -> str:
        "Number of the job, once it runs; empty before."
        try:
            jobs = self.ask("/jobs")["jobs"]
        except httpx.HTTPError:
            return ""
        return jobs[0]["id"] if jobs and jobs[0]["status"] == "RUNNING" else ""

    def start(self, bus: Bus, *more: str) -> str:
        "Start both, and wait for the job."
        job, env = MANIFEST["job"], {**bus.env("stream"), "FLINK_HOME": str(self.home), "JAVA_HOME": str(java_home())}
        args = [
            {PYTHON: sys.executable, "/opt/flink/usrlib/job.py": str(ROOT / "flink" / "job.py")}.get(a, a)
            for a in job["args"]
        ]
        logs = self.home / "log"
        manager = ["standalone-job.sh", "start-foreground", "--job-classname", job["entryClass"], *more, *args]
        for name, (script, *words) in {
            "jobmanager": manager,
            "taskmanager": ["taskmanager.sh", "start-foreground"],
        }.items():
            self.parts.append(start_part(name, [self.home / "bin" / script, *words], logs, env))
        wait_until("the job runs", self.job, parts=self.parts)
        return self.job()

    def stop(self) -> None:
        while self.parts:
            self.parts.pop().stop()

    def stopped_with_savepoint(self) -> str:
        "Stop the job as an upgrade does; where its savepoint lies."
        job = self.job()
        trigger = self.ask(f"/jobs/{job}/stop", targetDirectory=(self.home / "savepoints").as_uri(), drain=False)
        path, found = f"/jobs/{job}/savepoints/{trigger['request-id']}", {}

        def is_done() -> bool:
            found.update(self.ask(path))
            return found["status"]["id"] == "COMPLETED"

        wait_until("the savepoint is written", is_done)
        self.stop()
        return str(found["operation"]["location"])


def flink_home(folder: Path, rest: int, rpc: int, metrics: tuple[int, int]) -> Path:
    "Lay Flink out as in its image, with the settings of the manifest."
    wheel, home = Path(pyflink.__file__).parent, folder / "flink"
    (home / "conf").mkdir(parents=True)
    (home / "plugins").mkdir()
    shutil.copytree(wheel / "bin", home / "bin")
    shutil.copytree(wheel / "opt", home / "opt", copy_function=os.symlink)
    (home / "plugins" / "metrics-prometheus").symlink_to(wheel / "plugins" / "metrics-prometheus")
    shutil.copytree(wheel / "lib", home / "lib", copy_function=os.symlink)
    for jar in fetch_jars("connector"):
        (home / "lib" / jar.name).symlink_to(jar)
    shutil.copy(wheel / "conf" / "log4j-console.properties", home / "conf")
    told = {
        name: value
        for name, value in MANIFEST["flinkConfiguration"].items()
        if not name.startswith(("kubernetes.", "high-"))
    }
    told = {name: value.replace("/checkpoints/", f"{home}/") for name, value in told.items()}
    told |= {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "jobmanager.memory.process.size": MANIFEST["jobManager"]["resource"]["memory"],
        "taskmanager.memory.process.size": MANIFEST["taskManager"]["resource"]["memory"],
        "parallelism.default": MANIFEST["job"]["parallelism"],
        "rest.port": rest,
        "metrics.reporter.prom.port": ",".join(map(str, metrics)),
    }
    (home / "conf" / "config.yaml").write_text(yaml.safe_dump(told))
    return home


def test_flink_may_open_what_its_own_settings_open() -> None:
    own = yaml.safe_load((Path(pyflink.__file__).parent / "conf" / "config.yaml").read_text())
    assert MANIFEST["flinkConfiguration"]["env.java.opts.all"] == own["env"]["java"]["opts"]["all"]


@pytest.fixture
def flink(tmp_path: Path) -> Iterator[Flink]:
    rest, rpc, *metrics = free_ports(4)
    made = Flink(flink_home(tmp_path, rest, rpc, (metrics[0], metrics[1])), rest, (metrics[0], metrics[1]))
    try:
        yield made
    finally:
        made.stop()


def metric_names(flink: Flink) -> set[str]:
    found = [httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines() for port in flink.metrics]
    return {line.split("{")[0].split()[0] for lines in found for line in lines if line.startswith("flink_")}


def scrape(bus: Bus, made: list[dict[str, Any]], file: Path) -> None:
    "Send records as the scraper does."
    file.write_text("".join(json.dumps(record) + "\n" for record in made), encoding="utf-8")
    words = [SENSORLIB, "scrape", "--source", str(file), "--listen", ""]
    subprocess.run(words, env={**os.environ, **bus.env("scraper")}, check=True, timeout=PATIENCE_S)


def asked_of_flink() -> set[str]:
    "Names of Flink's metrics in dashboards and alert rules."
    files = [file for file in (BASE / "grafana").rglob("*") if file.suffix in (".json", ".yaml")]
    return {name for file in files for name in re.findall(r"\bflink_\w+", file.read_text(encoding="utf-8"))}


@pytest.fixture
def store_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    "Settings of a store: InfluxDB with a token for each part, where there is one; else SQLite."
    program, tokens = influxd_program(), tmp_path / "tokens"
    if not program:
        yield {"SENSORLIB_STORE": f"sqlite:///{tmp_path}/readings.db"}
        return
    with running_influxd(program, tmp_path / "influxd") as server:
        url = f"{server.address.replace('http', 'influxdb')}?org={server.org}&bucket=readings"
        provision(influx_address(url), server.token, tokens)
        monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN_FILE", str(tokens / "page.token"))
        yield {"SENSORLIB_STORE": url, "SENSORLIB_INFLUX_TOKEN_FILE": str(tokens / "collect.token")}


def smoke(bus: Bus, store_env: dict[str, str], folder: Path) -> str:
    "Run the smoke test as its job does; what it prints."
    tokens = folder / "tokens"
    told = {
        "SENSORLIB_INFLUX_TOKEN_FILE": str(tokens / "page.token"),
        "DELETE_TOKEN_FILE": str(tokens / "collect.token"),
    }
    path = {"PATH": f"{SENSORLIB.parent}{os.pathsep}{os.environ['PATH']}"}
    env = {**os.environ, **bus.env("scraper"), **store_env, **told, **path}
    script = ROOT / "k8s" / "smoke" / "smoke.py"
    ran = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_data_path_runs_as_on_a_cluster_and_goes_on_after_an_upgrade(
    bus: Bus, flink: Flink, store_env: dict[str, str], tmp_path: Path
) -> None:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    made = records(make_city(8, seed=3), end - timedelta(hours=3), end)
    half = len(made) // 2
    values = sum(len(record["sensordatavalues"]) for record in made)
    words = [SENSORLIB, "collect", "--listen", ""]
    collector = start_part("collector", words, tmp_path, bus.env("collector") | store_env)
    try:
        with closing(open_store(store_env["SENSORLIB_STORE"])) as store:
            flink.start(bus)
            scrape(bus, made[:half], tmp_path / "first.ndjson")
            wait_until("much of it is stored", lambda: sum(store.counts().values()) >= values // 3, parts=[collector])
            savepoint = flink.stopped_with_savepoint()
            scrape(bus, made[half:], tmp_path / "second.ndjson")
            job = flink.start(bus, "--fromSavepoint", savepoint)
            wait_until("all is stored", lambda: sum(store.counts().values()) >= values, parts=[*flink.parts, collector])
            restored = flink.ask(f"/jobs/{job}/checkpoints")["latest"]["restored"]
            assert restored["is_savepoint"] and restored["external_path"] == savepoint
            assert sum(store.counts().values()) == values
            assert asked_of_flink() and asked_of_flink() <= metric_names(flink)
            if store_env["SENSORLIB_STORE"].startswith("influxdb:"):
                assert "and taken away again" in smoke(bus, store_env, tmp_path)
                assert sum(store.counts().values()) == values
    finally:
        collector.stop()
