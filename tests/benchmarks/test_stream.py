"""How fast the stream is, with and without history and neighbours, beside four other ways over the same messages in the same run.

`python -m pytest tests/benchmarks -k stream -s` prints records per CPU second of each, and the ratios. The messages
come in portions, each when the one before is through, as on a live topic: every part of a job works on every portion.
Java compiles for about a million messages; the figure is the median of the portions after that, and their range says
how sure it is.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sensorlib.core import KIND_TOPICS
from sensorlib.local import start_broker, wait_for_topics
from sensorlib.places import enrich
from sensorlib.simulate import make_city, records

from passes import BRANCHES

PORTIONS, SETTLED = 20, 8  # All, and those at the end that count
SIZES = {"record_local": 100_000, "ours": 60_000, "split": 200_000, "raw": 500_000, "loop": 400_000, "prototype": 8_000}
Message = tuple[bytes, str, list[str]]  # Value, key, value types


class Rate(NamedTuple):
    "How fast a portion went."

    records_per_cpu_s: float
    written_per_s: float  # Messages written, by the clock; the broker and this test run beside the job


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "A broker with a topic for each way."
    folder = tmp_path_factory.mktemp("bench")
    broker, address = start_broker(folder / "kafka", folder)
    try:
        wait_for_topics(broker, address, partitions=1)
        admin = AdminClient({"bootstrap.servers": address})
        for future in admin.create_topics([NewTopic(name, 1, 1) for name in ("copy", *SIZES)]).values():
            future.result()
        yield address
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    "Half an hour of records."
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = records(make_city(2000, seed=1), start, start + timedelta(minutes=30))
    return [
        (
            json.dumps(enrich(r, "2026-06-01T00:00:00Z")).encode(),
            str(r["sensor"]["id"]),
            [value["value_type"] for value in r["sensordatavalues"]],
        )
        for r in made
    ]


def messages_out(mode: str, value_types: list[str]) -> int:
    "Messages that a way writes for one record."
    if mode in ("raw", "loop"):
        return 1
    return sum(name in BRANCHES for name in value_types) if mode == "prototype" else len(value_types)


def cpu_s(job: psutil.Process) -> float:
    "CPU seconds of a process and everything below it."
    return sum(sum(p.cpu_times()[:4]) for p in [job, *job.children(recursive=True)])


def portions(
    job: psutil.Process, mode: str, brokers: str, messages: list[Message], count: int = PORTIONS
) -> Iterator[Rate]:
    "Feed a job; yield the rate of each portion."
    writer = Producer({"bootstrap.servers": brokers, "compression.type": "lz4", "linger.ms": 20})
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "progress"})
    topics = KIND_TOPICS if mode in ("ours", "record_local") else ("copy",)

    def written() -> int:
        return sum(reader.get_watermark_offsets(TopicPartition(topic, 0))[1] for topic in topics)

    source, expected = cycle(messages), written()
    for _ in range(count):
        before, began, values = cpu_s(job), time.monotonic(), expected
        for value, key, value_types in islice(source, SIZES[mode]):
            while len(writer) > 90_000:
                writer.poll(0.01)
            writer.produce(mode, value, key)
            expected += messages_out(mode, value_types)
        writer.flush()
        while written() < expected:
            assert job.is_running() and job.status() != psutil.STATUS_ZOMBIE, f"{mode} ended"
            time.sleep(0.02)
        passed_s = time.monotonic() - began
        yield Rate(SIZES[mode] / (cpu_s(job) - before), (expected - values) / passed_s)


@contextmanager
def running(mode: str, brokers: str, folder: Path, heap: str = "1g") -> Iterator[psutil.Process]:
    "One of the ways, as a process."
    script, env = Path(__file__).with_name("passes.py"), {**os.environ, "JVM_ARGS": f"-Xmx{heap} -XX:+UseSerialGC"}
    with (folder / f"{mode}.log").open("wb") as log:
        job = psutil.Popen(
            [sys.executable, str(script), mode, brokers, mode], stdout=log, stderr=log, cwd=folder, env=env
        )
    try:
        yield job
    finally:
        for process in [*job.children(recursive=True), job]:
            process.terminate()
        job.wait(30)


def steady(mode: str, brokers: str, messages: list[Message], folder: Path) -> list[float]:
    "Records per CPU second of the last portions, sorted."
    with running(mode, brokers, folder) as job:
        return sorted(rate.records_per_cpu_s for rate in list(portions(job, mode, brokers, messages))[-SETTLED:])


def test_stream_against_other_ways(brokers: str, messages: list[Message], tmp_path: Path) -> None:
    rate: dict[str, float] = {}
    print()
    for mode in SIZES:
        rates = steady(mode, brokers, messages, tmp_path)
        rate[mode] = median(rates)
        told = f"{rate[mode]:>9,.0f} records per CPU second ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(f"{mode:>12}: {told}, {rate[mode] / rate['record_local']:.2f} times record_local", flush=True)
    assert rate["record_local"] >= 5 * rate["prototype"]


def network(sensors: int) -> list[Message]:
    "Two reports each of many sensors: the same thousand in one town after the other."
    start, town = datetime(2026, 3, 1, tzinfo=UTC), make_city(1000, seed=1)
    made = records(town, start, start + timedelta(seconds=296))
    found: list[Message] = []
    for n in range(sensors // 1000):
        for r in made:
            ids = {"id": r["sensor"]["id"] + 1000 * n}, {"id": r["location"]["id"] + 1000 * n}
            place = {"latitude": f"{float(r['location']['latitude']) - n:.3f}"}
            moved = r | {"sensor": r["sensor"] | ids[0], "location": r["location"] | ids[1] | place}
            value_types = [value["value_type"] for value in r["sensordatavalues"]]
            found.append((json.dumps(enrich(moved, "2026-06-01T00:00:00Z")).encode(), str(ids[0]["id"]), value_types))
    return found


def test_stream_with_all_checks_grows_with_the_network(brokers: str, tmp_path: Path) -> None:
    "Kafka to Kafka on this machine, broker and sender beside it."
    speed: dict[int, float] = {}
    print()
    with running("ours", brokers, tmp_path, heap="4g") as job:
        for sensors in (1_000, 10_000, 50_000):
            rates = list(portions(job, "ours", brokers, network(sensors), 6 if speed else 14))[-4:]
            speed[sensors] = median(rate.written_per_s for rate in rates)
            memory = sum(p.memory_info().rss for p in [job, *job.children(recursive=True)]) / 2**30
            told = f"{speed[sensors]:>9,.0f} readings a second, {median(r.records_per_cpu_s for r in rates):,.0f} records per CPU second"
            print(f"{sensors:>7,} sensors: {told}, {memory:.1f} GB", flush=True)
    assert min(speed.values()) >= 8_000
