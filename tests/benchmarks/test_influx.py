"""From Kafka to InfluxDB, beside Telegraf and beside bare HTTP, on the same messages and the same server in one run.

`python -m pytest tests/benchmarks -k telegraf -s` prints rows per second and per CPU second of each, and the ratios.
`SENSORLIB_BENCH_ROWS` chooses how many. Telegraf is built from its Go module, which needs Go; without it the run is skipped.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from confluent_kafka.admin import AdminClient
from influx import Influx, influxd_command, needed_influxd, start_influxd, wait_until_healthy
from msgspec.structs import replace

from sensorlib.bus import Outbox
from sensorlib.core import KIND_TOPICS, Reading, format_time
from sensorlib.feed import measurements
from sensorlib.influx import line_protocol
from sensorlib.local import Part, start_broker, start_part, wait_for_topics
from sensorlib.places import enrich
from sensorlib.quality import judge
from sensorlib.simulate import make_city, records

ROWS = int(os.environ.get("SENSORLIB_BENCH_ROWS", 400_000))
BATCH = 5_000
TELEGRAF = "github.com/influxdata/telegraf/cmd/telegraf@v1.39.3"
CONFIG = """
[agent]
  interval = "1s"
  flush_interval = "1s"
  metric_batch_size = 5000
  metric_buffer_limit = 100000
  omit_hostname = true
[[outputs.influxdb_v2]]
  urls = ["{server}"]
  token = "$SENSORLIB_INFLUX_TOKEN"
  organization = "{org}"
  bucket = "{bucket}"
  content_encoding = "gzip"
[[inputs.kafka_consumer]]
  brokers = ["{brokers}"]
  kafka_version = "4.0.0" # without it, the client loops on the end of the log
  topics = [{topics}]
  consumer_group = "telegraf"
  offset = "oldest"
  max_undelivered_messages = 20000
  data_format = "json_v2"
  [[inputs.kafka_consumer.json_v2]]
    measurement_name_path = "kind"
    timestamp_path = "ts"
    timestamp_format = "2006-01-02T15:04:05Z07:00"
{tags}{fields}"""


def config(server: "Server", brokers: str, bucket: str) -> str:
    tags = ("country", "location_id", "place", "sensor_id", "sensor_type", "value_type")
    part = '    [[inputs.kafka_consumer.json_v2.{0}]]\n      path = "{1}"\n      optional = true\n'
    told = {
        "tags": "".join(part.format("tag", tag) for tag in tags),
        "fields": "".join(part.format("field", field) for field in ("value", "qc", "lat", "lon", "indoor")),
        "topics": ", ".join(f'"{topic}"' for topic in KIND_TOPICS),
    }
    return CONFIG.format(server=server.told.address, org=server.told.org, bucket=bucket, brokers=brokers, **told)


@dataclass
class Server:
    "An influxd that can be killed and started again."

    told: Influx
    program: str
    folder: Path
    part: Part

    def restart(self) -> None:
        self.part = start_part("influxd", influxd_command(self.program, self.told.address, self.folder), self.folder)
        wait_until_healthy(self.told.address, self.part.process, self.part.log_file)

    def points(self) -> int:
        "Points that were written since the server started."
        found = re.search(
            r"^storage_writer_ok_points_sum\{[^}]*\} (\S+)$", httpx.get(self.told.address + "/metrics").text, re.M
        )
        return int(float(found[1])) if found else 0

    def cpu_s(self) -> float:
        return sum(psutil.Process(self.part.process.pid).cpu_times()[:2])

    def count(self, bucket: str, field: str) -> int:
        "Rows of a bucket that have a field whose name ends so."
        answer = httpx.post(
            f"{self.told.address}/api/v2/query?org={self.told.org}",
            headers={"Authorization": f"Token {self.told.token}", "Content-Type": "application/vnd.flux", "Accept": "application/csv"},
            content=f'from(bucket: "{bucket}") |> range(start: 2020-01-01T00:00:00Z) |> filter(fn: (r) => r._field =~ /{field}$/)'
            " |> count() |> group() |> sum()",
            timeout=120,
        )  # fmt: skip
        numbers = [line.rsplit(",", 1)[-1] for line in answer.raise_for_status().text.splitlines() if line.strip()]
        return int(numbers[-1]) if len(numbers) > 1 else 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, program = tmp_path_factory.mktemp("influxd"), needed_influxd()
    told, part = start_influxd(program, folder, folder)
    told.set_up()
    server = Server(told, program, folder, part)
    yield server
    server.part.stop()


@pytest.fixture(scope="module")
def telegraf() -> Path:
    "Telegraf with nothing but what is compared here."
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensorlib"
    program = cache / "telegraf"
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not program.exists():
        if not go:
            pytest.skip("no Telegraf: it is built with Go, which is not on PATH")
        tags = "custom,inputs.kafka_consumer,outputs.influxdb_v2,parsers.json_v2"
        command = [go, "install", "-p", "2", "-ldflags", "-s -w", "-tags", tags, TELEGRAF]
        subprocess.run(command, check=True, env={**os.environ, "GOBIN": str(cache), "CGO_ENABLED": "0"})
    return program


@pytest.fixture(scope="module")
def readings() -> list[Reading]:
    "What 4,000 sensors say, as often as it takes to have enough of it; no key twice."
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = records(make_city(4000, seed=1), start, start + timedelta(minutes=5))
    judged = judge(measurements(enrich(record, "2026-06-01T00:00:00Z") for record in made))
    named = [name for name in Reading.__struct_fields__ if name in judged]
    rows = judged[named].astype(object).where(judged[named].notna(), None).to_dict("records")
    hour = [Reading(**{**row, "ts": row["ts"].to_pydatetime()}) for row in rows]
    rounds = -(-ROWS // len(hour))
    return [replace(r, ts=r.ts + timedelta(minutes=5 * n)) for n in range(rounds) for r in hour][:ROWS]


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory, readings: Sequence[Reading]) -> Iterator[str]:
    "A broker that has the readings on its topics, as the stream writes them."
    folder = tmp_path_factory.mktemp("kafka")
    broker, address = start_broker(folder, folder)
    wait_for_topics(broker, address, partitions=4)
    outbox = Outbox(address)
    for r in readings:
        told = {name: getattr(r, name) for name in Reading.__struct_fields__ if getattr(r, name) is not None}
        body = json.dumps({**told, "ts": format_time(r.ts)}).encode()
        outbox.send(f"sensor.{r.kind}", str(r.sensor_id), body)
    outbox.flush()
    yield address
    broker.stop()


def bare_http(server: Server, bucket: str, bodies: Sequence[bytes], connections: int) -> None:
    "Write prepared requests as fast as the server takes them."
    told = server.told
    url = f"{told.address}/api/v2/write?org={told.org}&bucket={bucket}&precision=s"
    headers = {"Authorization": f"Token {told.token}", "Content-Encoding": "gzip"}
    with httpx.Client(headers=headers, timeout=60) as client, ThreadPoolExecutor(connections) as pool:
        for answer in pool.map(lambda body: client.post(url, content=body), bodies):
            assert answer.status_code == 204, answer.text


@contextmanager
def made_bucket(server: Server) -> Iterator[str]:
    with server.told.bucket() as url:
        yield url.rpartition("=")[2]


def collector(server: Server, brokers: str, bucket: str) -> tuple[list[str | Path], dict[str, str]]:
    store = f"{server.told.address.replace('http', 'influxdb')}?org={server.told.org}&bucket={bucket}"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sensorlib.cli",
        "collect",
        "--brokers",
        brokers,
        "--store",
        store,
    ]
    return command, {"SENSORLIB_INFLUX_TOKEN": server.told.token}


def rival(server: Server, brokers: str, bucket: str, program: Path) -> tuple[list[str | Path], dict[str, str]]:
    file = server.folder / "telegraf.conf"
    file.write_text(config(server, brokers, bucket))
    return [program, "--config", file], {"SENSORLIB_INFLUX_TOKEN": server.told.token}


@dataclass(frozen=True)
class Run:
    "How a way of writing did."

    wall_s: float
    cpu_s: float  # Its own
    server_cpu_s: float

    def __str__(self) -> str:
        told = f"{ROWS / self.wall_s:>9,.0f} rows/s"
        own = f"{ROWS / self.cpu_s:>9,.0f} rows per CPU s of its own" if self.cpu_s else " " * 35
        return f"{told}, {own}, {ROWS / self.server_cpu_s:>9,.0f} per CPU s of InfluxDB"


def timed(server: Server, part: Part) -> Run:
    "Wait until a process has written every row, from its first write on."
    before, process = server.points(), psutil.Process(part.process.pid)
    server_before = server.cpu_s()
    while server.points() == before:
        part.check()
        time.sleep(0.02)
    began, spent = time.monotonic(), sum(process.cpu_times()[:2])
    first = server.points() - before
    while (written := server.points() - before) < ROWS:
        part.check()
        assert time.monotonic() - began < 300, f"{written} of {ROWS} rows"
        time.sleep(0.2)
    share = (ROWS - first) / ROWS  # the first batches were there when the clock started
    wall_s, cpu_s = time.monotonic() - began, sum(process.cpu_times()[:2]) - spent
    return Run(wall_s / share, cpu_s / share, server.cpu_s() - server_before)


def forget_offsets(brokers: str, group: str) -> None:
    "Let a group begin anew."
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_consumer_groups([group]).values():
        future.result()


def written_by(server: Server, start: Callable[[str], tuple[list[str | Path], dict[str, str]]], field: str) -> Run:
    "Let a program write everything into a bucket of its own."
    with made_bucket(server) as bucket:
        command, env = start(bucket)
        part = start_part("writer", command, server.folder, env)
        try:
            run = timed(server, part)
        finally:
            part.stop()
        assert server.count(bucket, field) == ROWS
        return run


def test_collector_against_telegraf_and_bare_http(
    server: Server, telegraf: Path, brokers: str, readings: Sequence[Reading]
) -> None:
    runs: dict[str, Run] = {}
    bodies = [
        gzip.compress(line_protocol(readings[at : at + BATCH]).encode(), compresslevel=1)
        for at in range(0, ROWS, BATCH)
    ]
    for connections in (1, 4):
        with made_bucket(server) as bucket:
            began, spent = time.monotonic(), server.cpu_s()
            bare_http(server, bucket, bodies, connections)
            runs[f"bare HTTP, {connections} at a time"] = Run(time.monotonic() - began, 0.0, server.cpu_s() - spent)
    for name, start, group, field in (
        ("sensorlib collect", lambda bucket: collector(server, brokers, bucket), "sensorlib-collect", "_qc"),
        ("Telegraf", lambda bucket: rival(server, brokers, bucket, telegraf), "telegraf", "value"),
    ):
        runs[name] = written_by(server, start, field)
        forget_offsets(brokers, group)
    show(runs)
    assert runs["sensorlib collect"].wall_s <= runs["Telegraf"].wall_s


def show(runs: Mapping[str, Run]) -> None:
    print()
    for name, run in runs.items():
        print(f"{name:>24}: {run}")
    ours, limit = runs["sensorlib collect"].wall_s, min(run.wall_s for name, run in runs.items() if "HTTP" in name)
    print(f"{'collect':>24}: {runs['Telegraf'].wall_s / ours:.2f} times Telegraf, {limit / ours:.2f} of bare HTTP")


@pytest.mark.parametrize("who", ["sensorlib collect", "Telegraf"])
def test_telegraf_and_collector_lose_nothing_when_influxdb_is_killed(
    server: Server, telegraf: Path, brokers: str, who: str
) -> None:
    ours = who == "sensorlib collect"
    with made_bucket(server) as bucket:
        command, env = collector(server, brokers, bucket) if ours else rival(server, brokers, bucket, telegraf)
        part, field = start_part("writer", command, server.folder, env), "_qc" if ours else "value"
        try:
            before = server.points()
            while server.points() - before < ROWS // 4:
                time.sleep(0.02)
            server.part.process.kill()
            server.part.process.wait()
            time.sleep(20)
            server.restart()
            began, stored = time.monotonic(), 0
            while stored < ROWS and time.monotonic() - began < 120:
                time.sleep(2)
                stored = server.count(bucket, field)
        finally:
            part.stop()
        print(f"\n{who}: {ROWS} rows sent, {stored} stored, InfluxDB away for 20 s in the middle")
        forget_offsets(brokers, "sensorlib-collect" if ours else "telegraf")
        if ours:
            assert stored == ROWS
