"""The whole system on this machine: real broker, real Flink, real Redis, real store."""

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from conftest import INPUTS
from fuzzing import ENRICHED, MESSAGES, as_object, drawn, raised_recursion_limit, same_text
from mangle import mangled

from sensorlib.archive import open_files, read_file
from sensorlib.bus import MAX_MESSAGE_BYTES, Outbox
from sensorlib.core import DEAD_TOPIC, KIND_TOPICS, OTHER_TOPIC, RAW_TOPIC
from sensorlib.feed import measurements
from sensorlib.local import Books, LocalSystem, keep_books, local_system, settle, start_service
from sensorlib.places import enrich
from sensorlib.quality import FLAGS, flag_names, judge
from sensorlib.scraper import LocalMemory, replayed, scrape
from sensorlib.simulate import ARRIVALS, EPISODES, FAULTS, inject, make_city, records
from sensorlib.stream import newest_snapshot

KEY = ["sensor_id", "value_type", "ts"]
MANGLED = b"777777"
ORDER = [*KEY, "value", "qc"]  # a clock that stands still, and a record that comes twice, give the same key again


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    with local_system(tmp_path_factory.mktemp("system"), print) as running:
        yield running


def read_topics(system: LocalSystem, topics: tuple[str, ...], since: dict[tuple[str, int], int]) -> list[Any]:
    "Every message on some topics after the places in `since`."
    reader = Consumer(
        {"bootstrap.servers": system.settings.brokers, "group.id": "test", "fetch.message.max.bytes": MAX_MESSAGE_BYTES}
    )
    places = [place for topic in topics for place in reader.list_topics(topic).topics[topic].partitions.items()]
    ends = {
        (t, p): reader.get_watermark_offsets(TopicPartition(t, p))[1]
        for t in topics
        for p in reader.list_topics(t).topics[t].partitions
    }
    assert places
    reader.assign([TopicPartition(t, p, since.get((t, p), 0)) for t, p in ends])
    left = sum(end - since.get(place, 0) for place, end in ends.items())
    found: list[Any] = []
    while len(found) < left:
        found += [message for message in reader.consume(min(5000, left - len(found)), 10) if message.error() is None]
    reader.close()
    return found


def ends_of(system: LocalSystem) -> dict[tuple[str, int], int]:
    reader = Consumer({"bootstrap.servers": system.settings.brokers, "group.id": "test"})
    topics = {name: topic for name, topic in reader.list_topics().topics.items() if name.startswith("sensor.")}
    ends = {
        (n, p): reader.get_watermark_offsets(TopicPartition(n, p))[1] for n, t in topics.items() for p in t.partitions
    }
    reader.close()
    return ends


def send(system: LocalSystem, made: list[dict[str, Any]]) -> None:
    "Put records on sensor.raw as the scraper does."
    outbox = Outbox(system.settings.brokers)
    for record in made:
        outbox.send(RAW_TOPIC, str(record["sensor"]["id"]), json.dumps(enrich(record, "2026-06-01T00:00:00Z")).encode())
    outbox.flush()


def wait_for(system: LocalSystem, done: Callable[[Books, Books], bool], before: Books) -> Books:
    "Wait until the books say so; a system that stands still for a minute has failed."
    moved, books = time.monotonic(), keep_books(system)
    while not done(books, before):
        assert time.monotonic() < moved + 90, f"nothing more came: {books}"
        system.check()
        time.sleep(0.5)
        books, last = keep_books(system), books
        moved = moved if books == last else time.monotonic()
    return books


def verdicts_of(messages: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame([json.loads(message.value()) for message in messages])
    return frame.assign(ts=pd.to_datetime(frame["ts"], utc=True)).sort_values(ORDER).reset_index(drop=True)


def judged_by_python(system: LocalSystem, since: dict[tuple[str, int], int]) -> pd.DataFrame:
    "Judge all that the job has read so far, as neighbours remember it, and give back the readings after `since`."
    raw = [message for message in read_topics(system, (RAW_TOPIC,), {}) if message.key() != MANGLED]
    assert {message.partition() for message in raw} == {0}
    judged = judge(measurements(json.loads(message.value()) for message in raw))
    place = np.array([message.offset() for message in raw])[judged["record"]]
    return judged[place >= since.get((RAW_TOPIC, 0), 0)].sort_values(ORDER).reset_index(drop=True)


def assert_same_verdicts(stream: pd.DataFrame, python: pd.DataFrame) -> None:
    "Compare reading by reading, every column that both have."
    assert len(stream) == len(python) > 0
    for column in (
        "record_id",
        "sensor_type",
        "location_id",
        "lat",
        "lon",
        "altitude",
        "indoor",
        "country",
        "cell",
        "kind",
        "value",
        "qc",
    ):
        left = stream[column] if column in stream else pd.Series([None] * len(stream))
        pairs = zip(left, python[column], strict=True)
        differ = [pair for pair in pairs if not (pair[0] == pair[1] or (pd.isna(pair[0]) and pd.isna(pair[1])))]
        assert not differ, f"{column}: {len(differ)} differ, the first {differ[:3]}"


def test_world_snapshot_is_judged_alike_by_stream_and_python(system: LocalSystem, shared_data: Path) -> None:
    since, before = ends_of(system), keep_books(system)
    snapshot = shared_data / "api" / "2017-08-10_world_data.json.gz"
    counts = scrape(replayed([snapshot]), LocalMemory(), Outbox(system.settings.brokers), threading.Event())
    assert (counts.fetched, counts.values, counts.sent) == (6874, 14486, 14486)
    after = wait_for(system, lambda now, then: now.received - then.received >= 13973, before)
    assert sum(after.kinds.values()) - sum(before.kinds.values()) + after.other - before.other == 14486
    assert (after.dead - before.dead, after.stored - before.stored) == (0, 13973)
    stream = verdicts_of(read_topics(system, KIND_TOPICS, since))
    assert_same_verdicts(stream, judged_by_python(system, since))
    assert {int(qc) for qc in stream["qc"]} > {0}


def assert_judged_alike(system: LocalSystem, made: list[dict[str, Any]]) -> pd.DataFrame:
    "Send records, wait, and compare every verdict of the stream with that of Python."
    settle(system, lambda books: None, patience_s=5)
    since, before = ends_of(system), keep_books(system)
    send(system, made)
    values = sum(len(record["sensordatavalues"]) for record in made)
    wait_for(system, lambda now, then: now.received - then.received >= values, before)
    stream = verdicts_of(read_topics(system, KIND_TOPICS, since))
    assert_same_verdicts(stream, judged_by_python(system, since))
    return stream


def test_a_day_with_every_fault_is_judged_alike(system: LocalSystem) -> None:
    start = datetime(2026, 4, 15, tzinfo=UTC)
    made = records(make_city(40, seed=17, centre=(-20.0, 30.0)), start, start + timedelta(days=1))
    spoilt, _ = inject(made, [*FAULTS, *EPISODES, *ARRIVALS], seed=17, share=0.2)
    stream = assert_judged_alike(system, spoilt)
    assert {name for qc in stream["qc"].unique() for name in flag_names(qc)} == {*FLAGS}


def test_a_week_of_aberdeen_is_judged_alike(system: LocalSystem, shared_data: Path) -> None:
    archive = shared_data / "archive" / "aberdeen_2017-08_2019-04_archive_csv.tar.zst"
    days = [f"2018-11-{day:02}" for day in range(5, 12)]
    files = [(name, data) for name, data in open_files(archive) if Path(name).name[:10] in days]
    stream = assert_judged_alike(system, [record for name, data in files for record in read_file(name, data).records])
    stuck = stream[stream["qc"] & FLAGS["stuck"] > 0]
    assert set(zip(stuck["sensor_type"], stuck["value_type"], strict=True)) <= {
        ("DHT22", "humidity"), ("BME280", "humidity")
    }  # fmt: skip
    assert len(stuck) > 1000


def test_every_injected_fault_is_judged_alike(system: LocalSystem) -> None:
    noon = datetime(2026, 1, 15, 12, tzinfo=UTC)
    made, truth = inject(
        records(make_city(200, seed=9, centre=(-25.0, 40.0)), noon, noon.replace(hour=13)),
        ["code", "unit", "swapped", "position", "range"],
        seed=9,
        share=0.2,
    )
    made[0]["sensor"]["sensor_type"]["name"] = "long " * 100
    stream = assert_judged_alike(system, made)
    caught = truth.merge(stream, on=KEY)
    assert set(caught.loc[caught["qc"] & 127 > 0, "fault"]) == {"code", "unit", "swapped", "position", "range"}


def test_a_thousand_mangled_messages_stop_nothing_and_vanish_nowhere(system: LocalSystem) -> None:
    since, before = ends_of(system), keep_books(system)
    noon = datetime(2026, 2, 15, 12, tzinfo=UTC)
    good = records(make_city(400, seed=11, centre=(-30.0, 50.0)), noon, noon.replace(minute=10))[:1000]
    victim = enrich({**good[0], "sensor": {**good[0]["sensor"], "id": 777_777}}, "2026-06-01T00:00:00Z")
    bad = mangled(victim, count=1000, seed=3)
    sent: dict[tuple[int, int], tuple[str, str, bytes | None]] = {}
    producer = Producer(
        {"bootstrap.servers": system.settings.brokers, "message.max.bytes": MAX_MESSAGE_BYTES, "linger.ms": 20}
    )
    mixed = [(None, record) for record in good] + [(case, None) for case in bad]
    random.Random(4).shuffle(mixed)
    for case, record in mixed:
        if record is not None:
            producer.produce(
                RAW_TOPIC, json.dumps(enrich(record, "2026-06-01T00:00:00Z")).encode(), str(record["sensor"]["id"])
            )
        else:
            note = lambda error, m, case=case: sent.update({(m.partition(), m.offset()): case})  # noqa: E731
            producer.produce(RAW_TOPIC, case[2], MANGLED, on_delivery=note)
        producer.poll(0)
    producer.flush()
    assert len(sent) == 1000

    expected = sum(len(record["sensordatavalues"]) for record in good)
    wait_for(
        system, lambda now, then: now.dead - then.dead >= 1000 and now.received - then.received >= expected, before
    )
    settle(system, lambda books: None, patience_s=5)
    letters = [json.loads(m.value()) for m in read_topics(system, (DEAD_TOPIC,), since)]
    by_place: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for letter in letters:
        assert letter["source_topic"] == RAW_TOPIC
        by_place.setdefault((letter["source_partition"], letter["source_offset"]), []).append(letter)
    assert set(by_place) == set(sent), "dead letters are those of the mangled messages, all of them and no others"
    wrong = Counter(
        sent[place][0] for place, found in by_place.items() if {f["reason"] for f in found} != {sent[place][1]}
    )
    assert not wrong
    for place, (name, reason, message) in sent.items():
        if reason == "not_json" and message and len(message) <= 1_000_000:
            assert base64.b64decode(by_place[place][0]["original"]) == message, name

    keys = {(r["sensor"]["id"], v["value_type"]) for r in good for v in r["sensordatavalues"]}
    stored = pd.concat([system.store.latest(topic.removeprefix("sensor.")) for topic in KIND_TOPICS])
    assert keys <= set(zip(stored["sensor_id"], stored["value_type"], strict=True))
    stream = verdicts_of([m for m in read_topics(system, KIND_TOPICS, since) if m.key() != MANGLED])
    assert len(stream.drop_duplicates(KEY)) == len(stream) == expected
    system.check()


def test_unknown_value_types_pass_as_they_came(system: LocalSystem) -> None:
    since, before = ends_of(system), keep_books(system)
    values = [
        {"value_type": "samples", "value": "151124"},
        {"value_type": "mood", "value": "sunny"},
        {"value_type": "P1", "value": "1068.5"},
    ]
    counter = {
        "id": 5,
        "timestamp": "2026-01-01 00:00:00",
        "sensor": {"id": 888_888, "sensor_type": {"name": "PPD42NS"}},
        "sensordatavalues": values,
    }
    send(system, [counter])
    wait_for(system, lambda now, then: now.other - then.other == 3, before)
    found = [json.loads(m.value()) for m in read_topics(system, (OTHER_TOPIC,), since)]
    assert {(f["value_type"], f["text"]) for f in found} == {("samples", "151124"), ("mood", "sunny"), ("P1", "1068.5")}


def test_garbage_on_a_kinds_topic_is_buried_by_the_collector(system: LocalSystem) -> None:
    since, before = ends_of(system), keep_books(system)
    outbox = Outbox(system.settings.brokers)
    outbox.send("sensor.noise", "1", b'{"sensor_id": "one"}')
    outbox.flush()
    wait_for(system, lambda now, then: now.dead - then.dead == 1, before)
    (letter,) = (json.loads(m.value()) for m in read_topics(system, (DEAD_TOPIC,), since))
    assert (letter["reason"], letter["source_topic"]) == ("reading", "sensor.noise")
    assert base64.b64decode(letter["original"]) == b'{"sensor_id": "one"}'


def test_odd_lists_of_values_are_compared_alike(system: LocalSystem) -> None:
    def report(number: int, values: list[Any]) -> dict[str, Any]:
        sensor = {"id": 900_000 + number, "sensor_type": {"name": "SDS011"}}
        place = {"id": 5, "latitude": "-40.0", "longitude": "70.0", "altitude": "35"}
        return {
            "id": number,
            "timestamp": "2026-01-01 00:00:00",
            "sensor": sensor,
            "location": place,
            "sensordatavalues": values,
        }

    p1, p2 = {"value_type": "P1", "value": "3.0"}, {"value_type": "P2", "value": "9.0"}
    middle = [p1, {"value_type": "P4"}, {"value": "5"}, {"value_type": "P0", "value": None}, p2]
    lists = [[p1, p2], [p2, p1], [None, p1, p2], [p1, 5, p2], [p1, p2, "x"], [p1, {}, p2], middle, [p1, p2, {**p2, "value": "1.0"}],
             [{**p1, "value": "x"}, p2], [{**p1, "value": 3}, {**p2, "value": 3.5}], [p2]]  # fmt: skip
    since, before = ends_of(system), keep_books(system)
    send(system, [report(number, values) for number, values in enumerate(lists, 1)])
    usable = sum(
        isinstance(v, dict) and "value_type" in v and str(v.get("value")) not in ("None", "x")
        for vs in lists
        for v in vs
    )
    wait_for(system, lambda now, then: sum(now.kinds.values()) - sum(then.kinds.values()) == usable, before)
    stream = verdicts_of(read_topics(system, KIND_TOPICS, since))
    python = judged_by_python(system, since)
    told = ["record_id", "value_type", "value"]
    left, right = (frame.sort_values(told)["qc"].tolist() for frame in (stream, python))
    assert left == right and {qc & 127 for qc in left} == {0, 32}


def produce(system: LocalSystem, messages: list[bytes]) -> list[int]:
    "Put messages on sensor.raw, each at a time of its own [ms], which everything that is made of it keeps."
    producer = Producer({"bootstrap.servers": system.settings.brokers, "linger.ms": 20})
    first = int(time.time() * 1000) - 10**6
    for number, message in enumerate(messages):
        producer.produce(RAW_TOPIC, message, MANGLED, timestamp=first + number)
        producer.poll(0)
    assert producer.flush(60) == 0
    return [first + number for number in range(len(messages))]


def by_time(system: LocalSystem, since: dict[tuple[str, int], int], last: list[int]) -> dict[int, list[dict[str, Any]]]:
    "What was made of each message, once something was made of the last ones."
    deadline, found, complete = time.monotonic() + 300, dict[int, list[dict[str, Any]]](), False
    while not complete:
        assert time.monotonic() < deadline, "the last messages never came"
        system.check()
        complete = found.keys() >= {*last}  # then once more: the ends of the partitions were not taken all at once
        time.sleep(2)
        found = {}
        for message in read_topics(system, (*KIND_TOPICS, OTHER_TOPIC, DEAD_TOPIC), since):
            row = {"topic": message.topic(), **json.loads(message.value())}
            found.setdefault(message.timestamp()[1], []).append(row)
    return found


PARSED = (
    *("record_id", "sensor_id", "location_id", "lat", "lon", "altitude", "indoor"),
    *("sensor_type", "country", "place", "cell", "ts", "kind", "value_type", "value", "text", "reason"),
)


def comparable(row: dict[str, Any]) -> tuple[Any, ...]:
    "Every column of a row but its verdict, as it can be compared."
    known = {name: None if pd.isna(value) else value for name, value in row.items()}
    ts = known.get("ts")
    known["ts"] = None if ts is None else pd.Timestamp(ts).timestamp()
    known["text" if known.get("reason") is None and known.get("kind") else "value"] = None
    return tuple(same_text(v) if isinstance(v, str) else v for v in map(known.get, PARSED))


def test_generated_messages_are_parsed_as_python_parses_them(system: LocalSystem) -> None:
    messages = [*drawn(MESSAGES, cut=2000, full=20_000), json.dumps(ENRICHED).encode(), b"the end"]
    INPUTS["messages of any content, through Flink"] += len(messages)
    since, before = ends_of(system), keep_books(system)
    times = produce(system, messages)
    found = by_time(system, since, times[-2:])
    with raised_recursion_limit():
        objects = [as_object(message) for message in messages]
        rows = measurements(record for record in objects if record is not None).to_dict("records")
    good = [number for number, record in enumerate(objects) if record is not None]
    expected: dict[int, Counter[tuple[Any, ...]]] = {}
    for row in rows:
        expected.setdefault(good[row["record"]], Counter())[comparable(row)] += 1
    for number, (message, moment) in enumerate(zip(messages, times, strict=True)):
        made = found.get(moment, [])
        if objects[number] is not None:
            assert Counter(map(comparable, made)) == expected[number], f"{message!r} gave {made}"
            continue
        letters = [row for row in made if row.get("reason") == "not_json"]  # what else was found in it is kept too
        assert [base64.b64decode(letter.get("original", "")) for letter in letters] == [message], (
            f"{message!r} gave {made}"
        )
    assert all((row["topic"] == DEAD_TOPIC) == ("reason" in row) for made in found.values() for row in made)
    assert len(good) > len(messages) // 2 and len(rows) > len(good)
    wait_for(
        system,
        lambda now, then: now.received - then.received >= sum(now.kinds.values()) - sum(then.kinds.values()),
        before,
    )


def test_a_killed_job_goes_on_from_its_checkpoint(system: LocalSystem) -> None:
    def sent(books: Books, then: Books) -> bool:
        return sum(books.kinds.values()) - sum(then.kinds.values()) >= values

    settle(system, lambda books: None, patience_s=5)
    since, before = ends_of(system), keep_books(system)
    start = datetime(2026, 3, 15, 12, tzinfo=UTC)
    made = records(make_city(60, seed=13, centre=(-35.0, 60.0)), start, start + timedelta(hours=2))
    for value in (v for record in made for v in record["sensordatavalues"] if v["value_type"] == "humidity"):
        value["value"] = "99.90"
    values = sum(len(record["sensordatavalues"]) for record in made[:1500])
    send(system, made[:1500])
    wait_for(system, sent, before)
    taken = newest_snapshot(Path(system.settings.checkpoints))
    wait_for(system, lambda *_: newest_snapshot(Path(system.settings.checkpoints)) != taken, before)

    send(system, made[1500:])
    old = system.parts["stream"]
    for process in psutil.Process(old.process.pid).children(recursive=True):
        process.kill()
    assert old.process.wait(60) == 1
    system.parts["stream"] = new = start_service("stream", [], system.settings, system.logs)
    try:
        values = sum(len(record["sensordatavalues"]) for record in made)
        wait_for(system, sent, before)
        settle(system, lambda books: None, patience_s=5)
        told = new.log_file.read_text(errors="replace").rsplit("starting from ", 1)[1].splitlines()[0]
        assert Path(told).name.startswith("chk-")
        stream = verdicts_of(read_topics(system, KIND_TOPICS, since)).drop_duplicates(KEY)
        assert_same_verdicts(stream.reset_index(drop=True), judged_by_python(system, since))
        assert {name for qc in stream["qc"].unique() for name in flag_names(qc)} >= {"stuck", "short"}
        assert keep_books(system).stored - before.stored == values == len(stream)
    finally:
        new.stop()
