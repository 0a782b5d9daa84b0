"""The rows of the matrix: what is done to the system while the load is on."""

import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from .load import WINDOW_S, Load
from .machine import POLL_S, Machine, wait_until
from .stores import SqliteKept, keep_in, small_disk
from .verdict import TOPICS, Verdict, compare, judged, values_on_raw

QUIET_S = 5.0  # nothing has moved for so long: the load has settled
PATIENCE_S = 120.0  # without any movement, readings are given up
DISK_MB = 160


class Harmless(AssertionError):
    "What should have hurt the system did not."


@dataclass
class Run:
    "A load under way."

    machine: Machine
    load: Load
    scratch: Path  # An empty folder

    def step(self) -> None:
        "Let load and machine go on."
        self.load.step()
        self.machine.step()

    def live(self, seconds: float) -> None:
        "Let them go on for a while."
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.step()
            time.sleep(0.1)

    def share(self, part: float) -> float:
        "A part of the load's length [s]."
        return part * len(self.load.seconds)


def killing(*names: str) -> Callable[[Run], None]:
    "Kill parts at the same moment."
    return lambda run: run.machine.kill(*names)


def kill_jvm(run: Run) -> None:
    "Kill Flink's JVM alone; the service that started it has to notice."
    _, *children = run.machine.processes("stream")
    if not children:
        raise Harmless("the stream has no JVM")
    for process in children:
        process.kill()


def kill_writer(run: Run) -> None:
    "Kill the collector in the middle of a transaction: when nobody else can begin one."
    kept = run.machine.kept
    assert isinstance(kept, SqliteKept)
    with kept.connect() as db:
        db.execute("PRAGMA busy_timeout = 0")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            run.load.step()
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
                time.sleep(0.003)
            except sqlite3.OperationalError:
                run.machine.kill("collect")
                return
    raise Harmless("the collector began no transaction in 30 s")


@contextmanager
def stuck(run: Run) -> Iterator[None]:
    "Hold the store up: lock the file from another process, or stop the server's."
    kept = run.machine.kept
    if isinstance(kept, SqliteKept):
        with kept.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("ROLLBACK")
    else:
        run.machine.send("influxd", signal.SIGSTOP)
        yield
        run.machine.send("influxd", signal.SIGCONT)


def hold_up(run: Run) -> None:
    "Hold the store up for a third of the load."
    with stuck(run):
        run.live(run.share(1 / 3))


def kill_while_held_up(run: Run) -> None:
    "Kill the collector while it waits for the store: what it has in hand nobody else has."
    with stuck(run):
        run.live(run.share(1 / 4))
        run.machine.kill("collect")
        run.live(run.share(1 / 8))


def pause_broker(run: Run) -> None:
    "Stop the broker's process for half of the load."
    run.machine.send("broker", signal.SIGSTOP)
    run.live(run.share(1 / 2))
    run.machine.send("broker", signal.SIGCONT)


def move_clock(run: Run) -> None:
    "Move the clock of the feed an hour ahead, then an hour back, then right."
    for moved_s in (3600, -3600):
        run.machine.feed.clock_s = moved_s
        run.live(run.share(1 / 5))
    run.machine.feed.clock_s = 0


def cutting(what: str) -> Callable[[Run], None]:
    "Cut each request, or each response, of the store for a third of the load, and until one was cut."

    def cut(run: Run) -> None:
        proxy = run.machine.kept.proxy
        assert proxy is not None
        before, proxy.cut = proxy.cuts, what
        run.live(run.share(1 / 3))
        wait_until(lambda: proxy.cuts > before, 60, f"a {what} to cut", run.step)
        proxy.cut = ""

    return cut


def stored(run: Run) -> int:
    "Count what is stored of this load."
    return run.machine.kept.count(run.load.span())


def kill_server(run: Run) -> None:
    "Kill InfluxDB's server, and wait until it answers again."
    old = run.machine.parts["influxd"]
    run.machine.kill("influxd")
    wait_until(lambda: run.machine.parts["influxd"] is not old and run.machine.kept.answers(), 60, "InfluxDB", run.step)


def fill_disk(run: Run) -> None:
    """Fill the disk under the store until the collector has noticed, and for a quarter of the load; then free it.

    InfluxDB has to be started again after that, and twice before anybody writes. It refuses every write until the first
    start (influxdb#24460). That start cuts its log where the disk was full, but goes on behind the cut: what it then
    acknowledges is gone with the next start, so the log has to be opened once more.
    """
    wait_until(lambda: stored(run), 60, "a first reading", run.step)
    ballast, noticed = run.scratch / "disk" / "ballast", len(run.machine.log_of("collect"))
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    told = re.compile("disk is full|no space left")
    wait_until(lambda: told.search(run.machine.log_of("collect"), noticed), 60, "a word of the collector", run.step)
    run.live(run.share(1 / 4))
    ballast.unlink()
    if "influxd" in run.machine.parts:
        run.machine.send("collect", signal.SIGSTOP)
        kill_server(run)
        kill_server(run)
        run.machine.send("collect", signal.SIGCONT)


def fill_disk_and_kill(run: Run) -> None:
    "The same, and kill the store in the middle of what it then catches up with."
    fill_disk(run)
    run.live(3)
    run.machine.kill(*(name for name in ("influxd", "collect") if name in run.machine.parts))


@dataclass(frozen=True)
class Row:
    "One line of the matrix."

    name: str
    hurt: Callable[[Run], Any]
    stores: tuple[str, ...] = ("sqlite", "influx")
    on_small_disk: bool = False


ROWS = [
    Row("nothing", lambda run: None),
    Row("kill scraper", killing("scrape")),
    Row("kill broker", killing("broker")),
    Row("kill Redis", killing("redis")),
    Row("kill Flink's JVM", kill_jvm),
    Row("kill the stream service", killing("stream")),
    Row("kill collector", killing("collect")),
    Row("kill store", kill_writer, ("sqlite",)),
    Row("kill store", killing("influxd"), ("influx",)),
    Row("kill collector and store", killing("collect", "influxd"), ("influx",)),
    Row("kill Flink and broker", killing("stream", "broker")),
    Row("fill the store's disk", fill_disk, on_small_disk=True),
    Row("fill the store's disk and kill", fill_disk_and_kill, on_small_disk=True),
    Row("hold up the store", hold_up),
    Row("hold up the store and kill collector", kill_while_held_up),
    Row("pause broker", pause_broker),
    Row("move the feed's clock", move_clock),
    Row("cut responses", cutting("response"), ("influx",)),
    Row("cut requests", cutting("request"), ("influx",)),
]


def rows_of(
    store: str,  # sqlite or influx
    names: str = "",  # Parts of their names, comma separated; empty: all
) -> list[Row]:
    "Choose rows."
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    mine = [row for row in ROWS if store in row.stores]
    return [row for row in mine if not wanted or any(name in row.name.lower() for name in wanted)]


@contextmanager
def _place(machine: Machine, row: Row, store: str, scratch: Path) -> Iterator[None]:
    "Where a row stores: where all do, or on a small disk of its own."
    if not row.on_small_disk:
        yield
        return
    with (
        small_disk(scratch / "disk", DISK_MB) as disk,
        keep_in(store, disk, machine.logs) as kept,
        machine.storing_in(kept),
    ):
        yield


@dataclass(frozen=True)
class Outcome:
    "A row that was run."

    row: str
    store: str
    repetition: int
    verdict: Verdict
    restarts: int  # Parts that were started again
    silent_s: float  # Longest time in which nothing reached the collector
    recovery_s: float  # From the end of the load until all is stored
    unpolled_s: float  # Longest time between two polls

    def line(self) -> dict[str, Any]:
        "As it is printed."
        times = {name: round(getattr(self, name), 1) for name in ("silent_s", "recovery_s", "unpolled_s")}
        head = {"row": self.row, "store": self.store, "repetition": self.repetition}
        return {**head, **asdict(self.verdict), "restarts": self.restarts, **times}


def _settle(run: Run) -> float:
    "Wait until all is stored and nothing moves; return when the last reading came [s since now]."
    machine, span, said = run.machine, run.load.span(), len(run.machine.feed.said)
    began = moved = full = time.monotonic()
    before: object = None
    while True:
        run.live(1.0)
        state = (machine.kept.count(span), machine.is_up(), *_moving(machine))
        now = time.monotonic()
        if state != before:
            moved = now
            full = now if before is None or state[0] != before[0] else full  # type: ignore[index]
        before = state
        quiet_s = now - moved
        if quiet_s > PATIENCE_S or (quiet_s > QUIET_S and state[0] >= said and state[1:3] == (True, 0)):
            return full - began


def _moving(machine: Machine) -> tuple[int, tuple[int, ...]]:
    "What the collector has still to do, and how long the topics are; -1 while the system is not up."
    if not machine.is_up():
        return -1, ()
    try:
        ends = machine.ends()
        return machine.lag(), tuple(ends[topic] for topic in TOPICS)
    except KafkaException:  # the broker runs, and does not answer yet
        return -1, ()


def run_row(
    machine: Machine,
    row: Row,
    store: str,  # sqlite or influx
    number: int,  # Of the load; no two loads of a machine have the same
    repetition: int,
    seconds: int,  # Length of the load
    scratch: Path,  # A folder that is not there yet
) -> Outcome:
    "Put the load on, do what the row says after a quarter of it, settle, and count."
    scratch.mkdir(parents=True)
    with _place(machine, row, store, scratch):
        since = machine.ends()
        run = Run(machine, Load(machine.feed, number, seconds), scratch)
        machine.begin_watch()
        run.live(run.share(1 / 4))
        row.hurt(run)
        while not run.load.over():
            run.live(0.5)
        recovery_s = _settle(run)
        if "influxd" in machine.parts:
            kill_server(run)  # what it has acknowledged it must still have
        unpolled_s = machine.feed.longest_gap_s()
        if unpolled_s + POLL_S > WINDOW_S:
            raise AssertionError(
                f"nobody polled for {unpolled_s:.0f} s, and the feed shows a record for {WINDOW_S:.0f} s only"
            )
        verdict = _verdict(machine, run.load, since)
    return Outcome(row.name, store, repetition, verdict, machine.restarts, machine.silent_s, recovery_s, unpolled_s)


def _verdict(machine: Machine, load: Load, since: dict[str, int]) -> Verdict:
    until, span = machine.ends(), load.span()
    found = {topic: machine.messages(topic, since[topic], until[topic]) for topic in TOPICS}
    raw, dead, *kinds = found.values()
    verdicts = judged([message for messages in kinds for message in messages], span)
    stored = machine.kept.rows(span)
    return compare(machine.feed.truth(), stored, verdicts, values_on_raw(raw, span), len(dead))
