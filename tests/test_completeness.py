"""Expected against received: the counts equal the truth of the schedule, whoever failed, and a run goes on where the last one ended."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from outbox import Outbox

from sensorlib.completeness import (
    DAY_S,
    GRACE_S,
    LIMIT_S,
    RETRY_S,
    STEPS,
    Account,
    Coverage,
    SensorHour,
    Tracker,
    cadence_of,
    changes,
    delivered,
    due,
    missing_between,
    pause_after,
    restore,
    surely_shown,
)
from sensorlib.core import COMPLETENESS_TOPIC, FeedError
from sensorlib.feed import Answer
from sensorlib.scraper import Ledger, LocalMemory, Memory, SharedMemory, scrape

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NOON_S = int(NOON.timestamp())


@dataclass
class Run:
    "Polls that are made one after the other, each as slow as it is told, at the pause that the scraper would choose."

    pause_s: float = 60.0
    now_s: float = 0.0
    succeeded_s: float = 0.0
    polls: list[tuple[float, float]] = field(default_factory=list)

    def poll(self, slow_s: float, failed: bool) -> None:
        began, ended = self.now_s, self.now_s + slow_s
        if not failed:
            self.succeeded_s = began
            self.polls.append((began, ended))
        self.now_s = max(ended, began + pause_after(self.pause_s, ended - self.succeeded_s if failed else None))


def files_of(polls: list[tuple[float, float]], phase_s: float, lag_s: float) -> list[float]:
    "When the files were made that the polls fetched: one a minute, there some seconds later, asked for at the start."
    return [(began - lag_s - phase_s) // 60 * 60 + phase_s for began, _ in polls]


def lost_seconds(polls: list[tuple[float, float]], phase_s: float, lag_s: float) -> float:
    "Longest time whose readings were in no file that was fetched; a file holds five minutes."
    return max(after - before - 300 for before, after in pairwise(files_of(polls, phase_s, lag_s)))


@st.composite
def polls_of_which_one_in_three_fails(draw: st.DrawFn) -> list[tuple[float, float]]:
    "Any pattern in which at most one of three polls in a row fails, each as slow as it likes."
    run, since = Run(), 2
    for _ in range(draw(st.integers(5, 60))):
        failed = since >= 2 and len(run.polls) > 0 and draw(st.booleans())
        since = 0 if failed else since + 1
        run.poll(draw(st.floats(0, LIMIT_S)), failed)
    return run.polls


@settings(max_examples=300, deadline=None)
@given(polls_of_which_one_in_three_fails(), st.floats(0, 60), st.floats(0, 15))
def test_one_failure_in_three_loses_nothing(polls: list[tuple[float, float]], phase_s: float, lag_s: float) -> None:
    assert lost_seconds(polls, phase_s, lag_s) <= 0
    coverage = Coverage()
    for began, ended in polls:
        coverage.add(began, ended)
    assert len(coverage.spans) == 1


@pytest.mark.parametrize("slow_s", [0.5, 10.0])
def test_a_year_of_polls_that_fail_at_random_loses_nothing(slow_s: float) -> None:
    run = Run()
    for failed in np.random.default_rng(4).random(800_000) < 1 / 3:
        run.poll(slow_s, bool(failed))
    assert run.now_s > 365 * DAY_S
    assert lost_seconds(run.polls, 0.0, 15.0) <= 0


def test_a_feed_that_stays_away_is_not_hurried_for_ever() -> None:
    run = Run()
    for _ in range(200):
        run.poll(1.0, failed=True)
    assert run.now_s > 60 * 100


def spans(*polls: tuple[float, float]) -> Coverage:
    coverage = Coverage()
    for began, ended in polls:
        coverage.add(began, ended)
    return coverage


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 300)), min_size=1, max_size=30), st.floats(-400, 3000))
def test_a_moment_is_covered_when_some_poll_surely_showed_it(polls: list[tuple[float, float]], moment: float) -> None:
    polls = [(began, began + slow) for began, slow in sorted(polls)]
    shown = any(start <= moment <= end for start, end in (surely_shown(*poll) for poll in polls))
    assert (moment in spans(*polls)) == shown


def test_spans_older_than_a_day_are_forgotten() -> None:
    coverage = spans(*((day * DAY_S / 4, day * DAY_S / 4 + 1) for day in range(100)))
    assert len(coverage.spans) <= 6


@pytest.mark.parametrize(
    ("times", "cadence"),
    [
        ([], None),
        ([0, 150, 300, 450, 600], None),
        ([0, 150, 300, 450, 600, 750], 150),
        ([0, 150, 300, 900, 1050, 1200], 150),
        ([0, 150, 600, 750, 1200, 1350], 150),
        ([0, 1, 2, 3, 4, 5], 1),
    ],
)
def test_the_cadence_is_the_median_step(times: list[int], cadence: float | None) -> None:
    assert cadence_of(times) == cadence


@pytest.mark.parametrize(
    ("after", "missing"),
    [(150, []), (80, []), (224, []), (226, [150]), (300, [150]), (374, [150]), (376, [150, 300]), (0, [])],
)
def test_a_step_of_less_than_one_and_a_half_cadences_is_whole(after: float, missing: list[float]) -> None:
    assert missing_between(0, after, 150) == missing


def tracked(times: list[int], until_s: float, coverage: Coverage | None = None) -> tuple[int, int, int]:
    "Received, gaps of the feed, our gaps of one sensor."
    added = Account(pending=times).settle(until_s, coverage or Coverage([(-1e9, 1e9)]))
    return added.received, added.missed_feed, added.missed_ours


@pytest.mark.parametrize(
    ("times", "until_s", "counts"),
    [
        ([0, 150, 300, 450, 600, 750], 750, (6, 0, 0)),
        ([0, 150, 300, 450, 600, 750, 1350], 1350, (7, 3, 0)),
        ([0, 150, 300, 450, 600, 750], 1400, (6, 3, 0)),
        ([0, 600, 750, 900, 1050, 1200], 1200, (6, 3, 0)),
        ([0, 150], 6000, (2, 0, 0)),
        ([600, 0, 300, 450, 150, 750], 750, (6, 0, 0)),
    ],
    ids=["whole", "a gap", "silent at the end", "a gap while it is learnt", "too few", "out of order"],
)
def test_one_account(times: list[int], until_s: float, counts: tuple[int, int, int]) -> None:
    assert tracked(times, until_s) == counts


def test_the_blame_goes_by_what_was_shown() -> None:
    assert tracked([0, 150, 300, 450, 600, 750, 1650], 1650, Coverage([(0, 1000)])) == (7, 1, 4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=60), st.lists(st.integers(0, 10_000), max_size=9))
def test_the_counts_do_not_depend_on_when_they_are_settled(came: list[bool], stops: list[int]) -> None:
    times = [148 * k for k, heard in enumerate([True] * 6 + came) if heard]
    at_once, in_steps, coverage = Account(pending=times), Account(pending=times), Coverage([(500, 2500)])
    for until in sorted({*stops, 10_000}):
        in_steps.settle(until, coverage)
    at_once.settle(10_000, coverage)
    assert in_steps.hours == at_once.hours


@dataclass
class City:
    "Sensors with a schedule, whose readings the feed loses or never gets, and polls that fail or are not made."

    ticks: np.ndarray  # (sensor, tick) [s since 1970]
    lost: np.ndarray  # Never in the feed
    polled: list[tuple[int, bool]]  # Minute, and whether a new run begins before it


def draw_city(rng: np.random.Generator, minutes: int = 360) -> City:
    "A city of twelve sensors: cadences of one to ten minutes, jitter, single losses, silences, and outages of ours."
    cadence = rng.choice([60, 148, 152, 300, 600], (12, 1))
    count = minutes + 20
    ticks = NOON_S - 600 + cadence * np.arange(count) + rng.integers(0, cadence) + rng.integers(-1, 2, (12, count))
    minute = (ticks - NOON_S) // 60
    outages = [(begin, begin + int(rng.integers(8, 50))) for begin in (120, 240) if rng.random() < 0.8]
    near = np.any([(minute > begin - 12) & (minute < end + 8) for begin, end in outages] or [minute < -99], axis=0)
    silent = (minute >= 180) & (minute < 180 + rng.integers(5, 40)) & (rng.random((12, 1)) < 0.3)
    clear = ~near & (minute > 45) & (minute < minutes - 5)  # where a cadence is known, and what was shown
    lost = (silent | (rng.random(ticks.shape) < 0.03)) & clear
    fails = rng.random(minutes) < 1 / 3
    polled, new = [], False
    for m in range(minutes):
        out = [outage for outage in outages if outage[0] <= m < outage[1]]
        new |= bool(out) and rng.random() < 0.5  # the process was down, or all of its polls failed
        if not out and not (fails[m] and m > 4 and not fails[m - 1] and not fails[m - 2]):
            polled.append((m, new))
            new = False
    return City(ticks, lost, polled)


def live_through(city: City, memory: Any) -> tuple[list[SensorHour], np.ndarray, np.ndarray]:
    "Rows of all runs; what was to be in a file that was fetched; what came."
    fetched, came = np.zeros_like(city.lost), np.zeros_like(city.lost)
    sent, rows = Outbox(), []
    ledger = Ledger(memory, sent, NOON, CollectorRegistry())
    for minute, new in city.polled:
        now_s = NOON_S + 60 * minute
        if new:
            ledger = Ledger(memory, sent, datetime.fromtimestamp(now_s, UTC), CollectorRegistry())
        shown = (city.ticks >= now_s - 300) & (city.ticks < now_s)
        fetched, came = fetched | shown, came | (shown & ~city.lost)
        found = zip(*np.nonzero(shown & ~city.lost), strict=True)
        ledger.note([record(int(s) + 1, int(city.ticks[s, t])) for s, t in found], now_s, now_s + 1)
        ledger.turn(now_s + 1)
    ledger.end()
    rows = [msgspec.json.decode(value, type=SensorHour) for _, _, value in sent.messages]
    return rows, fetched, came


def record(sensor_id: int, moment_s: int) -> dict[str, Any]:
    moment = datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return {"id": moment_s * 1000 + sensor_id, "timestamp": moment, "sensor": {"id": sensor_id}, "sensordatavalues": []}


@pytest.mark.parametrize("seed", range(25))
def test_the_counts_equal_the_truth_of_the_schedule(seed: int, redis_url: str) -> None:
    city = draw_city(np.random.default_rng(seed))
    rows, fetched, came = live_through(city, SharedMemory(redis_url))
    order = np.arange(city.ticks.shape[1])
    first, last = came.argmax(1, keepdims=True), order[-1] - came[:, ::-1].argmax(1, keepdims=True)
    between = (order > first) & (order < last) & ~came
    told = np.zeros((12, 3), int)
    for row in rows:
        assert row.expected == row.received + row.missed_feed + row.missed_ours
        told[row.sensor_id - 1] += (row.received, row.missed_feed, row.missed_ours)
    truth = np.stack([came.sum(1), (between & fetched).sum(1), (between & ~fetched).sum(1)], axis=1)
    assert told.tolist() == truth.tolist()
    keys = [(row.run, row.hour, row.sensor_id) for row in rows]
    assert len(set(keys)) == len(keys)


def steady(*sensors: int, minutes: int = 30, start: int = 0) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    "Polls a minute apart, and what the feed shows of sensors that report every 150 s."
    for minute in range(start, start + minutes):
        now_s = NOON_S + 60 * minute
        times = [t for t in range(NOON_S - 600, now_s, 150) if t >= now_s - 300]
        yield now_s, [record(sensor, t) for sensor in sensors for t in times]


def led(memory: Memory, sent: Outbox, run: datetime = NOON, registry: CollectorRegistry | None = None) -> Ledger:
    return Ledger(memory, sent, run, registry or CollectorRegistry())


def rows_of(sent: Outbox) -> list[SensorHour]:
    assert {topic for topic, _, _ in sent.messages} <= {COMPLETENESS_TOPIC}
    rows = [msgspec.json.decode(value, type=SensorHour) for _, _, value in sent.messages]
    assert [key for _, key, _ in sent.messages] == [str(row.sensor_id) for row in rows]
    return rows


def test_a_reading_that_comes_late_is_not_missing() -> None:
    tracker = Tracker(NOON)
    for now_s, records in steady(1):
        tracker.polled(now_s, now_s + 1)
        for moment in sorted({r["id"] // 1000 for r in records}):
            if moment % 1200 != 600 or now_s - moment > 240:  # one in eight is shown four minutes late
                tracker.see(1, moment, now_s)
        tracker.settle(now_s)
    tracker.finish()
    assert sum(row.expected - row.received for row in due(tracker, everything=True)) == 0


def test_a_reading_of_the_future_or_too_late_for_the_feed_changes_nothing() -> None:
    tracker = Tracker(NOON)
    tracker.settle(NOON_S)
    for moment in (NOON_S + 3600, NOON_S - int(GRACE_S) - 1):
        tracker.see(1, moment, NOON_S)
    assert (tracker.accounts, due(tracker, everything=True)) == ({}, [])


def test_a_sensor_that_stays_silent_is_expected_for_a_day_and_then_forgotten() -> None:
    registry = CollectorRegistry()
    tracker = Tracker(NOON, registry)
    for moment in range(NOON_S, NOON_S + 900, 150):
        tracker.see(1, moment, NOON_S + 900)
    rows, silent = [], []
    for hour in range(1, 30):
        now_s = NOON_S + 3600.0 * hour
        for minute in range(60):
            tracker.polled(now_s + 60 * minute, now_s + 60 * minute)
        tracker.settle(now_s)
        silent.append(registry.get_sample_value("sensorlib_scraper_sensors_silent"))
        rows += (found := due(tracker))
        delivered(tracker, found)
    assert (silent[2], silent[-1]) == (1, 0)
    assert sum(row.received for row in rows) == 6
    assert sum(row.missed_feed + row.missed_ours for row in rows) == DAY_S // 150 - 1  # the last one may still come
    assert (tracker.accounts, due(tracker, everything=True)) == ({}, [])


def test_an_account_does_not_grow() -> None:
    tracker = Tracker(NOON)
    for k in range(20_000):
        tracker.see(1, NOON_S + 7 * k, NOON_S + 7 * k)
        tracker.settle(NOON_S + 7 * k)
        delivered(tracker, due(tracker))
    (account,) = tracker.accounts.values()
    assert len(account.recent) == STEPS + 1
    assert len(account.pending) < GRACE_S / 7 + 2
    assert len(account.hours) <= 2


def test_prometheus_is_told_the_sums() -> None:
    registry, sent = CollectorRegistry(), Outbox()
    ledger = led(LocalMemory(), sent, registry=registry)
    for now_s, records in steady(1, 2, 3, minutes=90):
        away = 40 * 60 <= now_s - NOON_S < 60 * 60
        if not away:
            ledger.note([r for r in records if r["sensor"]["id"] != 2 or now_s < NOON_S + 1200], now_s, now_s + 1)
        ledger.turn(now_s)
    ledger.end()
    rows = rows_of(sent)
    name = "sensorlib_scraper_readings"
    told = [registry.get_sample_value(f"{name}_{what}_total") for what in ("expected", "received")]
    told += [registry.get_sample_value(f"{name}_missed_total", {"whose": whose}) for whose in ("feed", "ours")]
    assert told == [sum(getattr(r, n) for r in rows) for n in ("expected", "received", "missed_feed", "missed_ours")]
    assert min(told) > 0


def test_a_run_that_was_killed_is_told_by_the_next_and_the_time_between_is_ours(redis_url: str) -> None:
    first, second = Outbox(), Outbox()
    ledger = led(SharedMemory(redis_url), first)
    for now_s, records in steady(1, 2):
        ledger.note(records, now_s, now_s + 1)
        ledger.turn(now_s)
    later = datetime(2026, 1, 15, 12, 50, tzinfo=UTC)
    ledger = led(SharedMemory(redis_url), second, later)
    for now_s, records in steady(1, 2, start=50, minutes=5):
        ledger.note(records, now_s, now_s + 1)
        ledger.turn(now_s)
    ledger.end()
    assert [r for r in rows_of(first) if r.hour == NOON] == []
    by_run = {run: [r for r in rows_of(second) if r.run == run] for run in (NOON, later)}
    assert {r.sensor_id for r in by_run[NOON]} == {1, 2}
    whole = [r for rows in by_run.values() for r in rows if r.sensor_id == 1 and r.hour == NOON]
    assert sum(r.received for r in whole) == len(range(0, 29 * 60, 150)) + len(range(45 * 60, 54 * 60, 150))
    assert sum(r.missed_ours for r in whole) == len(range(30 * 60, 45 * 60, 150))
    assert sum(r.missed_feed for r in whole) == 0


def test_rows_that_no_broker_took_outlive_two_processes(redis_url: str) -> None:
    runs, sent = [NOON.replace(minute=minute) for minute in (0, 20, 40)], Outbox()
    for run in runs:
        ledger = led(SharedMemory(redis_url), Outbox(refusals=1000) if run < runs[-1] else sent, run)
        for now_s, records in steady(1, start=run.minute, minutes=20):
            ledger.note(records, now_s, now_s + 1)
            ledger.turn(now_s)
    ledger.end()
    assert {r.run for r in rows_of(sent)} == {*runs}
    assert sum(r.received for r in rows_of(sent)) == len(range(-300, 59 * 60, 150))


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_a_row_that_comes_again_after_a_crash_counts_once(redis_url: str, deaths: int) -> None:
    class Dying(Outbox):
        def flush(self) -> None:
            "Die with the rows at the broker, and before they are forgotten here."
            taken = len(self.waiting)
            super().flush()
            if taken and len(died) < deaths:
                died.append(taken)
                raise KeyboardInterrupt

    died: list[int] = []
    sent = Dying()
    ledger = led(SharedMemory(redis_url), sent)
    for now_s, records in steady(1, minutes=200):
        try:
            ledger.note(records, now_s, now_s + 1)
            ledger.turn(now_s + 1)
        except KeyboardInterrupt:
            ledger = led(SharedMemory(redis_url), sent, datetime.fromtimestamp(now_s + 2, UTC))
    ledger.end()
    kept = {(r.run, r.hour, r.sensor_id): r for r in rows_of(sent)}
    assert (len(died), len(kept) < len(rows_of(sent))) == (deaths, True)
    assert sum(r.received for r in kept.values()) == len(range(-300, 199 * 60, 150))
    assert {(r.missed_feed, r.missed_ours) for r in kept.values()} == {(0, 0)}


def test_a_run_that_ended_in_order_is_told_once(redis_url: str) -> None:
    sent = [Outbox(), Outbox()]
    for run, out in enumerate(sent):
        ledger = led(SharedMemory(redis_url), out, datetime(2026, 1, 15, 12, 30 * run, tzinfo=UTC))
        for now_s, records in steady(1, start=30 * run):
            ledger.note(records, now_s, now_s + 1)
            ledger.turn(now_s)
        ledger.end()
    rows = rows_of(sent[0]) + rows_of(sent[1])
    assert {(r.missed_feed, r.missed_ours) for r in rows} == {(0, 0)}
    assert sum(r.received for r in rows) == len(range(-300, 59 * 60, 150))


def test_without_redis_a_run_begins_knowing_nothing() -> None:
    sent = Outbox()
    ledger = led(LocalMemory(), sent)
    for start in (0, 50):
        ledger = led(LocalMemory(), sent)
        for now_s, records in steady(1, start=start, minutes=10):
            ledger.note(records, now_s, now_s + 1)
            ledger.turn(now_s)
    ledger.end()
    assert {(r.missed_feed, r.missed_ours) for r in rows_of(sent)} == {(0, 0)}


def test_rows_that_the_broker_refuses_come_again() -> None:
    sent = Outbox(refusals=3)
    ledger = led(LocalMemory(), sent)
    for now_s, records in steady(1, minutes=70):
        ledger.note(records, now_s, now_s + 1)
        ledger.turn(now_s)
    ledger.end()
    keys = [(r.hour, r.sensor_id) for r in rows_of(sent)]
    assert len(keys) == len(set(keys)) == 3


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"run": 5}', b"\xff"])
def test_what_redis_keeps_may_be_garbage(redis_url: str, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("sensorlib:1:completeness", mapping={"run": text, "81": b"[]", "x": b""})
    sent = Outbox()
    ledger = led(SharedMemory(redis_url), sent)
    assert "beginning anew" in caplog.text
    for now_s, records in steady(1):
        ledger.note(records, now_s, now_s + 1)
        ledger.turn(now_s)
    ledger.end()
    assert sum(r.received for r in rows_of(sent)) > 0


def test_what_is_kept_in_redis_ends_by_itself_and_holds_no_sensor_that_is_gone(redis_url: str) -> None:
    memory = SharedMemory(redis_url)
    assert memory.keep({"run": b"{}", "1": b"{}", "2": b"{}"})
    assert memory.keep({"run": b"{}", "1": None})
    assert set(memory.recall()) == {"run", "2"}
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.ttl("sensorlib:1:completeness") <= DAY_S


def test_what_redis_did_not_take_is_kept_the_next_time() -> None:
    class Flaky(LocalMemory):
        def __init__(self) -> None:
            super().__init__()
            self.answers, self.kept = [False, True], {}

        def keep(self, changes: Any) -> bool:
            taken = self.answers.pop(0) if self.answers else True
            self.kept |= changes if taken else {}
            return taken

    memory = Flaky()
    ledger = led(memory, Outbox())
    ledger.note([record(1, NOON_S - 10)], NOON_S, NOON_S + 1)
    for now_s in (NOON_S, NOON_S + 1):
        ledger.turn(now_s)
    assert set(memory.kept) == {"run", "1"}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"sensor": 5},
        {"sensor": {"id": "x"}, "timestamp": "2026-01-15 12:00:00"},
        {"sensor": {"id": 1}, "timestamp": "noon"},
        {"sensor": {"id": 10**30}, "timestamp": "2026-01-15 12:00:00"},
    ],
)
def test_an_odd_record_is_not_counted(odd: dict[str, Any]) -> None:
    sent = Outbox()
    ledger = led(LocalMemory(), sent)
    ledger.note([odd], NOON_S, NOON_S + 1)
    ledger.turn(NOON_S + 600)
    ledger.end()
    assert sent.messages == []


def test_a_state_survives_being_written_and_read() -> None:
    tracker = Tracker(NOON)
    for now_s, records in steady(1, 2):
        tracker.polled(now_s, now_s + 1)
        for r in records:
            tracker.see(r["sensor"]["id"], r["id"] // 1000, now_s)
        tracker.settle(now_s)
    kept = {key: text for key, text in changes(tracker).items() if text is not None}
    again = Tracker(NOON.replace(minute=30))
    restore(again, kept)
    assert again.coverage.spans == tracker.coverage.spans
    assert due(again) == due(tracker, everything=True)
    assert {i: (a.recent, a.pending) for i, a in again.accounts.items()} == {
        i: (a.recent, a.pending) for i, a in tracker.accounts.items()
    }


def test_the_scraper_hurries_after_a_failure_and_keeps_its_pace_after_a_success() -> None:
    pauses: list[float] = []

    class Watch(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    def fail() -> Answer:
        raise FeedError("away")

    polls = [("test", ask) for ask in (lambda: Answer([]), fail, fail, lambda: None, fail)]
    scrape(polls, LocalMemory(), Outbox(), Watch(), pause_s=60.0)
    assert [round(pause, 1) for pause in pauses] == [60.0, RETRY_S, RETRY_S, 60.0, RETRY_S]


def test_the_scraper_counts_only_what_was_delivered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    sent = Outbox()
    now_s = int(datetime.now(UTC).timestamp())
    found = Answer([record(1, now_s - 60), record(2, now_s - 60)])
    ledger = led(LocalMemory(), sent, datetime.now(UTC))
    scrape([("test", lambda: found)] * 3, LocalMemory(), sent, threading.Event(), ledger=ledger)
    rows = [json.loads(value) for topic, _, value in sent.messages if topic == COMPLETENESS_TOPIC]
    assert [(row["sensor_id"], row["received"]) for row in rows] == [(1, 1), (2, 1)]
