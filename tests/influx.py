"""A real InfluxDB for tests: in $INFLUXD, on PATH, from `make influxd`, or at $INFLUX_URL; without one the test is skipped."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from waiting import built

from sensorlib.local import Part, start_part


@dataclass(frozen=True)
class Influx:
    "A server, and what it takes to write to it."

    address: str  # e.g. http://127.0.0.1:8086
    org: str
    token: str

    def ask(self, method: str, path: str, **json: object) -> dict:
        answer = httpx.request(
            method, self.address + path, json=json or None, headers={"Authorization": f"Token {self.token}"}
        )
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def set_up(self) -> None:
        "Make user, organisation, token and bucket of a new server."
        names = {"username": "test", "password": secrets.token_hex(8), "org": self.org, "bucket": "readings"}
        self.ask("POST", "/api/v2/setup", token=self.token, **names)

    def write(self, bucket: str, lines: str) -> None:
        "Write lines as they are, times in seconds."
        answer = httpx.post(
            f"{self.address}/api/v2/write?org={self.org}&bucket={bucket}&precision=s",
            content=lines,
            headers={"Authorization": f"Token {self.token}"},
        )
        answer.raise_for_status()

    @contextmanager
    def made(self, name: str, keep_s: int = 0) -> Iterator[None]:
        "Have a bucket for a while."
        org_id = self.ask("GET", f"/api/v2/orgs?org={self.org}")["orgs"][0]["id"]
        rules = [{"type": "expire", "everySeconds": keep_s}] if keep_s else []
        made = self.ask("POST", "/api/v2/buckets", orgID=org_id, name=name, retentionRules=rules)
        yield
        self.ask("DELETE", f"/api/v2/buckets/{made['id']}")

    @contextmanager
    def bucket(self, keep_s: int = 0) -> Iterator[str]:
        "Store URL of a new bucket, which keeps readings for so long (0: for ever)."
        name = f"test-{secrets.token_hex(6)}"
        with self.made(name, keep_s):
            yield f"{self.address.replace('http', 'influxdb')}?org={self.org}&bucket={name}"


def influxd_program() -> str | None:
    "The influxd to run: the one that is named, else the one on PATH, else the one that was built."
    found = os.environ.get("INFLUXD") or shutil.which("influxd") or built("influxd", "influxd/go.sum")
    return str(found) if found else None


def needed_influxd() -> str:
    "The influxd to run; the test is skipped where there is none."
    program = influxd_program()
    if not program:
        pytest.skip(
            "no InfluxDB: run `make influxd`, put influxd on PATH, or set INFLUX_URL and SENSORLIB_INFLUX_TOKEN"
        )
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def influxd_command(program: str, address: str, folder: Path) -> list[str]:
    "Command line of a server that keeps everything in a folder."
    paths = [f"--{name}-path={folder / name}" for name in ("bolt", "sqlite", "engine")]
    return [program, f"--http-bind-address={address.removeprefix('http://')}", *paths, "--reporting-disabled"]


def start_influxd(program: str, folder: Path, logs: Path) -> tuple[Influx, Part]:
    "Start a server that keeps everything in a folder and that nobody has set up; it is healthy when this returns."
    server = Influx(f"http://127.0.0.1:{free_port()}", "home", secrets.token_hex(16))
    part = start_part("influxd", influxd_command(program, server.address, folder), logs)
    wait_until_healthy(server.address, part.process, part.log_file)
    return server, part


@contextmanager
def running_influxd(program: str, folder: Path, set_up: bool = True) -> Iterator[Influx]:
    "Have a server in a folder for a while, set up unless told not to."
    server, part = start_influxd(program, folder, folder)
    try:
        if set_up:
            server.set_up()
        yield server
    finally:
        part.stop()


def wait_until_healthy(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{address}/health").is_success:
                return
        except httpx.TransportError:
            assert process.poll() is None, f"influxd ended at once:\n{log.read_text()[-2000:]}"
        time.sleep(0.1)
    raise TimeoutError(f"influxd was not healthy after 30 s:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    "InfluxDB 2, as real as it is to be had."
    address, token = os.environ.get("INFLUX_URL", ""), os.environ.get("SENSORLIB_INFLUX_TOKEN", "")
    if address and token:
        orgs = httpx.get(f"{address}/api/v2/orgs", headers={"Authorization": f"Token {token}"}).json()["orgs"]
        yield Influx(address.rstrip("/"), orgs[0]["name"], token)
        return
    with running_influxd(needed_influxd(), tmp_path_factory.mktemp("influxd")) as server:
        yield server
