"""Country codes as people write them, cells at their edges, and what enriching adds."""

import itertools
import math

import pytest

from sensorlib.places import CELL_DEGREES, cell, country, enrich

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
