"""Receiving from a real broker: every message handled, offsets behind the work, partitions that move, bounded waiting."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sensorlib.bus import GRACE_S, Handler, Lane, Outbox, Receiver, client_settings, kafka_access
from sensorlib.core import RAW_TOPIC, BusError, SettingError, StoreError, StoreRefused
from sensorlib.local import start_broker, start_part, wait_for_topics
from sensorlib.stream import kafka_tables

PARTITIONS = 4


@pytest.fixture
def topic(brokers: str, request: pytest.FixtureRequest) -> str:
    "A topic of its own, empty."
    admin, name = AdminClient({"bootstrap.servers": brokers}), re.sub(r"\W", "_", request.node.name)
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
    return name


def fill(brokers: str, topic: str, count: int, size: int = 10) -> None:
    outbox = Outbox(brokers)
    for number in range(count):
        outbox.send(topic, str(number % 97), str(number).zfill(size).encode())
    outbox.flush()


def committed(brokers: str, group: str, topic: str) -> int:
    "Messages before the offsets of a group."
    reader = Consumer({"bootstrap.servers": brokers, "group.id": group})
    found = reader.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=10)
    reader.close()
    return sum(max(place.offset, 0) for place in found)


def wait_until(done: object, patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Runner:
    "A receiver in a thread, with what it handled."

    def __init__(self, brokers: str, topic: str, handle: Handler, group: str = "test", **options: object) -> None:
        self.stop, self.failure, self.trouble = threading.Event(), None, ""
        self.receiver = Receiver(brokers, group, [topic])
        self.thread = threading.Thread(target=self._run, args=(handle, options))
        self.thread.start()

    def _run(self, handle: Handler, options: dict) -> None:
        try:
            self.receiver.run(lambda: nullcontext(handle), self.stop, **{"wait_s": 0.1, "watch": self._hear, **options})
        except Exception as error:
            self.failure = error
        finally:
            self.receiver.close()

    def _hear(self, trouble: str | None, behind: int) -> None:
        self.trouble = trouble or ""

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


@contextmanager
def running(*arguments: object, **options: object) -> Iterator[Runner]:
    runner = Runner(*arguments, **options)  # type: ignore[arg-type]
    try:
        yield runner
    finally:
        runner.end()


def places(messages: list[Message]) -> list[tuple[int, int]]:
    return [(message.partition(), message.offset()) for message in messages]


def in_order_of_each_partition(handled: list[tuple[int, int]]) -> bool:
    return all(
        offsets == sorted(offsets)
        for offsets in ([o for p, o in handled if p == partition] for partition in range(PARTITIONS))
    )


@pytest.mark.parametrize("lanes", [1, 3])
def test_everything_is_handled_once_and_in_order(brokers: str, topic: str, lanes: int) -> None:
    fill(brokers, topic, 5_000)
    handled: list[tuple[int, int]] = []
    with running(
        brokers, topic, lambda batch: handled.extend(places(batch)), group=topic, lanes=lanes, size=300
    ) as runner:
        wait_until(lambda: len(handled) >= 5_000)
    assert runner.failure is None
    assert len(set(handled)) == len(handled) == 5_000
    assert in_order_of_each_partition(handled)
    assert committed(brokers, topic, topic) == 5_000


def test_offsets_stay_behind_a_store_that_refuses_for_the_moment(brokers: str, topic: str) -> None:
    fill(brokers, topic, 100)
    away, handled = threading.Event(), []

    def handle(batch: list[Message]) -> None:
        if not away.is_set():
            raise StoreError("away")
        handled.extend(places(batch))

    with running(brokers, topic, handle, group=topic, size=10):
        time.sleep(2.5)
        assert committed(brokers, topic, topic) == 0
        away.set()
        wait_until(lambda: len(handled) == 100)
    assert len(set(handled)) == committed(brokers, topic, topic) == 100


def test_the_pause_is_as_long_as_the_store_asks_for() -> None:
    busy = StoreError("busy")
    busy.retry_after_s = 1.5
    moments: list[float] = []

    def handle(batch: list[object]) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise busy

    lane = Lane(lambda: nullcontext(handle), size=1, longest_pause_s=0.1)  # type: ignore[arg-type]
    lane.stock.put([Place()])  # type: ignore[list-item]
    wait_until(lambda: len(moments) == 2)
    lane.stop()
    assert 1.5 <= moments[1] - moments[0] < 4.0


class Place:
    "Stands for a message."

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0


@pytest.mark.parametrize("error", [StoreRefused("wrong token"), RuntimeError("a bug")])
def test_what_is_refused_for_good_ends_the_receiver_and_moves_nothing(
    brokers: str, topic: str, error: Exception
) -> None:
    fill(brokers, topic, 100)

    def handle(batch: list[Message]) -> None:
        raise error

    runner = Runner(brokers, topic, handle, group=topic)
    runner.thread.join(30)
    assert runner.failure is error
    assert committed(brokers, topic, topic) == 0


def test_one_lane_in_trouble_does_not_hold_up_the_others(brokers: str, topic: str) -> None:
    fill(brokers, topic, 4_000)
    handled: list[tuple[int, int]] = []

    def handle(batch: list[Message]) -> None:
        if any(message.partition() == 0 for message in batch):
            raise StoreError("no writes to this one")
        handled.extend(places(batch))

    ends = watermarks(brokers, topic)
    with running(brokers, topic, handle, group=topic, lanes=PARTITIONS, size=50):
        wait_until(lambda: len(handled) == 4_000 - ends[0])
    assert min(ends) > 500
    assert {partition for partition, _ in handled} == {1, 2, 3}


def test_what_waits_is_bounded(brokers: str, topic: str) -> None:
    fill(brokers, topic, 5_000)
    held = threading.Event()
    lanes: list[Lane] = []

    def handle(batch: list[Message]) -> None:
        held.wait()

    class Watched(Lane):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            lanes.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sensorlib.bus.Lane", Watched)
        with running(brokers, topic, handle, group=topic, size=100):
            wait_until(lambda: lanes and not lanes[0].stock.has_room())
            time.sleep(3)
            waiting = len(lanes[0].stock._waiting)
            held.set()
    assert 400 <= waiting <= 500


def test_partitions_move_to_a_second_receiver_and_back(brokers: str, topic: str) -> None:
    handled: dict[str, list[tuple[int, int]]] = {"first": [], "second": []}
    seen: set[tuple[int, int]] = set()

    def handler(name: str) -> Handler:
        def handle(batch: list[Message]) -> None:
            handled[name] += places(batch)
            seen.update(places(batch))

        return handle

    fill(brokers, topic, 1_000)
    with running(brokers, topic, handler("first"), group=topic, size=50):
        wait_until(lambda: len(seen) == 1_000)
        with running(brokers, topic, handler("second"), group=topic, size=50):
            while not handled["second"]:
                fill(brokers, topic, 100)
        fill(brokers, topic, 1_000)
        sent = sum(watermarks(brokers, topic))
        wait_until(lambda: len(seen) == sent)
    everything = handled["first"] + handled["second"]
    assert len(everything) == len(seen), "nothing comes twice when receivers come and go in order"
    assert {p for p, _ in handled["second"]} != set(range(PARTITIONS))
    assert committed(brokers, topic, topic) == sent


def watermarks(brokers: str, topic: str) -> list[int]:
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "ends"})
    found = [reader.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)]
    reader.close()
    return found


def test_a_receiver_waits_for_its_broker_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")
    with running("127.0.0.1:9", "nothing", lambda batch: None) as runner:
        wait_until(lambda: "no broker answers" in runner.trouble)
        time.sleep(5)
        assert runner.thread.is_alive()
    assert runner.failure is None
    assert len(caplog.records) < 30, "a line a second, not one each time that it could be tried"


def test_a_receiver_goes_on_when_its_broker_is_back(tmp_path: Path) -> None:
    broker, address = start_broker(tmp_path / "data", tmp_path)
    wait_for_topics(broker, address, partitions=1)
    handled: list[bytes] = []
    with running(address, RAW_TOPIC, lambda batch: handled.extend(m.value() for m in batch)) as runner:
        Outbox(address).send(RAW_TOPIC, None, b"before")
        wait_until(lambda: handled)
        broker.stop()
        wait_until(lambda: "no broker answers" in runner.trouble)
        broker = start_part("broker", broker.process.args, tmp_path)
        wait_until(lambda: not runner.trouble)
        Outbox(address).send(RAW_TOPIC, None, b"after")
        wait_until(lambda: b"after" in handled)
    assert runner.failure is None
    broker.stop()


def test_a_receiver_ends_while_its_broker_is_away(tmp_path: Path) -> None:
    broker, address = start_broker(tmp_path / "data", tmp_path)
    wait_for_topics(broker, address, partitions=1)
    fill(address, RAW_TOPIC, 2_000)
    handled: list[int] = []

    def handle(batch: list[Message]) -> None:
        "Lose the broker before the first batch is done."
        if broker.process.poll() is None:
            broker.stop()
        handled.append(len(batch))

    with running(address, RAW_TOPIC, handle, size=500) as runner:
        wait_until(lambda: handled)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert runner.failure is None


def test_a_producer_that_is_told_to_stop_does_not_wait_for_its_broker() -> None:
    stop = threading.Event()
    outbox = Outbox("127.0.0.1:9", stop=stop)
    outbox.send(RAW_TOPIC, None, b"lost")
    stop.set()
    began = time.monotonic()
    with pytest.raises(BusError, match="1 messages were not delivered"):
        outbox.flush()
    assert GRACE_S - 1 < time.monotonic() - began < GRACE_S + 5


def test_a_password_comes_from_a_file_and_is_shown_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the test\n")
    (tmp_path / "ca.crt").touch()
    env = {"USER": "stream", "PASSWORD_FILE": str(tmp_path / "password"), "CA_FILE": str(tmp_path / "ca.crt")}
    access = kafka_access({f"SENSORLIB_KAFKA_{name}": told for name, told in env.items()})
    assert (access.protocol, access.password) == ("SASL_SSL", "of the test")
    assert client_settings("broker:9093", access)["sasl.password"] == "of the test"
    assert "of the test" not in repr(access) + str(kafka_tables("broker:9093", access))


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PASSWORD": "alone"}, "SENSORLIB_KAFKA_USER is '', expected a name"),
        ({"USER": "o'neill", "PASSWORD": "x"}, "expected a name of letters"),
        ({"USER": "stream", "PASSWORD_FILE": "/nowhere"}, "expected a file with the password"),
        ({"CA_FILE": "/nowhere"}, "expected a file with certificates in PEM"),
    ],
)
def test_what_cannot_be_used_to_log_in_is_named(env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        kafka_access({f"SENSORLIB_KAFKA_{name}": told for name, told in env.items()})
