"""The parts of the demo under somebody who starts again whatever has ended, as Kubernetes would."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from confluent_kafka import Consumer, TopicPartition

from sensorlib.bus import MAX_MESSAGE_BYTES
from sensorlib.core import KIND_TOPICS, Settings, read_status
from sensorlib.local import Part, start_broker, start_part, start_redis, start_service, topic_sizes, wait_for_topics

from .load import CityFeed
from .stores import Kept

POLL_S = 5.0
REST_S = 5.0  # a part is started again at once, but not twice within this time
SERVICES = {"scrape": ["--source", "live"], "stream": [], "collect": []}


@dataclass
class Machine:
    "Everything that runs, over one folder."

    folder: Path
    settings: Settings
    feed: CityFeed
    kept: Kept
    parts: dict[str, Part]
    started: dict[str, float]
    restarts: int = 0
    silent_s: float = 0.0  # Longest time in which nothing reached the store
    _moved: float = 0.0
    _received: object = None

    @property
    def logs(self) -> Path:
        "Folder of logs and status files."
        return self.folder / "logs"

    def start(self, name: str) -> None:
        "Start a service, or start any part again as it was."
        old = self.parts.get(name)
        if name in SERVICES:
            with patch.dict(os.environ, SENSORLIB_INFLUX_TOKEN=self.kept.token):
                self.parts[name] = start_service(name, SERVICES[name], self.settings, self.logs)
        elif old is not None:
            self.parts[name] = start_part(name, old.process.args, self.logs)  # type: ignore[arg-type]
        if name == "influxd":
            self.kept.part = self.parts[name]
        self.started[name] = time.monotonic()

    def begin_watch(self) -> None:
        "Count restarts and silence from now."
        self.restarts, self.silent_s, self._moved, self._received = 0, 0.0, time.monotonic(), None

    def step(self) -> None:
        "Start what has ended, and look whether anything arrives."
        now = time.monotonic()
        for name, part in list(self.parts.items()):
            if part.process.poll() is not None and now - self.started[name] > REST_S:
                self.start(name)
                self.restarts += 1
        received = read_status(self.logs / "collect.json").get("received")
        if received != self._received:
            self._received, self._moved = received, now
        self.silent_s = max(self.silent_s, now - self._moved)

    def processes(self, name: str) -> list[psutil.Process]:
        "A part, and its children after it."
        process = psutil.Process(self.parts[name].process.pid)
        return [process, *process.children(recursive=True)]

    def send(self, name: str, number: signal.Signals) -> None:
        "Send a signal to a part and its children."
        for process in self.processes(name):
            process.send_signal(number)

    def kill(self, *names: str) -> None:
        "Kill parts with all their children, at the same moment."
        for process in [process for name in names for process in self.processes(name)]:
            process.kill()

    def log_of(self, name: str) -> str:
        "What a part has written so far."
        return self.parts[name].log_file.read_text(errors="replace")

    def is_up(self) -> bool:
        "Whether all parts run, and the job too."
        running = all(part.process.poll() is None for part in self.parts.values())
        return running and read_status(self.logs / "stream.json").get("state") == "RUNNING"

    def ends(self) -> dict[str, int]:
        "Topic -> messages ever written to it."
        return topic_sizes(self.settings.brokers)

    def lag(self) -> int:
        "Readings on the topics that the collector has not finished with."
        reader = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": "sensorlib-collect"})
        try:
            ends, places = self.ends(), [TopicPartition(topic, 0) for topic in KIND_TOPICS]
            return sum(ends[p.topic] - max(p.offset, 0) for p in reader.committed(places, timeout=10))
        finally:
            reader.close()

    def messages(self, topic: str, since: int, until: int) -> list[bytes]:
        "Messages of a topic between two offsets."
        reader = Consumer(
            {
                "bootstrap.servers": self.settings.brokers,
                "group.id": "sensorlib-kills",
                "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
            }
        )
        reader.assign([TopicPartition(topic, 0, since)])
        found: list[bytes] = []
        while len(found) < until - since:
            batch = reader.consume(min(10_000, until - since - len(found)), 30)
            assert batch, f"{topic} ends after {len(found)} of {until - since} messages"
            found += [message.value() or b"" for message in batch if message.error() is None]
        reader.close()
        return found

    @contextmanager
    def storing_in(self, kept: Kept) -> Iterator[None]:
        "Let the collector write to another store for a while."
        before = self.kept
        self._store_in(kept)
        try:
            yield
        finally:
            self._store_in(before)

    def _store_in(self, kept: Kept) -> None:
        self.parts.pop("collect").stop()
        self.parts.pop("influxd", None)
        self.settings, self.kept = replace(self.settings, store=kept.url), kept
        if kept.part is not None:
            self.parts["influxd"] = kept.part
            self.started["influxd"] = time.monotonic()
        self.start("collect")

    def stop(self) -> None:
        "End everything."
        for name in ("scrape", "collect", "stream", "broker", "redis"):
            if name in self.parts:
                self.parts[name].process.send_signal(signal.SIGCONT)
                self.parts[name].stop()


def wait_until(done: Callable[[], object], patience_s: float, what: str, step: Callable[[], Any]) -> None:
    "Wait for something, and say what when it does not come."
    deadline = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < deadline, f"{what} did not come in {patience_s:.0f} s"
        step()
        time.sleep(0.2)


@contextmanager
def machine(folder: Path, feed: CityFeed, kept: Kept) -> Iterator[Machine]:
    "Run the system for as long as the block lasts."
    logs = folder / "logs"
    with ExitStack() as stack:
        redis, redis_url = start_redis(folder / "redis", logs)
        broker, brokers = start_broker(folder / "kafka", logs)
        settings = Settings(
            feed_url=feed.url,
            poll_s=POLL_S,
            brokers=brokers,
            redis_url=redis_url,
            store=kept.url,
            checkpoints=str(folder.resolve() / "flink"),
        )
        parts = {"redis": redis, "broker": broker, **({"influxd": kept.part} if kept.part else {})}
        made = Machine(folder, settings, feed, kept, parts, dict.fromkeys(parts, 0.0))
        stack.callback(made.stop)
        wait_for_topics(broker, brokers)
        for name in SERVICES:
            made.start(name)
        wait_until(made.is_up, 180, "a running system", made.step)
        yield made
