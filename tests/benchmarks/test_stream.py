"""How fast the stream is, with and without the history of sensors, beside four other ways over the same messages in the same run.

`python -m pytest tests/benchmarks -k stream -s` prints records per CPU second of each, and the ratios. The messages
come in portions, each when the one before is through, as on a live topic: every part of a job works on every portion.
Java compiles for about a million messages; the figure is the median of the portions after that, and their range says
how sure it is.
"""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from statistics import median

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


def portions(job: psutil.Process, mode: str, brokers: str, messages: list[Message]) -> Iterator[float]:
    "Feed a job; yield records per CPU second of each portion."
    writer = Producer({"bootstrap.servers": brokers, "compression.type": "lz4", "linger.ms": 20})
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "progress"})
    topics = KIND_TOPICS if mode in ("ours", "record_local") else ("copy",)

    def written() -> int:
        return sum(reader.get_watermark_offsets(TopicPartition(topic, 0))[1] for topic in topics)

    source, expected = cycle(messages), written()
    for _ in range(PORTIONS):
        before = cpu_s(job)
        for value, key, value_types in islice(source, SIZES[mode]):
            while len(writer) > 90_000:
                writer.poll(0.01)
            writer.produce(mode, value, key)
            expected += messages_out(mode, value_types)
        writer.flush()
        while written() < expected:
            assert job.is_running() and job.status() != psutil.STATUS_ZOMBIE, f"{mode} ended"
            time.sleep(0.02)
        yield SIZES[mode] / (cpu_s(job) - before)


def steady(mode: str, brokers: str, messages: list[Message], folder: Path) -> list[float]:
    "Records per CPU second of the last portions, sorted."
    script = Path(__file__).with_name("passes.py")
    with (folder / f"{mode}.log").open("wb") as log:
        job = psutil.Popen([sys.executable, str(script), mode, brokers, mode], stdout=log, stderr=log, cwd=folder)
    try:
        return sorted(list(portions(job, mode, brokers, messages))[-SETTLED:])
    finally:
        for process in [*job.children(recursive=True), job]:
            process.terminate()
        job.wait(30)


def test_stream_against_other_ways(brokers: str, messages: list[Message], tmp_path: Path) -> None:
    rate: dict[str, float] = {}
    print()
    for mode in SIZES:
        rates = steady(mode, brokers, messages, tmp_path)
        rate[mode] = median(rates)
        told = f"{rate[mode]:>9,.0f} records per CPU second ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(f"{mode:>12}: {told}, {rate[mode] / rate['record_local']:.2f} times record_local", flush=True)
    assert rate["record_local"] >= 5 * rate["prototype"]
