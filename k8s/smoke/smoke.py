"""Send the records of a made sensor through every part, find them in InfluxDB, and take them away again."""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from influxdb_client import InfluxDBClient

from sensorlib.core import load_settings, read_secret
from sensorlib.influx import influx_address
from sensorlib.simulate import make_city, records
from sensorlib.store import open_store

PATIENCE_S = 150


def main() -> int:
    settings, until = load_settings(), datetime.now(UTC).replace(microsecond=0)
    since = until - timedelta(minutes=10)
    made = records(make_city(sensors=1), since, until)
    sensor, wanted = made[0]["sensor"]["id"], sum(len(record["sensordatavalues"]) for record in made)
    print(f"sending {len(made)} records of sensor {sensor}, which is none: {wanted} values", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.ndjson"
        file.write_text("".join(json.dumps(record) + "\n" for record in made), encoding="utf-8")
        sent = subprocess.run(["sensorlib", "scrape", "--source", file, "--redis-url", "", "--listen", ""])
    if sent.returncode:
        print("the scraper did not get them to Kafka: its words are above", flush=True)
        return 1
    store, found, began = open_store(settings.store), 0, time.monotonic()
    while found < wanted and time.monotonic() - began < PATIENCE_S:
        time.sleep(2)
        found = len(store.series(sensor, "particulates", since, until))
    print(f"{found} of {wanted} values are in the store after {time.monotonic() - began:.0f} s", flush=True)
    if found < wanted:
        print("Kafka has them: either the stream or the collector does not pass them on", flush=True)
        return 1
    address, token = influx_address(settings.store), read_secret("DELETE_TOKEN", os.environ)
    with InfluxDBClient(address.server, token, org=address.org) as client:
        client.delete_api().delete(since, until, f'sensor_id="{sensor}"', address.bucket, address.org)
    left = len(store.series(sensor, "particulates", since, until))
    print("and taken away again" if not left else f"{left} of them could not be taken away", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
