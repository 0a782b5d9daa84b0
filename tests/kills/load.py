"""A feed of a made city that sends some thousand readings a second and remembers each of them."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby, pairwise
from typing import Any

import msgspec
import pandas as pd

from sensorlib.simulate import make_city, records

SENSORS = 4000
HASTE = 32  # a sensor that reports every 145 s is made to report every 4.5 s: 2,250 readings/s
WINDOW_S = 90.0  # how long the feed shows a record; no outage may last as long
BEGIN = datetime(2025, 5, 5, tzinfo=UTC)
APART = timedelta(
    hours=3
)  # between the times of two loads, so that no clock that is moved by an hour meets another load
KEY = ["sensor_id", "value_type", "ts"]


def made(number: int, seconds: int) -> list[list[dict[str, Any]]]:
    "Records of each second of a load."
    begin = BEGIN + number * APART
    found = records(make_city(SENSORS), begin, begin + timedelta(seconds=HASTE * seconds))
    seconds_of: list[list[dict[str, Any]]] = [[] for _ in range(seconds)]
    for text, group in groupby(found, key=lambda record: record["timestamp"]):
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        seconds_of[int((moment - begin).total_seconds()) // HASTE] += group
    return seconds_of


class CityFeed:
    "Shows what its sensors said in the last `WINDOW_S` seconds; in `said` is all that they ever said."

    def __init__(self) -> None:
        self.url = ""
        self.clock_s = 0  # what is added to the time of a record
        self.said: list[tuple[int, str, datetime, float, float, float]] = []
        self.answered: list[float] = []  # when it was asked, on the monotonic clock
        self._shown: deque[tuple[float, bytes]] = deque()
        self._lock = threading.Lock()

    def begin(self) -> None:
        "Forget what was said; it is still shown for a while."
        self.said, self.answered, self.clock_s = [], [time.monotonic()], 0

    def say(self, number: int, second: int, spoken: list[dict[str, Any]]) -> None:
        "Show the records of one second of a load."
        moment = BEGIN + number * APART + timedelta(seconds=second + self.clock_s)
        text = moment.strftime("%Y-%m-%d %H:%M:%S")
        for record in spoken:
            sensor_id, place = record["sensor"]["id"], record["location"]
            where = float(place["latitude"]), float(place["longitude"])
            for value in record["sensordatavalues"]:
                self.said.append((sensor_id, value["value_type"], moment, float(value["value"]), *where))
        data = b",".join(msgspec.json.encode({**record, "timestamp": text}) for record in spoken)
        with self._lock:
            self._shown.append((time.monotonic(), data))

    def answer(self) -> bytes:
        "What is shown now."
        now = time.monotonic()
        self.answered.append(now)
        with self._lock:
            while self._shown and now - self._shown[0][0] > WINDOW_S:
                self._shown.popleft()
            return b"[" + b",".join(data for _, data in self._shown if data) + b"]"

    def longest_gap_s(self) -> float:
        "Longest time between two polls since the load began; longer than the window, and readings are lost to anybody."
        asked = [*self.answered, time.monotonic()]
        return max(after - before for before, after in pairwise(asked))

    def truth(self) -> pd.DataFrame:
        "All that was said since the load began."
        return pd.DataFrame(self.said, columns=[*KEY, "value", "lat", "lon"])


class Load:
    "A load under way: says each second what its sensors say in it."

    def __init__(self, feed: CityFeed, number: int, seconds: int) -> None:
        self.feed, self.number, self.seconds = feed, number, made(number, seconds)
        feed.begin()
        self.began = time.monotonic()
        self._said = 0

    def step(self) -> None:
        "Say what is due."
        due = min(len(self.seconds), int(time.monotonic() - self.began) + 1)
        for second in range(self._said, due):
            self.feed.say(self.number, second, self.seconds[second])
        self._said = due

    def over(self) -> bool:
        "Whether all has been said."
        return self._said == len(self.seconds)

    def span(self) -> tuple[int, int]:
        "First second, and the one after the last, of the times of this load, however its clock was moved."
        middle = int((BEGIN + self.number * APART).timestamp())
        return middle - 5400, middle + 5400


def _handler(feed: CityFeed) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = feed.answer()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            "Stay silent."

        def handle(self) -> None:
            "Serve, though the one who asks may be killed meanwhile."
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

    return Handler


@contextmanager
def city_feed() -> Iterator[CityFeed]:
    "Serve a feed on this machine."
    feed = CityFeed()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(feed))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    feed.url = f"http://127.0.0.1:{server.server_port}/data.json"
    try:
        yield feed
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
