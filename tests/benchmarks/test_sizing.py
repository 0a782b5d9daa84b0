"""What each part needs for each record: processor time, memory, disk. `k8s/SIZING.md` multiplies it up.

`python -m pytest tests/benchmarks -k sizing -s` prints it. All parts run on one machine, one of each, with records of a made
city; `SENSORLIB_BENCH_SENSORS` chooses how many sensors (500), `SENSORLIB_BENCH_HOURS` how long (24).
"""

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from influx import Influx, free_port, influxd_command, needed_influxd, wait_until_healthy
from waiting import wait_until

from sensorlib.bus import RAW_TOPIC, Outbox
from sensorlib.core import KIND_TOPICS, format_time
from sensorlib.forecasts import predict
from sensorlib.influx import influx_address
from sensorlib.local import Part, local_system, start_part
from sensorlib.places import enrich
from sensorlib.provision import provision
from sensorlib.registry import open_registry
from sensorlib.simulate import make_city, records
from sensorlib.store import Store, open_store
from sensorlib.stream import newest_snapshot

SENSORS = int(os.environ.get("SENSORLIB_BENCH_SENSORS", "500"))
HOURS = float(os.environ.get("SENSORLIB_BENCH_HOURS", "24"))
SENSORLIB = Path(sys.executable).with_name("sensorlib")


def tree(part: Part) -> list[psutil.Process]:
    root = psutil.Process(part.process.pid)
    return [root, *root.children(recursive=True)]


def cpu_s(part: Part) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree(part))


def memory_mb(part: Part) -> float:
    return sum(process.memory_info().rss for process in tree(part)) / 1e6


def size_of(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def start_store(folder: Path) -> tuple[Influx, Part]:
    "Start an InfluxDB that packs what it has into its files soon, not after four hours, so that their size can be told."
    server = Influx(f"http://127.0.0.1:{free_port()}", "home", "t" * 32)
    words = influxd_command(needed_influxd(), server.address, folder)
    part = start_part(
        "influxd",
        [*words, *(f"--storage-{name}-write-cold-duration=3s" for name in ("cache-snapshot", "compact-full"))],
        folder,
    )
    wait_until_healthy(server.address, part.process, part.log_file)
    server.set_up()
    address = f"{server.address.replace('http', 'influxdb')}?org={server.org}&bucket=readings"
    provision(influx_address(address), server.token, folder / "tokens")
    return server, part


def a_day_of_forecasts(store: Store, end: datetime, folder: Path) -> int:
    "Forecast some sensors once, and write it as if it had been done every ten minutes of a day; how many there are."
    kept: list[pd.DataFrame] = []
    predict(store, open_registry(str(folder / "models")), end, watch=lambda kind, frame: kept.append(frame))
    once = pd.concat(kept)
    few = once[once["sensor_id"] % 10 == 7]
    drift = np.random.default_rng(1).normal(size=(144, len(few))).cumsum(axis=0) / 30
    levels = [name for name in few if few[name].dtype.kind == "f"]
    for run, moved in enumerate(drift):
        earlier = {name: few[name] - timedelta(minutes=10 * run) for name in ("ts", "issued")}
        shifted = {**earlier, **{name: few[name] * (1 + moved / 10) for name in levels}}
        store.write_forecasts(few.assign(**shifted))
    return len(once) + 144 * len(few)


def test_sizing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, influxd = start_store(tmp_path / "influxd")
    url = f"{server.address.replace('http', 'influxdb')}?org=home&bucket=readings"
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", server.token)
    end = datetime.now(UTC).replace(microsecond=0)
    made = records(make_city(SENSORS), end - timedelta(hours=HOURS), end)
    values = sum(len(record["sensordatavalues"]) for record in made)
    try:
        with local_system(tmp_path, print) as system:
            parts = {name: system.parts[name] for name in ("broker", "stream")} | {"influxd": influxd}
            system.parts["collect"].stop()
            env = {"SENSORLIB_STORE": url, "SENSORLIB_BROKERS": system.settings.brokers}
            parts["collector"] = start_part("to-influx", [SENSORLIB, "collect", "--listen", ""], tmp_path, env)
            before = {name: cpu_s(part) for name, part in parts.items()}
            outbox = Outbox(system.settings.brokers)
            for record in made:
                told = enrich(record, format_time(end))
                outbox.send(RAW_TOPIC, str(record["sensor"]["id"]), json.dumps(told).encode())
            outbox.flush()
            store = open_store(url)
            # Counting is work for InfluxDB, too: it is asked seldom
            wait_until("all is stored", lambda: sum(store.counts().values()) >= values, 900, every_s=20)
            used = {name: cpu_s(part) - before[name] for name, part in parts.items()}
            memory = {name: memory_mb(part) for name, part in parts.items()}
            time.sleep(25)  # two checkpoints
            snapshot = newest_snapshot(Path(system.settings.checkpoints))
            assert snapshot is not None
            state = size_of(snapshot.parent)
            data = tmp_path / "kafka" / "data"
            raw = sum(size_of(folder, "*.log") for folder in data.glob(f"{RAW_TOPIC}-*"))
            judged = sum(size_of(folder, "*.log") for topic in KIND_TOPICS for folder in data.glob(f"{topic}-*"))
            parts["collector"].stop()
            forecasts = a_day_of_forecasts(store, end, tmp_path)
        wal = tmp_path / "influxd" / "engine" / "wal"
        wait_until("InfluxDB has written its files", lambda: size_of(wal) < 100_000, 120)
        time.sleep(30)  # and packed them
        buckets = {bucket["name"]: bucket["id"] for bucket in server.ask("GET", "/api/v2/buckets")["buckets"]}
        size = {
            name: size_of(tmp_path / "influxd" / "engine" / "data" / number, "*.tsm")
            for name, number in buckets.items()
        }
    finally:
        influxd.stop()
    print(f"\n{SENSORS:,} sensors, {HOURS:g} hours: {len(made):,} records, {values:,} readings")
    for name in parts:
        print(f"{name:>10}: {len(made) / used[name]:>9,.0f} records per CPU s, {memory[name]:>6,.0f} MB at the end")
    print(f"     Kafka: {raw / len(made):.0f} bytes a record in sensor.raw, {judged / values:.0f} a judged reading")
    print(f"     Flink: {state / SENSORS / 1000:.1f} kB of state a sensor")
    print(
        f"  InfluxDB: {size['readings'] / values:.1f} bytes a reading, {size['forecasts'] / forecasts:.1f} a forecast"
    )
    assert sum(used.values()) > 0 and state > 0 and min(size["readings"], size["forecasts"]) > 0
