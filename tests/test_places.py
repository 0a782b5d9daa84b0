"""Country codes, cells, and place names: decided once, with a real Redis that dies, and an online geocoder that fails."""

import itertools
import json
import logging
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import redis
import reverse_geocode
from outbox import Outbox

from sensorlib.archive import open_files, read_file
from sensorlib.core import MissingPart, PlaceError, Reading, SettingError, Settings
from sensorlib.feed import Answer
from sensorlib.places import (
    CELL_DEGREES,
    NEAR_KM,
    Gazetteer,
    Location,
    Names,
    Nominatim,
    Place,
    Places,
    cell,
    country,
    enrich,
    location_of,
    places_of,
    read_gazetteer,
)
from sensorlib.scraper import SharedMemory, scrape, send_answer
from sensorlib.store import Store, open_store

if TYPE_CHECKING:
    from conftest import OwnRedis, Web
    from influx import Influx

pytest_plugins = ("influx",)

MOMENT = "2026-01-15T12:00:00Z"


@pytest.mark.parametrize(
    ("code", "found"),
    [("DE", ("DE", "Germany")), ("de", ("DE", "Germany")), (" De ", ("DE", "Germany")), ("UK", ("GB", "United Kingdom")),
     ("GB", ("GB", "United Kingdom")), ("EL", ("GR", "Greece")), ("GR", ("GR", "Greece")), ("BO", ("BO", "Bolivia")),
     ("XX", (None, None)), ("DEU", (None, None)), ("Germany", (None, None)), ("", (None, None)), ("ÄÖ", (None, None)),
     (None, (None, None)), (5, (None, None)), (True, (None, None)), (["DE"], (None, None)), ({}, (None, None))],
    ids=repr,
)  # fmt: skip
def test_country(code: object, found: tuple[str | None, str | None]) -> None:
    assert country(code) == found


@pytest.mark.parametrize(
    ("lat", "lon", "name"),
    [(48.78, 9.18, "48.7_9.1"), (48.7, 9.1, "48.7_9.1"), (0.3, 0.7, "0.3_0.7"), (-33.87, 151.21, "-33.9_151.2"), (0.05, -0.05, "0.0_-0.1"),
     (-0.0, 0.0, "0.0_0.0"), (90.0, 180.0, "90.0_180.0"), (-90.0, -180.0, "-90.0_-180.0"), (90.1, 0.0, None), (0.0, 180.01, None),
     (None, 9.1, None), (48.7, None, None), (math.nan, 9.1, None), (48.7, math.nan, None), (math.inf, 9.1, None), (48.7, -math.inf, None)],
)  # fmt: skip
def test_cell(lat: float | None, lon: float | None, name: str | None) -> None:
    assert cell(lat, lon) == name


def test_a_corner_belongs_to_its_own_cell() -> None:
    corners = [round(tenth * CELL_DEGREES, 1) for tenth in range(-900, 900)]
    assert [cell(corner, corner) for corner in corners] == [f"{c + 0.0:.1f}_{c + 0.0:.1f}" for c in corners]


def test_a_cell_holds_the_positions_that_it_names() -> None:
    for lat, lon in itertools.product((-33.8688, -0.001, 0.0999, 48.789), (-122.4194, -0.0499, 9.1829, 179.999)):
        south, west = map(float, str(cell(lat, lon)).split("_"))
        assert south <= lat < south + CELL_DEGREES + 1e-9
        assert west <= lon < west + CELL_DEGREES + 1e-9


def test_enrich_adds_five_fields_and_changes_nothing() -> None:
    record = {"id": 1, "location": {"latitude": "48.78", "longitude": "9.18", "country": "uk"}, "other": [1]}
    kept = {"id": 1, "location": {"latitude": "48.78", "longitude": "9.18", "country": "uk"}, "other": [1]}
    added = {
        "place": None,
        "country_name": "United Kingdom",
        "country_abb": "GB",
        "cell": "48.7_9.1",
        "fetched_at": MOMENT,
    }
    assert enrich(record, MOMENT) == kept | added
    assert record == kept


@pytest.mark.parametrize(
    "location",
    [None, 5, "Berlin", [], ["DE"], {}, True, {"country": ["DE"], "latitude": {}, "longitude": True}],
    ids=repr,
)
def test_enrich_takes_any_location(location: object) -> None:
    found = enrich({"location": location}, MOMENT)
    assert found["location"] == location
    assert (found["country_abb"], found["country_name"], found["cell"]) == (None, None, None)


Record = dict[str, Any]
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
STUTTGART = Location("7", 48.7758, 9.1829, "DE")


def record(
    location: object = 7, lat: float = 48.7758, lon: float = 9.1829, code: str = "DE", sensor: int = 81
) -> Record:
    where = {"id": location, "latitude": str(lat), "longitude": str(lon), "country": code}
    values = [{"value_type": "P2", "value": "5"}]
    return {
        "id": sensor, "timestamp": "2026-01-15 11:59:00", "sensor": {"id": sensor}, "location": where, "sensordatavalues": values
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "location"),
    [(record(), STUTTGART), (record("7"), STUTTGART),
     (record(None, 48.77581, 9.18294), Location("48.776_9.183", 48.77581, 9.18294, "DE")),
     (record(0, -0.0004, 0.0004, "XX"), Location("0.000_0.000", -0.0004, 0.0004, None)),
     (record(7, 91, 9), Location("7", None, None, "DE")), (record(None, 9, 181), Location(None, None, None, "DE")),
     ({"location": {"id": 7}}, Location("7", None, None, None)), ({}, Location(None, None, None, None)),
     ({"location": {"id": True, "latitude": math.nan, "longitude": []}}, Location(None, None, None, None))],
)  # fmt: skip
def test_location(told: Record, location: Location) -> None:
    assert location_of(told) == location


@cache
def gazetteer() -> Gazetteer:
    return Gazetteer()


def named(lat: float, lon: float, code: str | None = None) -> str | None:
    return gazetteer().names([Location(None, lat, lon, code)])[0]


def test_the_countrys_own_place_wins_and_what_is_far_has_no_name() -> None:
    assert [named(48.5735, 7.8005, code) for code in ("DE", "FR")] == ["Kehl", "Strasbourg"]
    assert [named(47.371, 8.524, code) for code in ("DE", "AQ")] == [None, None]
    assert [named(*far) for far in ((0, 0), (90, 0), (-90, 180), (0, -180), (55, 3))] == [None] * 5
    assert gazetteer().names([]) == []


@cache
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    "Name, country and coordinates [radians] of each place."
    places = read_gazetteer()
    columns = np.array([(p.city, p.country_code) for p in places]).T
    return *columns, *np.radians([(p.latitude, p.longitude) for p in places]).T


def nearest(lat: float, lon: float, code: str | None = None) -> tuple[float, set[str], set[str]]:
    "How far the nearest place is [km], and its name and country, by the haversine formula; ties are possible."
    names, codes, phi, lam = world()
    phi_0, lam_0 = math.radians(lat), math.radians(lon)
    rows = np.flatnonzero((np.abs(phi - phi_0) < math.radians(0.5)) & (True if code is None else codes == code))
    if not len(rows):
        return math.inf, set(), set()
    h = np.sin((phi[rows] - phi_0) / 2) ** 2
    h += math.cos(phi_0) * np.cos(phi[rows]) * np.sin((lam[rows] - lam_0) / 2) ** 2
    km = 2 * 6371 * np.arcsin(np.sqrt(h))
    first = rows[km <= km.min() + 1e-6]
    return km.min(), set(names[first]), set(codes[first])


def test_the_nearest_by_another_formula() -> None:
    "For all countries and for each alone; also across the date line, and where a degree is short."
    rng, (_, codes, phi, lam) = np.random.default_rng(7), world()
    rows = [*rng.integers(len(codes), size=200), *np.flatnonzero(np.isin(codes, ["FJ", "SJ"]))]
    for row in rows:
        lat = math.degrees(phi[row]) + rng.normal(0, 0.1)
        lon = (math.degrees(lam[row]) + rng.normal(0, 0.1) + 180) % 360 - 180
        for code in (None, codes[row]):
            km, names, _ = nearest(lat, lon, code)
            expected = {" ".join(name.split()) for name in names} if km < NEAR_KM else {None}
            assert named(lat, lon, code) in expected


def test_names_fit_and_are_on_one_line() -> None:
    told = gazetteer().names([Location(None, p.latitude, p.longitude, None) for p in read_gazetteer()])
    assert [name for name in told if not name or len(name) > 200 or name != " ".join(name.split())] == []


def test_the_snapshot_of_2017(shared_data: Path) -> None:
    "The numbers behind NEAR_KM, and behind a search of our own, as the notebook tells them."
    ((name, data),) = open_files(shared_data / "api" / "2017-08-10_world_data.json.gz")
    where = list({x.key: x for x in map(location_of, read_file(name, data).records)}.values())
    spots = [(float(x.lat or 0), float(x.lon or 0)) for x in where]
    found = [nearest(*spot) for spot in spots]
    foreign = [x for x, (_, _, codes) in zip(where, found, strict=True) if x.country and x.country not in codes]
    assert (len(where), len(foreign), gazetteer().names(foreign).count(None)) == (1683, 10, 7)
    assert gazetteer().names(where).count(None) == 7
    assert np.quantile([km for km, _, _ in found], [0.5, 0.99, 1]) == pytest.approx([1.58, 7.94, 19.29], abs=0.02)
    library = [place["city"] for place in reverse_geocode.search(spots)]
    assert np.mean([city not in names for city, (_, names, _) in zip(library, found, strict=True)]) == pytest.approx(
        0.094, abs=0.002
    )


def test_a_gazetteer_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sensorlib.places.files", lambda name: tmp_path)
    with pytest.raises(MissingPart, match="pip install"):
        read_gazetteer()
    (tmp_path / "geocode.gz").write_bytes(b"songs")
    with pytest.raises(MissingPart, match="pip install"):
        read_gazetteer()


@dataclass
class Counting(Gazetteer):
    "The gazetteer, and how often each location was looked up; or one that has but one place."

    only: str = ""
    asked: Counter[str | None] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__((lambda: [Place(self.only, "DE", 48.8, 9.2)]) if self.only else read_gazetteer)

    def names(self, locations: Sequence[Location]) -> list[str | None]:
        self.asked.update(where.key for where in locations)
        return super().names(locations)


@pytest.fixture(params=["local", "shared"])
def new_names(request: pytest.FixtureRequest) -> Callable[..., Names]:
    url = "" if request.param == "local" else request.getfixturevalue("redis_url")
    return lambda **options: Names(url, **options)


def test_the_first_name_stays(new_names: Callable[..., Names], caplog: pytest.LogCaptureFixture) -> None:
    names = new_names()
    assert names.known(["7", "8"]) == {}
    assert names.settle({"7": "Stuttgart", "8": None}) == {"7": "Stuttgart", "8": None}
    assert [names.settle({"7": other}) for other in ("Bonn", None)] == [{"7": "Stuttgart"}] * 2
    assert names.known(["7", "8", "9"]) == {"7": "Stuttgart", "8": None}
    assert names.settle({"8": "Bonn"}) == {"8": "Bonn"}
    assert names.known([]) == names.settle({}) == {}
    assert caplog.messages == []


def test_no_place_holds_for_a_short_time(new_names: Callable[..., Names]) -> None:
    names, only = new_names(deny_s=0.3), Counting("Bonn")
    places, sea = Places(names, only), record(8, 0, 0)
    assert [places.of([sea, record()]) for _ in range(3)] == [{"7": "Bonn"}] * 3
    assert only.asked == {"7": 1, "8": 1}
    time.sleep(0.4)
    assert places.of([sea, record(8)]) == {"8": "Bonn"}
    assert only.asked == {"7": 1, "8": 2}


def test_how_long_redis_keeps_what(redis_url: str) -> None:
    Names(redis_url, deny_s=1000).settle({"7": "Köln"} | dict.fromkeys(map(str, range(100, 200))))
    with redis.Redis.from_url(redis_url) as client:
        ttls = [client.pttl(f"sensorlib:1:noplace:{n}") for n in range(100, 200)]
        assert client.get("sensorlib:1:place:7") == "Köln".encode()
        assert (client.ttl("sensorlib:1:place:7"), client.dbsize()) == (-1, 101)
    assert 890_000 < min(ttls) < 930_000 and 1_070_000 < max(ttls) <= 1_100_000


@pytest.mark.parametrize("restart", [False, True])
def test_a_name_outlives_jitter_moves_and_a_new_gazetteer(redis_url: str, restart: bool) -> None:
    first = Places(Names(redis_url), Counting("Stuttgart"))
    assert first.of([record()]) == {"7": "Stuttgart"}
    later = Places(Names(redis_url), Counting("Bonn")) if restart else first
    for lat, lon in ((48.7759, 9.1828), (48.9, 9.3), (52.5, 13.4), (0, 0), (91, 0)):
        assert later.of([record(7, lat, lon)]) == {"7": "Stuttgart"}


def test_without_an_id_the_rounded_coordinates_are_the_location() -> None:
    counting = Counting()
    places = Places(Names(), counting)
    found = [places.of([record(None, 48.7758 + shift, 9.1829)]) for shift in (0, 0.0001, -0.0002)]
    assert found == [{"48.776_9.183": found[0]["48.776_9.183"]}] * 3
    assert counting.asked == {"48.776_9.183": 1}


@pytest.mark.parametrize(
    "odd", [{}, {"location": 5}, {"location": {"id": 9}}, {"location": {"id": [], "latitude": {}}}, record(9, 91, 0)]
)
def test_odd_records_are_passed_over(odd: Record) -> None:
    assert list(Places(Names(), Counting()).of([odd, record(), odd])) == ["7"]


def test_a_memory_lets_go_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorlib.places._REMEMBERED", 100)
    names = Names()
    for n in range(1000):
        names.settle({str(n): "Bonn"})
    assert list(names.known(list(map(str, range(1000))))) == [str(n) for n in range(900, 1000)]


def test_redis_that_dies_and_comes_back(own_redis: "OwnRedis", caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sensorlib")
    places = Places(Names(own_redis.url), Counting("Stuttgart"))
    assert places.of([record(1)]) == {"1": "Stuttgart"}
    own_redis.kill()
    for n in (2, 3, 2):
        assert places.of([record(1), record(n)]) == {"1": "Stuttgart", str(n): "Stuttgart"}
    own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.set("sensorlib:1:place:2", "Bonn", nx=True)  # another scraper was first
    assert places.of([record(n) for n in (1, 2, 3)]) == {"1": "Stuttgart", "2": "Bonn", "3": "Stuttgart"}
    assert Names(own_redis.url).known(["1", "2", "3"]) == {"1": "Stuttgart", "2": "Bonn", "3": "Stuttgart"}
    assert [m.split(" (")[0] for m in caplog.messages if "Redis" in m] == ["Redis is away", "Redis is back"]


def test_a_redis_that_is_full_stops_nothing(own_redis: "OwnRedis") -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", "1mb")
        places = Places(Names(own_redis.url), Counting())
        assert len(places.of([record(n) for n in range(1, 2001)])) == 2000
        client.config_set("maxmemory", "100mb")
        assert len(places.of([record(n) for n in range(1, 2001)])) == 2000
        assert len(client.keys("sensorlib:1:place:*")) == 2000


class Sent(Outbox):
    "Says which places were sent."

    def places(self) -> set[tuple[int, str | None]]:
        told = [json.loads(value) for _, _, value in self.sent]
        return {(r["location"]["id"], r["place"]) for r in told}


def test_a_thousand_restarts_geocode_no_location_twice(redis_url: str) -> None:
    counting, outbox = Counting(), Sent()
    for restart in range(1000):
        records = [record(1 + (restart + n) % 1050, sensor=restart * 100 + n) for n in range(50)] + [record(9999, 0, 0)]
        places = Places(Names(redis_url), counting)
        send_answer(Answer(records), SharedMemory(redis_url), outbox, "test", NOON, places.of(records))
    assert len(outbox.sent) == 50_001
    assert counting.asked == {str(n): 1 for n in (*range(1, 1050), 9999)}
    assert len(outbox.places()) == 1050  # each location under one name


def test_killed_between_the_look_up_and_the_answer(redis_url: str) -> None:
    script = f"""
import os, signal
from sensorlib.places import Gazetteer, Names, Places
class Killed(Names):
    def settle(self, found):
        os.kill(os.getpid(), signal.SIGKILL)
Places(Killed({redis_url!r}), Gazetteer()).of([{record()!r}])
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert Names(redis_url).known(["7"]) == {}
    assert Places(Names(redis_url), Counting("Bonn")).of([record()]) == {"7": "Bonn"}


@dataclass
class Fickle(Places):
    "Names every poll anew, as an online answer in the wrong moment would."

    polls: int = 0

    def of(self, records: object) -> dict[str, str]:
        self.polls += 1
        return {"7": f"name {self.polls}"}


def test_a_poll_that_is_sent_again_has_the_names_of_the_first_time(redis_url: str) -> None:
    class Hurry(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return False

    outbox, polls = Sent(refusals=2), [("test", lambda: Answer([record()]))]
    scrape(polls, SharedMemory(redis_url), outbox, Hurry(), places=Fickle())
    assert (len(outbox.sent), outbox.places()) == (3, {(7, "name 1")})


def town(name: str = "Stuttgart", code: str = "de") -> bytes:
    return json.dumps({"address": {"suburb": "Mitte", "city": name, "country_code": code}}).encode()


def nominatim(web: "Web", redis_url: str = "", **options: Any) -> Nominatim:
    return Nominatim(web.url, "people@example.org", redis_url, **{"pause_s": 0.01, **options})


def eventually(places: Places, record: Record, patience_s: float = 20.0) -> dict[str, str]:
    "Poll until there is a name."
    deadline = time.monotonic() + patience_s
    while not (found := places.of([record])):
        assert time.monotonic() < deadline, "no name came"
        time.sleep(0.05)
    return found


def test_a_request_is_within_the_policy(web: "Web") -> None:
    assert nominatim(web.reply(town())).name(STUTTGART) == "Stuttgart"
    asked = httpx.URL("http://host" + web.paths[0])
    assert asked.path.endswith("/reverse")
    assert dict(asked.params) == {
        "lat": "48.7758", "lon": "9.1829", "format": "jsonv2", "zoom": "14", "accept-language": "en"
    }  # fmt: skip
    assert web.asked[0]["user-agent"].startswith("sensorlib/")
    assert web.asked[0]["user-agent"].endswith(" people@example.org")


@pytest.mark.parametrize(
    ("answer", "name"),
    [(town(), "Stuttgart"), (town(" a\n b "), "a b"), (town("x" * 300), "x" * 200), (town("Wien", "at"), None),
     (b'{"error": "Unable to geocode"}', None), (b"{}", None), (b'{"address": {"city": 5, "country_code": "de"}}', None),
     (b'{"address": {"village": "Au", "country_code": "DE"}}', "Au")],
)  # fmt: skip
def test_answers_of_nominatim(web: "Web", answer: bytes, name: str | None) -> None:
    assert nominatim(web.reply(answer)).name(STUTTGART) == name


def test_what_is_no_answer(web: "Web") -> None:
    for status, body in (
        (500, b""),
        (429, town()),
        (302, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"address": 5}'),
    ):
        web.reply(body, status=status)
    for _ in range(6):
        with pytest.raises(PlaceError, match="no answer"):
            nominatim(web, attempts=1).name(STUTTGART)
    assert len(web.asked) == 6
    with pytest.raises(PlaceError, match="no answer"):
        nominatim(web.reply(town(), wait_s=5), attempts=1, timeout_s=0.2).name(STUTTGART)


def test_a_location_waits_without_a_name_and_gets_one_once(web: "Web", redis_url: str) -> None:
    counting = Counting("Bonn")
    places = Places(Names(redis_url), counting, nominatim(web.reply(town("Degerloch"), wait_s=0.3), redis_url))
    assert places.of([record()]) == {}
    assert eventually(places, record()) == {"7": "Degerloch"}
    assert [places.of([record()]) for _ in range(3)] == [{"7": "Degerloch"}] * 3
    assert Places(Names(redis_url), counting).of([record()]) == {"7": "Degerloch"}
    assert (len(web.asked), counting.asked) == (1, {"7": 1})


def test_a_failure_is_not_kept(web: "Web", redis_url: str) -> None:
    "Between the failures Redis knows nothing; the third request brings the name."
    web.reply(status=500).reply(b"<html>").reply(town("Degerloch"), wait_s=0.3)
    places = Places(Names(redis_url), Counting("Bonn"), nominatim(web, redis_url))
    with redis.Redis.from_url(redis_url) as client:
        while len(web.asked) < 3:
            assert places.of([record()]) == {}
            assert client.keys("sensorlib:1:*place*") == []
            time.sleep(0.05)
    assert eventually(places, record()) == {"7": "Degerloch"}


def test_who_gets_no_answer_is_named_offline(web: "Web") -> None:
    places = Places(
        Names(), Counting("Bonn"), nominatim(web.reply(status=503).reply(status=503).reply(town()), attempts=2)
    )
    assert eventually(places, record()) == {"7": "Bonn"}
    assert len(web.asked) == 2
    assert eventually(places, record(8)) == {"8": "Stuttgart"}


def test_who_has_no_town_online_is_named_offline(web: "Web", redis_url: str) -> None:
    web.reply(b'{"error": "Unable to geocode"}')
    places = Places(Names(redis_url), Counting("Bonn"), nominatim(web, redis_url))
    assert eventually(places, record()) == {"7": "Bonn"}
    assert len(web.asked) == 1


def test_where_the_gazetteer_has_no_place_nothing_is_asked(web: "Web", redis_url: str) -> None:
    places = Places(Names(redis_url), Counting(), nominatim(web.reply(town()), redis_url))
    assert places.of([record(7, 0, 0), record(8, 47.371, 8.524, "DE")]) == {}
    assert Names(redis_url).known(["7", "8"]) == {"7": None, "8": None}
    assert web.asked == []


def test_never_in_bulk(web: "Web") -> None:
    "All but a few of a first poll are named offline at once, and for good; the poll waits for nothing."
    places = Places(Names(), Counting("Bonn"), nominatim(web.reply(town())), waiting=1)
    began = time.monotonic()
    found = places.of([record(n) for n in range(1, 20_001)])
    assert time.monotonic() - began < 5
    assert set(found.values()) == {"Bonn"} and len(found) >= 19_998
    waiting = [n for n in range(1, 20_001) if str(n) not in found]
    told = found | {key: name for n in waiting for key, name in eventually(places, record(n)).items()}
    assert places.of([record(n) for n in range(1, 20_001)]) == told
    assert 1 <= len(web.asked) == len(waiting) <= 2


def test_a_restart_while_a_location_waits(web: "Web", redis_url: str) -> None:
    web.reply(town("Degerloch"), wait_s=0.5)
    assert Places(Names(redis_url), Counting("Bonn"), nominatim(web, redis_url)).of([record()]) == {}
    again = Places(Names(redis_url), Counting("Bonn"), nominatim(web, redis_url))
    assert eventually(again, record()) == {"7": "Degerloch"}
    time.sleep(0.7)
    assert len(web.asked) <= 2 and again.of([record()]) == {"7": "Degerloch"}


def gaps_s(web: "Web") -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(sorted(web.times_s))]


def test_two_processes_ask_once_a_second(web: "Web", redis_url: str) -> None:
    script = f"""
from sensorlib.places import Location, Nominatim
asker = Nominatim({web.reply(town()).url!r}, "people@example.org", {redis_url!r})
for _ in range(3):
    asker.name(Location("7", 48.7, 9.1, "DE"))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(web.asked) == 6
    assert min(gaps_s(web)) >= 1.0


def test_two_askers_of_one_process_ask_once_a_second(web: "Web") -> None:
    askers = [nominatim(web.reply(town())) for _ in range(2)]
    threads = [threading.Thread(target=asker.name, args=(STUTTGART,)) for asker in askers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(web.asked), min(gaps_s(web)) >= 1.0) == (4, True)


def test_nothing_is_asked_while_the_shared_redis_is_away(web: "Web") -> None:
    url = "redis://127.0.0.1:9/0"
    places = Places(Names(url), Counting("Bonn"), nominatim(web.reply(town()), url))
    assert eventually(places, record()) == {"7": "Bonn"}
    assert web.asked == []


def test_where_names_come_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sensorlib")
    assert places_of(Settings(geocoder="none")) is None
    found = places_of(Settings())
    assert found is not None and "GeoNames" in caplog.text and "OpenStreetMap" not in caplog.text
    assert found.of([record()]) == {"7": named(48.7758, 9.1829, "DE")}
    assert places_of(Settings(geocoder="nominatim", contact="people@example.org")) is not None
    assert "© OpenStreetMap contributors" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"geocoder": "google"}, "SENSORLIB_GEOCODER"), ({"geocoder": "nominatim"}, "SENSORLIB_CONTACT"),
     ({"geocoder": "nominatim", "contact": "a@b\nc"}, "SENSORLIB_CONTACT"), ({"redis_url": "nowhere"}, "SENSORLIB_REDIS_URL"),
     *(({"geocoder": "nominatim", "contact": "a@b", "nominatim_url": url}, "SENSORLIB_NOMINATIM_URL")
       for url in ("", "nominatim", "ftp://host", "https:///reverse", "http://host:port", "http://host\n"))],
)  # fmt: skip
def test_settings_that_cannot_be_used(wrong: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        places_of(Settings(**wrong))  # type: ignore[arg-type]


def test_an_enriched_record_has_the_name_of_its_location() -> None:
    names = {"7": "Stuttgart"}
    assert [enrich(r, MOMENT, names)["place"] for r in (record(), record(8), {})] == ["Stuttgart", None, None]


@pytest.fixture(params=["sqlite", "influx"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "sqlite":
        with closing(open_store(f"sqlite:///{tmp_path / 'readings.db'}")) as opened:
            yield opened
        return
    server: Influx = request.getfixturevalue("influx")
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", server.token)
    with server.bucket() as url, closing(open_store(url)) as opened:
        yield opened


def test_two_sensors_of_one_town_that_report_in_the_same_second_are_both_stored(store: Store) -> None:
    names = Places(Names(), gazetteer()).of([record(), record(8)])
    assert names["7"] == names["8"]
    store.write([Reading(81, NOON, "particulates", "P2", 5.0, location_id=7, country="DE", place=names["7"])])
    store.write([Reading(82, NOON, "particulates", "P2", 6.0, location_id=8, country="DE", place=names["8"])])
    assert store.counts() == {"particulates": 2}
    assert store.latest("particulates")[["sensor_id", "place", "value"]].values.tolist() == [
        [81, names["7"], 5.0], [82, names["8"], 6.0]
    ]  # fmt: skip


def test_files_without_a_country_get_that_of_the_nearest_place(new_names: Callable[..., Names]) -> None:
    names = new_names()
    names.settle({"7": "Kehl"})
    asked = [Location("7", 48.57, 7.80, None), Location("8", 48.57, 7.80, "DE"), Location("9", 0.0, 0.0, None)]
    asked += [Location("10", None, None, None), Location("11", 51.5, 7.5, "DE")]
    known, held, sea, nowhere, plain = Places(names, Gazetteer()).placed(asked)
    assert known[1] == "Kehl" and held[0] == "DE", "what is decided or said stays"
    assert (sea, nowhere) == ((None, None), (None, None))
    assert plain == ("DE", "Dortmund")


def test_many_locations_at_once_are_named_offline(web: "Web") -> None:
    settings = Settings(geocoder="nominatim", nominatim_url=web.reply(b"{}").url)
    assert places_of(settings, bulk=True).placed([Location("1", 48.776, 9.183, None)]) == [("DE", "Stuttgart")]
    time.sleep(0.5)
    assert web.paths == []
    with pytest.raises(SettingError, match="expected offline, nominatim or none"):
        places_of(Settings(geocoder="atlas"), bulk=True)
