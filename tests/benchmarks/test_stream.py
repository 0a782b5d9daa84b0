"""How fast the stream is, beside three other ways over the same messages in the same run.

`python -m pytest tests/benchmarks -k stream -s` prints records per CPU second of each, and the ratios.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from sensorlib.local import start_broker, wait_for_topics
from sensorlib.places import enrich
from sensorlib.simulate import make_city, records

SIZES = {"small": 100_000, "large": 400_000, "tiny": 3_000, "some": 40_000}
TOPICS = {
    "ours": ("small", "large"),
    "raw": ("small", "large"),
    "loop": ("small", "large"),
    "prototype": ("tiny", "some"),
}


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "A broker with the same records on topics of several sizes."
    folder = tmp_path_factory.mktemp("bench")
    broker, address = start_broker(folder / "kafka", folder)
    try:
        wait_for_topics(broker, address, partitions=1)
        made = [NewTopic(name, 1, 1) for name in ("copy", *SIZES)]
        admin = AdminClient({"bootstrap.servers": address})
        for future in admin.create_topics(made).values():
            future.result()
        fill(address)
        yield address
    finally:
        broker.stop()


def fill(address: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    hour = records(make_city(2000, seed=1), start, start + timedelta(minutes=30))
    texts = [(json.dumps(enrich(r, "2026-06-01T00:00:00Z")).encode(), str(r["sensor"]["id"])) for r in hour]
    writer = Producer(
        {
            "bootstrap.servers": address,
            "compression.type": "lz4",
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for topic, size in SIZES.items():
        for number in range(size):
            writer.produce(topic, *texts[number % len(texts)])
            writer.poll(0)
    writer.flush()


def records_per_cpu_s(mode: str, brokers: str, folder: Path) -> float:
    script = Path(__file__).with_name("passes.py")
    words = [sys.executable, str(script), mode, brokers, *TOPICS[mode]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=True)
    spent = json.loads(done.stdout.splitlines()[-1])
    small, large = (SIZES[topic] for topic in TOPICS[mode])
    return (large - small) / (spent["large"] - spent["small"])


def test_stream_against_other_ways(brokers: str, tmp_path: Path) -> None:
    rate: dict[str, float] = {}
    print()
    for mode in TOPICS:
        rate[mode] = records_per_cpu_s(mode, brokers, tmp_path)
        ratio = rate["ours"] / rate[mode]
        print(f"{mode:>10}: {rate[mode]:>9,.0f} records per CPU second, ours is {ratio:.2f} times that", flush=True)
    assert rate["ours"] >= 5 * rate["prototype"]
