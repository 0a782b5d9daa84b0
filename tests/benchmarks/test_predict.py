"""Forecasting the whole network: time and memory from the start of the process to the last written forecast.

    python -m pytest tests/benchmarks -k predict -s

The stores are made first and take most of the time: `SENSORS=1000,5000` chooses other sizes, `EVERY_S=150` another step.
"""

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from sensorlib.baselines import dump_climates, fit_climates
from sensorlib.core import KINDS, Reading, kind_of
from sensorlib.forecasts import CLIMATE_FILE, MODEL_FILE
from sensorlib.registry import About, open_registry, publish
from sensorlib.rows import DAY
from sensorlib.simulate import INSTRUMENTS, make_city, measure
from sensorlib.store import open_store
from sensorlib.windows import (
    HORIZONS_MIN,
    PAST,
    QUANTILES,
    channels_of,
    inputs,
    make_panel,
    moments,
    read_kinds,
    targets,
    value_types_of,
)

NOW = datetime(2026, 1, 18, tzinfo=UTC)
PROGRAM = """
import sys
from datetime import UTC, datetime
from sensorlib.forecasts import predict
from sensorlib.registry import open_registry
from sensorlib.store import open_store
done = predict(open_store(sys.argv[1]), open_registry(sys.argv[2]), datetime(2026, 1, 18, tzinfo=UTC))
peak_kB = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(done.series, done.forecasts, int(peak_kB) // 1000)
"""


def fill(url: str, sensors: int, every_s: int) -> int:
    "Write a day of a network to a store; return the number of readings."
    store, city, written = open_store(url), make_city(sensors, seed=3, radius_km=300.0), 0
    where = city.sensors.set_index(city.sensors.index)
    for sensor_type in INSTRUMENTS:
        rows = np.flatnonzero(where["sensor_type"] == sensor_type)
        for some in np.array_split(rows, max(len(rows) // 200, 1)):
            when = np.arange((NOW - DAY).timestamp(), NOW.timestamp(), every_s)
            who, at = np.repeat(some, len(when)), np.tile(when, len(some))
            if not len(who):
                continue
            cards = {row: where.loc[row] for row in some}
            columns = {name: values.tolist() for name, values in measure(city, sensor_type, who, at).items()}
            readings = []
            for number, (row, second) in enumerate(zip(who.tolist(), at.tolist(), strict=True)):
                card, ts = cards[row], datetime.fromtimestamp(second, UTC)
                for name, values in columns.items():
                    kind = kind_of(name, sensor_type)
                    if kind:
                        place = {
                            "location_id": int(card.location_id),
                            "lat": card.lat,
                            "lon": card.lon,
                            "country": "DE",
                        }
                        readings.append(Reading(int(card.sensor_id), ts, kind, name, values[number], **place))
            for begin in range(0, len(readings), 100_000):
                store.write(readings[begin : begin + 100_000])
            written += len(readings)
    store.close()
    return written


def publish_untrained(store_url: str, models: str) -> None:
    "Publish models of the full size, which answer as fast as trained ones."
    from sensorlib.network import Recipe, _calibrated, build_networks, join_networks, measure_scaling, to_onnx

    store, registry = open_store(store_url), open_registry(models)
    grids, sites = read_kinds(store, KINDS, NOW - 2 * DAY, NOW)
    recipe = Recipe()
    for kind in KINDS:
        panel = make_panel(kind, grids, sites)
        some = moments(panel, panel.steps - 1, panel.steps)[np.arange(100)]
        past, _ = inputs(panel, some)
        scaling = measure_scaling(kind, past, targets(panel, some))
        members = []
        for number in range(recipe.members):
            networks = build_networks(kind, scaling, 100, recipe, f"network_{number}")
            members.append(join_networks(networks, f"member_{number}"))
        assert past.shape[2] == len(channels_of(kind))
        factors = np.ones((len(value_types_of(kind)), len(HORIZONS_MIN), len(QUANTILES)))
        files = {
            MODEL_FILE: to_onnx(_calibrated(kind, members, factors)),
            CLIMATE_FILE: dump_climates(fit_climates(panel, 0, panel.steps)),
        }
        about = About(
            trained_from=NOW - timedelta(days=9), trained_until=NOW, value_types=value_types_of(kind),
            horizons_min=HORIZONS_MIN, quantiles=QUANTILES, vocabulary={"sensor_ids": list(range(1, 101))},
            served={name: dict.fromkeys(HORIZONS_MIN, "network") for name in value_types_of(kind)},
        )  # fmt: skip
        publish(registry, kind, files, about)
    assert panel.steps == 2 * PAST


@pytest.mark.timeout(3600)  # Most of it makes the stores
def test_predict_the_network(tmp_path: Path) -> None:
    sizes = [int(size) for size in os.environ.get("SENSORS", "1000,15000,50000").split(",")]
    every_s = int(os.environ.get("EVERY_S", "600"))
    models = str(tmp_path / "models")
    taken = {}
    for sensors in sizes:
        file = tmp_path / f"{sensors}.db"
        url = f"sqlite:///{file}"
        readings = fill(url, sensors, every_s)
        if not Path(models).exists():
            publish_untrained(url, models)
        began, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", PROGRAM, url, models], capture_output=True, text=True, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken[sensors] = time.monotonic() - began
        cpu_s = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        series, forecasts, peak_mb = map(int, done.stdout.split())
        assert forecasts == series * len(HORIZONS_MIN) > 0
        print(json.dumps({
            "sensors": sensors, "readings": readings, "series": series, "forecasts": forecasts,
            "wall_s": round(taken[sensors], 1), "cpu_s": round(cpu_s, 1), "peak_MB": peak_mb,
        }))  # fmt: skip
        file.unlink()
    small, large = min(sizes), max(sizes)
    if small < large:
        print(f"{large // small} times the sensors take {taken[large] / taken[small]:.1f} times as long")
        assert taken[large] / taken[small] < 1.3 * large / small
