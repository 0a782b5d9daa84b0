"""A city of the simulator that says something at regular moments, as the lessons about forecasts use it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pandas as pd

from sensorlib.core import READING_COLUMNS, VALUE_TYPES, Reading
from sensorlib.grids import SITE_COLUMNS, STEP_S, to_grids
from sensorlib.rows import RAW_COLUMNS
from sensorlib.simulate import City, make_city, measure
from sensorlib.windows import PAST, Panel, make_panel, value_types_of

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


@dataclass(frozen=True)
class Told:
    "Readings as a source: RAW_COLUMNS."

    rows: pd.DataFrame

    def readings(self, kind: str, since: datetime, until: datetime, endings: str = "0123456789") -> pd.DataFrame:
        mine = self.rows["value_type"].isin(value_types_of(kind)) & self.rows["ts"].between(since, until, "left")
        return self.rows[mine & (self.rows["sensor_id"] % 10).astype(str).isin([*endings])]

    def latest(self, kind: str) -> pd.DataFrame:
        "Sensors in a row, a location each."
        mine = self.rows[self.rows["value_type"].isin(value_types_of(kind))]
        newest = mine.drop_duplicates(["sensor_id", "value_type"], keep="last")
        placed = newest.assign(location_id=newest["sensor_id"] + 1000, lat=50.0, lon=9 + newest["sensor_id"] / 50)
        return placed.assign(kind=kind, indoor=False, country="DE", place="").reindex(columns=[*READING_COLUMNS])


@cache
def waves(days: int, sensors: int = 6, hours: float = 5.0) -> pd.DataFrame:
    "Pressure that swings every five hours, which no simple guess foresees; one sensor tells sea level too, at first."
    when = START.timestamp() + np.arange(0, days * 86_400, STEP_S)
    parts = []
    for sensor_id in range(1, sensors + 1):
        noise = np.random.default_rng(sensor_id).normal(0, 10, len(when))
        swing = 100_000 + 300 * np.sin(when / 3600 / hours * 2 * np.pi + sensor_id) + noise
        part = {"sensor_id": sensor_id, "ts": pd.to_datetime(when, unit="s", utc=True), "value": swing, "qc": 0}
        parts.append(pd.DataFrame(part).assign(value_type="pressure"))
    sea = parts[0].head(5 * PAST).assign(value_type="pressure_at_sealevel")
    return pd.concat([*parts, sea], ignore_index=True)[[*RAW_COLUMNS]]
