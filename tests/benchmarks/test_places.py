"""How fast 20,000 locations get their names, beside the bare search of `reverse_geocode` over the same coordinates.

`python -m pytest tests/benchmarks -k places -s` prints the CPU seconds of our look-up and of the library's, each in a fresh
process and with the reading of its data; then the seconds of a first poll, which also keeps the names in an empty Redis.
"""

import subprocess
import sys

LOCATIONS = 20_000
MADE = f"""
import sys, time
import numpy as np
from sensorlib.places import read_gazetteer
rng, world = np.random.default_rng(1), read_gazetteer()
near = [world[i] for i in rng.integers(len(world), size={LOCATIONS})]
spots = [(p.latitude + n, p.longitude + e) for p, (n, e) in zip(near, rng.normal(0, 0.02, ({LOCATIONS}, 2)), strict=True)]
codes = [p.country_code for p in near]
"""
OURS = """
from sensorlib.places import Gazetteer, Location
locations = [Location(None, *spot, code) for spot, code in zip(spots, codes, strict=True)]
before = time.process_time()
Gazetteer().names(locations)
print(time.process_time() - before)
"""
LIBRARY = """
import reverse_geocode
before = time.process_time()
reverse_geocode.search(spots)
print(time.process_time() - before)
"""
POLLS = """
from sensorlib.places import Gazetteer, Names, Places
records = [
    {"location": {"id": n + 1, "latitude": str(lat), "longitude": str(lon), "country": code}}
    for n, ((lat, lon), code) in enumerate(zip(spots, codes, strict=True))
]
begun = time.perf_counter()
places = Places(Names(sys.argv[1]), Gazetteer())
named = places.of(records)
first = time.perf_counter()
assert places.of(records) == named
print(len(named), first - begun, time.perf_counter() - first)
"""


def measured(script: str, *arguments: str) -> list[float]:
    "What a fresh process measured."
    done = subprocess.run([sys.executable, "-c", MADE + script, *arguments], check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def told(name: str, taken: float, more: str) -> None:
    print(f"{name:>14}: {taken:.2f} {more}", flush=True)


def test_20_000_locations_cold(redis_url: str) -> None:
    (ours_s,), (library_s,) = measured(OURS), measured(LIBRARY)
    told("our look-up", ours_s, f"CPU s, {ours_s / library_s:.2f} times the library's")
    told("library alone", library_s, "CPU s")
    named, first_s, next_s = measured(POLLS, redis_url)
    told("first poll", first_s, f"s, {named / LOCATIONS:.1%} named")
    told("next poll", next_s, "s")
    assert named > 0.95 * LOCATIONS
    assert first_s < 10
    assert ours_s < 2 * library_s
