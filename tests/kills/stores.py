"""The two stores as the matrix treats them: started in a folder, killed, filled up, and read whole, past the code under test."""

import io
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import pandas as pd
from influx import Influx, influxd_program, start_influxd

from sensorlib.core import KINDS, VALUE_TYPES
from sensorlib.local import Part

from .load import KEY
from .proxy import Proxy, proxy_to

Span = tuple[int, int]  # First second, and the one after the last
COLUMNS = [*KEY, "value", "qc", "lat", "lon"]


class Kept(Protocol):
    "A store, running."

    url: str  # As the collector gets it
    part: Part | None  # Its server; None where it has none
    proxy: Proxy | None  # Between collector and server
    token: str  # What the collector needs to know besides

    def answers(self) -> bool:
        "Whether it is there."

    def count(self, span: Span) -> int:
        "Count the readings of a span."

    def rows(self, span: Span) -> pd.DataFrame:
        "Read the readings of a span, those that are there twice twice."


class SqliteKept:
    "A file of SQLite."

    part: Part | None = None
    proxy: Proxy | None = None
    token = ""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "readings.db"
        self.url = f"sqlite:///{self.path}"

    def connect(self) -> closing[sqlite3.Connection]:
        "Open the file beside the collector."
        return closing(sqlite3.connect(self.path, timeout=60, isolation_level=None))

    def answers(self) -> bool:
        "Whether the file is there."
        return self.path.exists()

    def count(self, span: Span) -> int:
        "Count the readings of a span."
        if not self.answers():
            return 0
        with self.connect() as db:
            return db.execute("SELECT count(*) FROM readings WHERE ts >= ? AND ts < ?", span).fetchone()[0]

    def rows(self, span: Span) -> pd.DataFrame:
        "Read the readings of a span, after SQLite has checked the file."
        with self.connect() as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            query = """SELECT r.sensor_id, v.name AS value_type, r.ts, r.value, r.qc, s.lat, s.lon FROM readings r
                JOIN value_types v ON v.id = r.value_type JOIN sites s ON s.id = r.site WHERE r.ts >= ? AND r.ts < ?"""
            frame = pd.read_sql_query(query, db, params=span)
        return frame.assign(ts=pd.to_datetime(frame["ts"], unit="s", utc=True))[COLUMNS]


class InfluxKept:
    "A server of InfluxDB, with a connection that can be cut."

    def __init__(self, server: Influx, part: Part, proxy: Proxy) -> None:
        self.part, self.proxy, self.token = part, proxy, server.token
        self.url = f"influxdb://127.0.0.1:{proxy.port}?org={server.org}&bucket=readings"
        self._server = server

    def _ask(self, query: str) -> pd.DataFrame:
        headers = {"Authorization": f"Token {self._server.token}", "Accept": "application/csv"}
        told = {"db": "readings", "epoch": "s", "q": query}
        answer = httpx.get(f"{self._server.address}/query", params=told, headers=headers, timeout=120)
        answer.raise_for_status()
        return pd.read_csv(io.StringIO(answer.text), keep_default_na=True) if answer.text.strip() else pd.DataFrame()

    def answers(self) -> bool:
        "Whether the server is healthy."
        try:
            return httpx.get(f"{self._server.address}/health").is_success
        except httpx.TransportError:
            return False

    def count(self, span: Span) -> int:
        "Count the readings of a span; 0 while the server is away."
        fields = ", ".join(f'count("{name}_qc") AS "{name}"' for name in VALUE_TYPES)
        try:
            found = [self._ask(f'SELECT {fields} FROM "{kind}" WHERE {_where(span)}') for kind in KINDS]
        except (httpx.TransportError, httpx.HTTPStatusError):
            return 0
        return int(sum(frame.reindex(columns=list(VALUE_TYPES)).sum().sum() for frame in found))

    def rows(self, span: Span) -> pd.DataFrame:
        "Read the readings of a span, those of two series twice."
        found = [self._ask(f'SELECT * FROM "{kind}" WHERE {_where(span)}') for kind in KINDS]
        parts = []
        for frame in found:
            for name in VALUE_TYPES:
                if f"{name}_qc" in frame:
                    columns = {"time": "ts", name: "value", f"{name}_qc": "qc"}
                    one = frame.dropna(subset=[f"{name}_qc"]).rename(columns=columns)
                    parts.append(one.assign(value_type=name)[COLUMNS])
        rows = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
        return rows.assign(ts=pd.to_datetime(rows["ts"], unit="s", utc=True), qc=rows["qc"].astype(int))


def _where(span: Span) -> str:
    return f"time >= {span[0]}s AND time < {span[1]}s"


@contextmanager
def keep_in(kind: str, folder: Path, logs: Path) -> Iterator[Kept]:
    "Start a store in a folder: sqlite, or influx."
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "sqlite":
        yield SqliteKept(folder)
        return
    program = influxd_program()
    assert program, "no influxd"
    server, part = start_influxd(program, folder, logs)
    with proxy_to(int(server.address.rpartition(":")[2])) as proxy:
        kept = InfluxKept(server, part, proxy)
        try:
            server.set_up()
            yield kept
        finally:
            kept.part.stop()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    "Mount a disk of its own size."
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def no_small_disk(folder: Path) -> str:
    "Why no disk of its own size can be had here; empty when it can."
    try:
        with small_disk(folder / "probe", 1):
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "a small disk can only be mounted by root, and not in every container"
