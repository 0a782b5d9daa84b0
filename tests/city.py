"""A city in a real InfluxDB, filled by the commands that fill it on a cluster."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from influx import Influx, needed_influxd, running_influxd

from sensorlib import cli
from sensorlib.completeness import SensorHour
from sensorlib.forecasts import observe, predict
from sensorlib.influx import influx_address
from sensorlib.provision import provision
from sensorlib.registry import open_registry
from sensorlib.rollups import roll_up
from sensorlib.simulate import make_city, records
from sensorlib.store import Store, open_store

OWNER, STUCK = 900007, 900010  # a dust sensor with a gap and a fault; one that holds its pressure
DAYS, SENSORS = 2.3, 16  # a whole day from seven to seven is among them, whatever the time is


@dataclass(frozen=True)
class City:
    "An InfluxDB with a city in it."

    server: Influx
    url: str  # Of the bucket of readings
    tokens: Path  # Folder with a token for each part
    now: datetime
    store: Store  # With every right

    def ask(self, question: str) -> pd.DataFrame:
        "Answer to a question in Flux, with the token that Grafana has."
        token = (self.tokens / "page.token").read_text().strip()
        answer = httpx.post(
            f"{self.server.address}/api/v2/query?org={self.server.org}",
            headers={"Authorization": f"Token {token}", "Accept": "application/csv"},
            json={"query": question, "dialect": {"annotations": []}},
            timeout=60,
        )
        assert answer.is_success, f"{answer.text}\n{question}"
        return read_csv(answer.text)


def read_csv(text: str) -> pd.DataFrame:
    "One table of InfluxDB's answer, or several of the same columns."
    pieces = [part for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]
    read = [pd.read_csv(StringIO(part), dtype={"sensor_id": str}) for part in pieces]
    assert not any({"error", "reference"} <= set(frame) for frame in read), text
    return pd.concat(read, ignore_index=True).drop(columns=["Unnamed: 0", "result"]) if read else pd.DataFrame()


def say(record: dict[str, Any], value_type: str, value: str) -> None:
    "Let a record say something else."
    for said in record["sensordatavalues"]:
        if said["value_type"] == value_type:
            said["value"] = value


def made_records(now: datetime) -> list[dict[str, Any]]:
    "Records of a city up to now; one sensor is stuck, another has a gap of an hour and says something impossible."
    made = records(make_city(SENSORS, seed=7), now - timedelta(days=DAYS), now)
    kept, spoilt = [], False
    for record in made:
        who, age = record["sensor"]["id"], now - datetime.fromisoformat(record["timestamp"]).replace(tzinfo=UTC)
        if who == OWNER and timedelta(hours=20) < age < timedelta(hours=21):
            continue
        if who == OWNER and not spoilt and age < timedelta(hours=30):
            say(record, "P2", "1999.9")
            spoilt = True
        if who == STUCK and age < timedelta(hours=12):
            say(record, "pressure", "98000.0")
        kept.append(record)
    return kept


def account(made: list[dict[str, Any]], start: datetime) -> list[SensorHour]:
    "Rows of completeness: as many readings expected as the busiest hour of each sensor has."
    who = pd.DataFrame(
        {
            "sensor_id": [record["sensor"]["id"] for record in made],
            "hour": pd.to_datetime([record["timestamp"] for record in made], utc=True).floor("h"),
        }
    )
    counted = who.value_counts().rename("n").reset_index()
    most = counted.groupby("sensor_id")["n"].transform("max")
    rows = zip(counted["sensor_id"], counted["hour"], counted["n"], most, strict=True)
    return [
        SensorHour(start, hour.to_pydatetime(), int(sensor), 148.0, int(top), int(n), int(top - n), 0)
        for sensor, hour, n, top in rows
    ]


@contextmanager
def filled_city(folder: Path) -> Iterator[City]:
    "Have a city in an InfluxDB: backfilled, averaged, forecast, verified, with an account of completeness."
    now = datetime.now(UTC).replace(microsecond=0)
    with running_influxd(needed_influxd(), folder / "influxd") as server:
        url = f"{server.address.replace('http', 'influxdb')}?org={server.org}&bucket=readings"
        provision(influx_address(url), server.token, folder / "tokens")
        made = made_records(now)
        file = folder / "records.ndjson"
        file.write_text("".join(json.dumps(record) + "\n" for record in made), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:  # no longer than it takes: others have tokens of their own
            patch.setenv("SENSORLIB_INFLUX_TOKEN", server.token)
            patch.chdir(folder)  # where backfill notes what it has taken
            assert cli.main(["backfill", "--store", url, str(file)]) == 0
            store = open_store(url)
        with closing(store):
            roll_up(store)
            registry = open_registry(str(folder / "models"))
            for hours in (25, 6, 2, 0):
                predict(store, registry, now - timedelta(hours=hours))
            observe(store, now)
            store.write_completeness(account(made, now - timedelta(days=DAYS)))
            yield City(server, url, folder / "tokens", now, store)
