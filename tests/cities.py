"""A city of the simulator that says something at regular moments, as the lessons about forecasts use it."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pandas as pd

from sensorlib.core import VALUE_TYPES, Reading
from sensorlib.grids import SITE_COLUMNS, STEP_S, to_grids
from sensorlib.simulate import City, make_city, measure
from sensorlib.windows import Panel, make_panel

START = datetime(2026, 1, 15, tzinfo=UTC)


@cache
def city(sensors: int = 24) -> City:
    return make_city(sensors=sensors, seed=7)


@cache
def said(days: float, sensors: int = 24, every_s: int = STEP_S) -> pd.DataFrame:
    "Good readings of the whole city: RAW_COLUMNS."
    made, parts = city(sensors), []
    for sensor_type, group in made.sensors.groupby("sensor_type"):
        when = START.timestamp() + np.arange(0, days * 86_400, every_s)
        who, at = np.repeat(group.index.to_numpy(), len(when)), np.tile(when, len(group))
        wide = pd.DataFrame(measure(made, sensor_type, who, at))
        wide["sensor_id"] = made.sensors["sensor_id"].to_numpy()[who]
        wide["ts"] = pd.to_datetime(at, unit="s", utc=True)
        parts.append(wide.melt(["sensor_id", "ts"], var_name="value_type").assign(qc=0))
    return pd.concat(parts, ignore_index=True)


def sites(sensors: int = 24) -> pd.DataFrame:
    return city(sensors).sensors.assign(place="")[[*SITE_COLUMNS]]


def panel_of(kind: str, readings: pd.DataFrame, days: float, sensors: int = 24) -> Panel:
    "What a model of a kind has to see of some readings of the city."
    return make_panel(kind, to_grids(readings, START, START + timedelta(days=days)), sites(sensors))


def judged(readings: pd.DataFrame, sensors: int = 24) -> list[Reading]:
    "The same readings as a store takes them."
    placed = readings.merge(city(sensors).sensors, on="sensor_id")
    names = ["sensor_type", "location_id", "lat", "lon", "altitude", "indoor", "country"]
    return [
        Reading(
            row.sensor_id, row.ts.to_pydatetime(), VALUE_TYPES[row.value_type].kind, row.value_type, row.value, row.qc,
            record_id=number + 1, **{name: getattr(row, name) for name in names},
        )
        for number, row in enumerate(placed.itertuples())
    ]  # fmt: skip
