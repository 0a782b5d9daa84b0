"""What is sent, how often, and what is remembered: with a real Redis that dies and comes back."""

import base64
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from outbox import Outbox

from sensorlib.archive import open_files, read_file
from sensorlib.bus import dead_letter
from sensorlib.core import DEAD_TOPIC, RAW_TOPIC, BusError, FeedError, MissingPart, SettingError, Settings
from sensorlib.feed import Answer, Scrap, measurements, read_answer
from sensorlib.scraper import (
    Counts,
    LocalMemory,
    Memory,
    SharedMemory,
    fresh_part,
    live,
    memory_of,
    replayed,
    scrape,
    send_answer,
    simulated,
    value_keys,
)

if TYPE_CHECKING:
    from conftest import OwnRedis, Web

Record = dict[str, Any]
POLLS = "api/2017-10-29_sensor_2125_2126_polls.tar.zst"
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)


class Sent(Outbox):
    "Says what arrived."

    def values(self) -> list[tuple[object, str]]:
        "Record id and value type of every value that arrived."
        records = [json.loads(value) for topic, _, value in self.messages if topic == RAW_TOPIC]
        return [(r.get("id"), v["value_type"]) for r in records for v in r["sensordatavalues"]]


class Hurry(threading.Event):
    "An event that nobody waits for."

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def record(number: int | None = 1, *names: str, **changes: object) -> Record:
    "A record with a value of each name."
    values = [{"value_type": name, "value": "1"} for name in names or ("P1", "P2")]
    made: Record = {"timestamp": "2024-03-05 11:59:00", "sensor": {"id": 81}, "location": {"id": 7, "country": "DE"}}
    return {**({} if number is None else {"id": number}), **made, "sensordatavalues": values, **changes}


def poll(memory: Memory, outbox: Sent, *records: Record) -> Counts:
    return send_answer(Answer(list(records)), memory, outbox, "test", NOON)


@pytest.fixture(params=["local", "shared"])
def memory(request: pytest.FixtureRequest) -> Memory:
    return LocalMemory() if request.param == "local" else SharedMemory(request.getfixturevalue("redis_url"))


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (record(5), ["5:P1", "5:P2"]),
        (record("5"), ["5:P1", "5:P2"]),
        (record(5, sensordatavalues=[]), ["5:"]),
        (record(5, sensordatavalues=None), ["5:"]),
        (record(5, sensordatavalues="P1"), ["5:"]),
        (
            record(5, sensordatavalues=[5, None, {}, {"value_type": []}, {"value_type": "P1"}]),
            ["5:5", "5:None", "5:None", "5:[]", "5:P1"],
        ),
    ],
)
def test_every_value_has_a_key(given: Record, keys: list[str]) -> None:
    assert value_keys(given) == keys


def test_a_record_without_id_is_told_by_sensor_time_and_place() -> None:
    same = {value_keys(record(None, value))[0].split(":")[0] for value in ("P1", "P2")}
    others = [
        record(None, timestamp="2024-03-05 11:59:01"),
        record(None, sensor={"id": 82}),
        record(None, location={}),
        record(None, id=1.5),
    ]
    assert len(same) == 1
    assert len(same | {value_keys(other)[0].split(":")[0] for other in others}) == 4


def test_a_value_that_arrives_in_parts_is_sent_once(memory: Memory) -> None:
    outbox = Sent()
    polls = [
        [record(1, "P1")],
        [record(1, "P2")],
        [record(1)],
        [record(1, "P2"), record(1, "P1")],
        [record(2), record(1)],
    ]
    counts = [poll(memory, outbox, *records) for records in polls]
    assert outbox.values() == [(1, "P1"), (1, "P2"), (2, "P1"), (2, "P2")]
    assert [(c.values, c.repeated, c.sent) for c in counts] == [(1, 0, 1), (1, 0, 1), (2, 2, 0), (2, 2, 0), (4, 2, 2)]


def test_pieces_in_one_answer_are_sent_as_one_record(memory: Memory) -> None:
    outbox = Sent()
    poll(memory, outbox, record(1, "P1"), record(2), record(1, "P2"))
    assert [len(json.loads(value)["sensordatavalues"]) for _, _, value in outbox.messages] == [2, 2]


def test_records_without_id_are_sent_once(memory: Memory) -> None:
    outbox = Sent()
    for _ in range(3):
        poll(
            memory,
            outbox,
            record(None),
            record(None, timestamp="2024-03-05 11:58:00"),
            record(None, id=None, sensor=None),
        )
    assert Counter(outbox.values()) == {(None, "P1"): 3, (None, "P2"): 3}


def test_records_without_values_are_sent_once(memory: Memory) -> None:
    outbox = Sent()
    for _ in range(2):
        counts = poll(memory, outbox, record(1, sensordatavalues=[]), {"id": 2}, {})
    assert len(outbox.messages) == 3
    assert astuple(counts) == (1, 0, 3, 3, 3, 0, 0)


def test_a_message_is_the_enriched_record_under_the_key_of_its_sensor() -> None:
    outbox = Sent()
    poll(
        LocalMemory(),
        outbox,
        record(1, location={"latitude": "48.78", "longitude": "9.18", "country": "UK"}),
        record(2, sensor=5),
    )
    (topic, key, value), (_, no_key, _) = outbox.messages
    assert (topic, key, no_key) == (RAW_TOPIC, "81", None)
    told = json.loads(value)
    assert {name: told[name] for name in ("country_abb", "cell", "fetched_at")} == {
        "country_abb": "GB", "cell": "48.7_9.1", "fetched_at": "2024-03-05T12:00:00Z"
    }  # fmt: skip


def test_scraps_are_dead_letters_with_their_bytes() -> None:
    outbox = Sent()
    found = read_answer(json.dumps(record()).encode() + b"\n<p>Stra\xdfe</p>\n" + b'{"id": 1, "se')
    counts = send_answer(found, LocalMemory(), outbox, "a feed", NOON)
    letters = [json.loads(value) for topic, _, value in outbox.messages if topic == DEAD_TOPIC]
    assert [(x["reason"], x["source_topic"], base64.b64decode(x["original"])) for x in letters] == [
        ("not_json", "a feed", b"<p>Stra\xdfe</p>"), ("cut", "a feed", b'{"id": 1, "se')
    ]  # fmt: skip
    assert (counts.fetched, counts.sent, counts.scraps) == (1, 2, 2)


def test_a_huge_scrap_fits_into_a_message() -> None:
    letter = json.loads(dead_letter("not_json", b"x" * 5_000_000, topic="a feed"))
    assert base64.b64decode(letter["original"]) == b"x" * 1_000_000


@pytest.mark.parametrize(
    "text", [rb'"\ud800"', b'"Stra\xdfe"', b"1e999", b"123456789012345678901234567890", b"[[[[]]]]", rb'"\u0000"']
)
def test_an_odd_field_stops_nothing(text: bytes) -> None:
    outbox = Sent()
    odd = json.dumps(record(2, town="@")).encode().replace(b'"@"', text)
    found = read_answer(b"\n".join([json.dumps(record(1)).encode(), odd, json.dumps(record(3)).encode()]))
    counts = send_answer(found, LocalMemory(), outbox, "test", NOON)
    assert counts.fetched + counts.scraps == 3
    assert {1, 3} <= {number for number, _ in outbox.values()}


def test_a_part_of_a_record() -> None:
    assert fresh_part(record(), [False, False]) is None
    assert fresh_part(record(), [True, True]) == record()
    assert fresh_part(record(), [False, True]) == record(1, "P2")
    assert fresh_part({"id": 1}, [True]) == {"id": 1}


def test_what_is_no_object_in_a_list_of_values_is_sent_as_one() -> None:
    p1 = {"value_type": "P1", "value": "1"}
    sent = fresh_part({"sensordatavalues": [None, p1, 5, p1]}, [True, True, True, False])
    assert sent == {"sensordatavalues": [{"value": None}, p1, {"value": 5}]}


def test_a_local_memory_forgets_the_oldest() -> None:
    memory = LocalMemory(size=100)
    for start in range(0, 1000, 10):
        memory.mark([str(n) for n in range(start, start + 10)])
    assert memory.unseen([str(n) for n in range(1000)]) == [True] * 900 + [False] * 100
    assert memory.unseen([]) == []


def test_a_restart_sends_nothing_again(redis_url: str) -> None:
    first, again, beside = Sent(), Sent(), Sent()
    poll(SharedMemory(redis_url), first, record(1), record(2, "temperature"))
    counts = poll(SharedMemory(redis_url), again, record(1), record(2, "temperature"))
    poll(SharedMemory(redis_url), beside, record(2, "temperature", "humidity"))
    assert (len(first.values()), again.messages, beside.values()) == (3, [], [(2, "humidity")])
    assert (counts.repeated, counts.sent) == (3, 0)


def test_what_is_remembered_in_redis_ends_by_itself(redis_url: str) -> None:
    SharedMemory(redis_url, keep_s=100).mark(["1:P1"])
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys()
        assert 90 < client.ttl(key) <= 100
        assert key.decode().startswith("sensorlib:")


def test_redis_that_dies_and_comes_back(own_redis: "OwnRedis", caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sensorlib")
    memory, outbox = SharedMemory(own_redis.url), Sent()
    poll(memory, outbox, record(1))
    own_redis.kill()
    for number in (2, 3, 3, 1):
        poll(memory, outbox, record(number))
    assert [r.message for r in caplog.records if "Redis is away" in r.message and r.levelno == logging.WARNING] == [
        caplog.messages[0]
    ]
    own_redis.start()
    for number in (4, 3, 2, 1):
        poll(memory, outbox, record(number))
    assert Counter(outbox.values()) == {(n, name): 1 for n in (1, 2, 3, 4) for name in ("P1", "P2")}
    assert [m for m in caplog.messages if "Redis" in m][1:] == ["Redis is back"]
    assert SharedMemory(own_redis.url).unseen(["1:P1", "4:P1"]) == [False, False]


def test_redis_that_was_never_there(caplog: pytest.LogCaptureFixture) -> None:
    memory, outbox = SharedMemory("redis://127.0.0.1:9/0"), Sent()
    for _ in range(2):
        poll(memory, outbox, record(1))
    assert len(outbox.values()) == 2
    assert len([m for m in caplog.messages if "Redis is away" in m]) == 1


def test_where_to_remember(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(memory_of(Settings(redis_url=redis_url)), SharedMemory)
    assert isinstance(memory_of(Settings()), LocalMemory)
    assert "SENSORLIB_REDIS_URL" in caplog.text


@pytest.mark.parametrize("url", ["nowhere", "http://127.0.0.1:6379", "redis://127.0.0.1:port/0"])
def test_an_address_of_redis_that_cannot_be_used(url: str) -> None:
    with pytest.raises(SettingError, match="expected"):
        memory_of(Settings(redis_url=url))


def source(*answers: Callable[[], Answer | None]) -> Iterator[tuple[str, Callable[[], Answer | None]]]:
    yield from (("test", answer) for answer in answers)


@pytest.mark.parametrize("refusals", [1, 2, 5])
def test_a_broker_that_refuses_loses_nothing_and_doubles_nothing(refusals: int) -> None:
    outbox, memory = Sent(refusals=refusals), LocalMemory()
    answers = [lambda n=n: Answer([record(n), record(n + 1)], [Scrap("not_json", b"x")]) for n in range(4)]
    counts = scrape(source(*answers), memory, outbox, Hurry())
    assert Counter(outbox.values()) == {(n, name): 1 for n in range(5) for name in ("P1", "P2")}
    assert sum(topic == DEAD_TOPIC for topic, *_ in outbox.messages) == counts.scraps == 4
    assert (counts.values, counts.repeated, counts.sent) == (16, 6, 10)


def test_what_was_not_acknowledged_is_not_remembered() -> None:
    outbox, memory = Sent(refusals=1), LocalMemory()
    with pytest.raises(BusError):
        poll(memory, outbox, record(1))
    assert memory.unseen(value_keys(record(1))) == [True, True]


def test_told_to_stop_while_the_broker_is_away() -> None:
    outbox, stop = Sent(refusals=10**6), Hurry()
    stop.set()
    with pytest.raises(BusError, match="no broker"):
        scrape(source(lambda: Answer([record(1)])), LocalMemory(), outbox, stop)


def test_a_poll_that_fails_is_counted_and_the_next_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> Answer:
        raise error

    outbox, seen = Sent(), []
    polls = source(
        lambda: fail(FeedError("away")), lambda: None, lambda: fail(SettingError("odd")), lambda: Answer([record(1)])
    )
    counts = scrape(polls, LocalMemory(), outbox, Hurry(), watch=lambda now: seen.append(replace(now)))
    assert (counts.failed_polls, counts.sent, len(seen)) == (2, 2, 4)
    assert [c.failed_polls for c in seen] == [1, 1, 2, 2]
    assert "poll failed: away" in caplog.text


def test_an_error_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        scrape(source(lambda: 1 / 0), LocalMemory(), Sent(), Hurry())


def test_told_to_stop_after_the_poll_in_hand() -> None:
    stop, outbox = Hurry(), Sent()
    counts = scrape(simulated(sensors=5), LocalMemory(), outbox, stop, watch=lambda now: stop.set())
    assert counts.polls == 1
    assert counts.values == counts.sent == len(outbox.values()) > 0


def test_polls_keep_their_distance(web: "Web") -> None:
    pauses: list[float] = []

    class Watch(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return len(pauses) == 3

    scrape(live(web.reply(wait_s=0.2).url), LocalMemory(), Sent(), Watch(), pause_s=60.0)
    assert len(web.asked) == 3
    assert all(55 < pause <= 59.8 for pause in pauses)


def test_the_live_feed_is_read_and_asked_again_with_what_it_said(web: "Web") -> None:
    web.reply(json.dumps([record(1)]).encode(), ETag="a").reply(status=304, ETag="a").reply(
        json.dumps([record(1), record(2)]).encode()[:-1]
    )
    polls, outbox = live(web.url), Sent()
    counts = scrape((next(polls) for _ in range(3)), LocalMemory(), outbox, Hurry())
    assert Counter(outbox.values()) == {(n, name): 1 for n in (1, 2) for name in ("P1", "P2")}
    assert (counts.polls, counts.fetched, counts.values, counts.repeated, counts.sent) == (2, 3, 6, 2, 4)


def test_files_are_replayed_in_order_of_name(tmp_path: Path) -> None:
    for number, name in enumerate(("b.json", "a.json", "c.ndjson")):
        (tmp_path / name).write_text(json.dumps(record(number)))
    (tmp_path / "d.csv").write_text("songs;singers\n1;2\n")
    outbox = Sent()
    counts = scrape(replayed([tmp_path]), LocalMemory(), outbox, Hurry())
    assert [number for number, _ in outbox.values()] == [1, 1, 0, 0, 2, 2]
    assert (counts.polls, counts.failed_polls) == (3, 1)


def test_a_file_to_replay_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"none\.json"):
        scrape(replayed([tmp_path / "none.json"]), LocalMemory(), Sent(), Hurry())


def test_708_polls_are_sent_once_each_and_the_counts_add_up(shared_data: Path, redis_url: str) -> None:
    outbox = Sent()
    answers = [read_file(name, data) for name, data in open_files(shared_data / POLLS)]
    total = scrape(replayed([shared_data / POLLS]), SharedMemory(redis_url), outbox, Hurry())
    told = {(r["id"], v["value_type"]) for found in answers for r in found.records for v in r["sensordatavalues"]}
    assert Counter(outbox.values()) == dict.fromkeys(told, 1)
    assert (total.polls, total.fetched, total.values) == (708, 1610, 2906)
    assert (total.repeated + total.sent, total.sent, total.scraps) == (total.values, len(told), 0)
    assert len(told) == 2 * 316


def test_708_polls_with_restarts_and_refusals_are_sent_once_each(shared_data: Path, redis_url: str) -> None:
    outbox, rng, told, memory = Sent(), random.Random(2), set(), SharedMemory(redis_url)
    for name, data in open_files(shared_data / POLLS):
        found = read_file(name, data)
        told |= {(r["id"], v["value_type"]) for r in found.records for v in r["sensordatavalues"]}
        outbox.refusals = rng.choice([0, 0, 0, 1])
        memory = SharedMemory(redis_url) if rng.random() < 0.1 else memory
        scrape(source(lambda found=found: found), memory, outbox, Hurry())
    assert Counter(outbox.values()) == dict.fromkeys(told, 1)


def test_the_snapshot_is_sent_whole(shared_data: Path) -> None:
    outbox = Sent()
    counts = scrape(replayed([shared_data / "api" / "2017-08-10_world_data.json.gz"]), LocalMemory(), outbox, Hurry())
    sent = [json.loads(value) for _, _, value in outbox.messages]
    assert (counts.fetched, counts.values, counts.sent) == (6874, 14486, 14486)
    assert len(measurements(sent)) == 14486
    assert {r["country_abb"] for r in sent if r["location"]["country"] == "UK"} == {"GB"}
