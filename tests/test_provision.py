"""Setting up a real InfluxDB: buckets, how long they keep, tokens that may do what they must and no more."""

import json
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from influx import Influx, needed_influxd, running_influxd

from sensorlib import cli
from sensorlib.core import Reading, SettingError, StoreRefused
from sensorlib.influx import Address, InfluxStore
from sensorlib.provision import GRANTS, provision
from sensorlib.rollups import roll_up

READING = Reading(81, datetime.now(UTC).replace(microsecond=0), "noise", "noise_LAeq", 51.5)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    "A server that nobody has set up."
    with running_influxd(needed_influxd(), tmp_path_factory.mktemp("bare"), set_up=False) as server:
        yield server


def address_of(server: Influx, bucket: str = "readings") -> Address:
    return Address(server.address, server.org, bucket)


def keeps(server: Influx, org: str = "") -> dict[str, int]:
    "Seconds that each bucket of an organisation keeps; 0: for ever."
    found = server.ask("GET", f"/api/v2/buckets?limit=100&org={org or server.org}")["buckets"]
    rules = {b["name"]: b["retentionRules"] for b in found if not b["name"].startswith("_")}
    return {name: some[0]["everySeconds"] if some else 0 for name, some in rules.items()}


def test_a_bare_server_is_set_up_once(bare: Influx, tmp_path: Path) -> None:
    first = provision(address_of(bare), bare.token, tmp_path / "tokens", keep_days=90)
    assert first == dict.fromkeys(GRANTS, True)
    assert keeps(bare) == {"readings": 90 * 86400, "averages": 0, "forecasts": 90 * 86400}
    tokens = {file.name: file.read_text() for file in (tmp_path / "tokens").iterdir()}
    assert set(tokens) == {f"{part}.token" for part in GRANTS}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "tokens").iterdir()} == {0o600}
    again = provision(address_of(bare), bare.token, tmp_path / "tokens")
    assert again == dict.fromkeys(GRANTS, False)
    assert {file.name: file.read_text() for file in (tmp_path / "tokens").iterdir()} == tokens
    kept = {"readings": 90 * 86400, "averages": 0, "forecasts": 90 * 86400}
    assert keeps(bare) == kept, "a flag that was left out changes nothing"
    provision(address_of(bare), bare.token, tmp_path / "tokens", keep_days=0)
    assert keeps(bare) == dict.fromkeys(kept, 0)


def may(server: Influx, token: str, bucket: str) -> str:
    "What a token may do with a bucket."
    headers = {"Authorization": f"Token {token}"}
    asked = httpx.post(
        f"{server.address}/api/v2/query?org={server.org}",
        headers={**headers, "Content-Type": "application/vnd.flux"},
        content=f'from(bucket: "{bucket}") |> range(start: -1h) |> limit(n: 1)',
    )
    written = httpx.post(
        f"{server.address}/api/v2/write?org={server.org}&bucket={bucket}&precision=s",
        headers=headers,
        content="lesson v=1",
    )
    assert asked.status_code in (200, 404) and written.status_code in (204, 403, 404)
    return "r" * (asked.status_code == 200) + "w" * (written.status_code == 204)


def test_each_token_opens_what_its_part_needs(bare: Influx, tmp_path: Path) -> None:
    provision(address_of(bare), bare.token, tmp_path)
    for part, grant in GRANTS.items():
        token = (tmp_path / f"{part}.token").read_text().strip()
        for held in ("readings", "averages", "forecasts"):
            allowed = "r" * (held in grant.reads) + "w" * (held in grant.writes)
            assert may(bare, token, held) == allowed, f"{part} {held}"


def test_the_collector_writes_with_its_token_and_no_other_bucket(bare: Influx, tmp_path: Path) -> None:
    provision(address_of(bare), bare.token, tmp_path)
    token = (tmp_path / "collect.token").read_text().strip()
    assert InfluxStore(address_of(bare), token).write([READING]) == []
    with pytest.raises(StoreRefused, match=r"answered 40[34]"):
        InfluxStore(address_of(bare, "forecasts"), token).write([READING])


def test_the_roll_up_needs_no_more_than_its_token(bare: Influx, tmp_path: Path) -> None:
    provision(address_of(bare), bare.token, tmp_path, keep_days=30)
    tokens = {part: (tmp_path / f"{part}.token").read_text().strip() for part in GRANTS}
    with closing(InfluxStore(address_of(bare), tokens["collect"])) as collector:
        assert collector.write([READING]) == []
    with closing(InfluxStore(address_of(bare), tokens["rollup"])) as store:
        assert roll_up(store).good == 1
        assert roll_up(store).days == 0
    provision(address_of(bare), bare.token, tmp_path, keep_days=0)


def test_organisations_of_one_server_have_buckets_of_their_own(bare: Influx, tmp_path: Path) -> None:
    theirs = replace(address_of(bare), org="elsewhere")
    provision(address_of(bare), bare.token, tmp_path / "ours", keep_days=90)
    provision(theirs, bare.token, tmp_path / "theirs", keep_days=7)
    kept = {org: keeps(bare, org)["readings"] for org in (bare.org, "elsewhere")}
    assert kept == {bare.org: 90 * 86400, "elsewhere": 7 * 86400}
    with closing(InfluxStore(theirs, (tmp_path / "theirs" / "collect.token").read_text().strip())) as store:
        assert store.write([READING]) == []
    provision(address_of(bare), bare.token, tmp_path / "ours", keep_days=0)


@pytest.mark.parametrize("spoil", ["removed", "other"])
def test_a_lost_token_is_replaced_and_worth_nothing(bare: Influx, tmp_path: Path, spoil: str) -> None:
    provision(address_of(bare), bare.token, tmp_path)
    file = tmp_path / "collect.token"
    lost = file.read_text().strip()
    file.unlink() if spoil == "removed" else file.write_text("something else\n")
    made = provision(address_of(bare), bare.token, tmp_path)
    assert made == {part: part == "collect" for part in GRANTS}
    assert may(bare, file.read_text().strip(), "readings") == "w"
    with pytest.raises(StoreRefused, match="answered 401"):
        InfluxStore(address_of(bare), lost).write([READING])


def test_the_command_tells_no_token(
    bare: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENSORLIB_INFLUX_TOKEN", bare.token)
    url = f"{bare.address.replace('http', 'influxdb')}?org={bare.org}&bucket=readings"
    words = ["setup", "--store", url, "--tokens", str(tmp_path / "tokens"), "--json"]
    assert cli.main(words) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["tokens"] == dict.fromkeys(GRANTS, "made")
    secrets = [file.read_text().strip() for file in (tmp_path / "tokens").iterdir()] + [bare.token]
    assert not [secret for secret in secrets if secret in said.out + said.err]


def test_a_wrong_administrator_is_refused(bare: Influx, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="the token is unknown"):
        provision(address_of(bare), "s3cret", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [2, 6, 7, 400])
def test_readings_are_kept_for_any_number_of_days(bare: Influx, tmp_path: Path, days: int) -> None:
    try:
        provision(address_of(bare), bare.token, tmp_path, keep_days=days)
        assert keeps(bare)["readings"] == days * 86400
    finally:
        provision(address_of(bare), bare.token, tmp_path, keep_days=0)


def test_forecasts_may_go_before_the_readings(bare: Influx, tmp_path: Path) -> None:
    try:
        provision(address_of(bare), bare.token, tmp_path, keep_days=90, keep_forecasts_days=14)
        assert keeps(bare) == {"readings": 90 * 86400, "averages": 0, "forecasts": 14 * 86400}
        with pytest.raises(SettingError, match="forecasts cannot be kept for 1 days"):
            provision(address_of(bare), bare.token, tmp_path, keep_forecasts_days=1)
    finally:
        provision(address_of(bare), bare.token, tmp_path, keep_days=0)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_time_to_keep_that_makes_no_sense_is_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(SettingError, match=f"{days} days, expected 2 or more"):
        provision(Address("http://127.0.0.1:9", "home", "readings"), "t", tmp_path, keep_days=days)
