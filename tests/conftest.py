"""What several tests share: the published data where it is at hand, a Redis, a web server."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from city import City, filled_city

from sensorlib.core import MissingPart
from sensorlib.local import Part, start_broker, start_part, start_redis, wait_for_topics

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
INPUTS: Counter[str] = Counter()  # How many generated inputs went through what


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    "Tell how much was generated."
    for what, count in INPUTS.items():
        terminalreporter.write_line(f"{count:>9,} generated: {what}")
    if INPUTS:
        terminalreporter.write_line(f"{INPUTS.total():>9,} inputs together")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "Folder of the published readings; the test is skipped where it is absent."
    if not SHARED_DATA.is_dir():
        pytest.skip("the published readings (../shared/data) are not on this machine")
    return SHARED_DATA


def wait_for_redis(url: str, patience_s: float = 20.0) -> None:
    "Return as soon as a Redis answers."
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "URL of a Redis of our own; the test is skipped where there is none."
    folder = tmp_path_factory.mktemp("redis")
    try:
        part, url = start_redis(folder / "data", folder)
    except MissingPart as error:
        pytest.skip(str(error))
    wait_for_redis(url)
    yield url
    part.stop()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    "URL of an empty Redis."
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@dataclass
class OwnRedis:
    "A Redis that a test may kill."

    part: Part
    url: str

    def kill(self) -> None:
        self.part.process.kill()
        self.part.process.wait()

    def start(self) -> None:
        "Start it again, on the same port and data."
        command = [str(word) for word in self.part.process.args]
        self.part = start_part("redis", command, self.part.log_file.parent)
        wait_for_redis(self.url)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    try:
        own = OwnRedis(*start_redis(tmp_path / "data", tmp_path))
    except MissingPart as error:
        pytest.skip(str(error))
    wait_for_redis(own.url)
    yield own
    own.part.stop()


@dataclass
class Web:
    "A web server that gives prepared replies, the last one again and again."

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)  # Headers of each request, names in lower case
    got: list[bytes] = field(default_factory=list)  # Bodies of the requests that had one
    paths: list[str] = field(default_factory=list)  # What each request asked for
    times_s: list[float] = field(default_factory=list)  # When each request came, by the monotonic clock
    replies: list[tuple[int, bytes, dict[str, str], float]] = field(default_factory=list)

    def reply(self, body: bytes = b"[]", status: int = 200, wait_s: float = 0.0, **headers: str) -> "Web":
        "Prepare one more reply; `_` in the name of a header stands for `-`."
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.replies.append((status, body, named, wait_s))
        return self


def _handler(web: Web, closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            web.got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def do_GET(self) -> None:
            status, body, headers, wait_s = web.replies[min(len(web.asked), len(web.replies) - 1)]
            web.paths.append(self.path)
            web.times_s.append(time.monotonic())
            web.asked.append({name.lower(): text for name, text in self.headers.items()})
            closing.wait(wait_s)
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            "Stay silent."

    return Handler


@pytest.fixture
def web() -> Iterator[Web]:
    "A web server on this machine, without a reply yet."
    web, closing = Web(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web, closing))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}/data.json"
    yield web
    closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "Address of a Kafka broker with our topics; the test is skipped where there is none."
    folder = tmp_path_factory.mktemp("broker")
    try:
        part, address = start_broker(folder / "kafka", folder)
    except MissingPart as error:
        pytest.skip(str(error))
    try:
        wait_for_topics(part, address)
        yield address
    finally:
        part.stop()


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    "An InfluxDB with a city in it; the test is skipped where there is no influxd."
    with filled_city(tmp_path_factory.mktemp("city")) as made:
        yield made
