"""Logs, metrics, health and the end: of the parts over a real port, and of a real scraper with a real broker and Redis."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from sensorlib.core import COMPLETENESS_TOPIC, RAW_TOPIC, SettingError, read_status
from sensorlib.local import Part, start_part, topic_sizes
from sensorlib.service import Health, formatter, redact, serving


def ask(url: str) -> tuple[int, str]:
    "Status and text of an answer."
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(url: str) -> dict[tuple[str, ...], float]:
    "Every sample of a service, by its name and the values of its labels."
    families = text_string_to_metric_families(ask(f"{url}/metrics")[1])
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def log_line(log_format: str, text: str, *words: object, error: BaseException | None = None) -> str:
    trace = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("sensorlib.test", logging.ERROR, "", 0, text, words, trace)
    return formatter(log_format, "scrape").format(record)


@pytest.mark.parametrize(
    "text",
    [
        "redis://:hunter2@cache:6379/0 is away",
        "redis://me:hunter2@cache is away",
        "Authorization: Token hunter2",
        "{'Authorization': 'Bearer hunter2'}",
        "http://127.0.0.1:8086/?org=o&token=hunter2&bucket=b",
        'SENSORLIB_INFLUX_TOKEN="hunter2"',
        "Password: hunter2",
    ],
)
def test_no_secret_is_logged(text: str) -> None:
    assert "hunter2" not in redact(text)
    for log_format in ("plain", "json"):
        line = log_line(log_format, "asked with %r", text, error=ValueError(text))
        assert "hunter2" not in line and "ValueError" in line


@pytest.mark.parametrize(
    "text",
    [
        "the token is unknown: check SENSORLIB_INFLUX_TOKEN or SENSORLIB_INFLUX_TOKEN_FILE",
        "SENSORLIB_INFLUX_TOKEN_FILE: [Errno 2] No such file or directory: 'x'; expected a file with the token",
        "metrics and health at http://127.0.0.1:9100",
        "broker at one:9092,two:9092 is away",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_line_of_json_is_one_line_and_carries_the_traceback() -> None:
    line = log_line("json", "two\nlines of %s", "Straße", error=ValueError("odd"))
    told = json.loads(line)
    assert "\n" not in line
    assert (told["message"], told["level"], told["logger"], told["service"]) == (
        "two\nlines of Straße", "ERROR", "sensorlib.test", "scrape"
    )  # fmt: skip
    assert told["exc_info"] == "ValueError: odd"


def test_an_unknown_format_of_the_log() -> None:
    with pytest.raises(SettingError, match="'xml', expected one of plain, json"):
        formatter("xml", "scrape")


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_command_says_why_it_failed_in_the_format_of_its_log(tmp_path: Path, log_format: str) -> None:
    command = [sys.executable, "-m", "sensorlib.cli", "check", tmp_path / "none.json"]
    env = {**os.environ, "SENSORLIB_LOG_FORMAT": log_format}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert (json.loads(line)["message"] if log_format == "json" else line.split("check: ")[1]).startswith(
        "no such file"
    )


def test_a_loop_that_stops_beating_is_late_and_the_others_are_not() -> None:
    now = [0.0]
    health = Health({"poll": 60.0, "send": 5.0}, clock=lambda: now[0])
    health.beat("send")
    now[0] = 5.0
    assert health.live_report()[0]
    now[0] = 5.1
    assert health.live_report()[1]["late"] == ["send"]
    health.beat("send")
    assert health.live_report()[0]
    now[0] = 60.1
    assert health.live_report()[1]["late"] == ["poll", "send"]


def test_a_beat_without_a_limit_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError, match="poll"):
        Health().beat("poll")


def test_ready_comes_and_goes_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sensorlib")
    health = Health()
    assert health.ready_report() == (False, {"ready": False, "why": "starting"})
    for _ in range(2):
        health.ready()
    assert health.ready_report() == (True, {"ready": True, "why": None})
    health.not_ready("redis://:hunter2@cache is away")
    health.not_ready("store refuses")
    assert health.ready_report() == (False, {"ready": False, "why": "store refuses"})
    assert [m.split(":")[0] for m in caplog.messages] == ["ready", "not ready"]


def test_the_port_tells_metrics_and_health() -> None:
    now = [0.0]
    health = Health({"poll": 60.0}, clock=lambda: now[0])
    Counter("things", "Things", registry=health.registry).inc(3)
    with serving("127.0.0.1:0", health) as url:
        assert ask(f"{url}/health/live")[0] == 200
        assert ask(f"{url}/health/ready") == (503, '{"ready":false,"why":"starting"}\n')
        health.ready()
        assert ask(f"{url}/health/ready")[0] == 200
        now[0] = 61.0
        status, text = ask(f"{url}/health/live")
        assert (status, json.loads(text)["late"]) == (503, ["poll"])
        assert json.loads(text)["loops"] == {"poll": {"last_beat_s_ago": 61.0, "limit_s": 60.0}}
        told = samples(url)
        assert (told[("things_total",)], told[("sensorlib_ready",)]) == (3.0, 1.0)
        assert told[("process_cpu_seconds_total",)] > 0
        assert ask(f"{url}/etc")[0] == 404
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/health/live")


def test_a_client_that_says_nothing_holds_up_nobody() -> None:
    with serving("127.0.0.1:0", Health()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):
            assert ask(f"{url}/health/live")[0] == 200


def test_two_services_on_one_machine_get_two_ports() -> None:
    with serving("127.0.0.1:0", Health()) as one, serving("127.0.0.1:0", Health()) as other:
        assert one != other
        assert {ask(f"{url}/health/live")[0] for url in (one, other)} == {200}


def test_a_port_in_use_is_a_clear_error() -> None:
    with serving("127.0.0.1:0", Health()) as url:
        taken = url.removeprefix("http://")
        with (
            pytest.raises(SettingError, match=rf"'{taken}', cannot listen there: Address already in use"),
            serving(taken, Health()),
        ):
            pass  # fmt: skip


@pytest.mark.parametrize(
    "listen", ["9100", "localhost", "localhost:", "localhost:http", "127.0.0.1:65536", ":-1", "no.such.host.invalid:0"]
)
def test_an_address_to_listen_on_that_cannot_be_used(listen: str) -> None:
    with pytest.raises(SettingError, match="expected HOST:PORT"), serving(listen, Health()):
        pass


@pytest.mark.parametrize("listen", [":0", "0.0.0.0:0", "[::1]:0"])
def test_addresses_to_listen_on(listen: str) -> None:
    if listen.startswith("[") and not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    with serving(listen, Health()) as url:
        assert ask(f"{url}/health/live")[0] == 200


def started(code: str) -> subprocess.Popen[str]:
    "A process that runs some Python and has said `up`."
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "up\n"
    return process


WAIT = """
from sensorlib.service import stop_on_signals
stop = stop_on_signals()
print("up", flush=True)
print(stop.wait(60))
"""
STUCK_IN_A_LIBRARY = """
from sensorlib.bus import Outbox
from sensorlib.service import stop_on_signals
stop, outbox = stop_on_signals(), Outbox("127.0.0.1:9", timeout_s=60)
outbox.send("sensor.raw", None, b"{}")
print("up", flush=True)
outbox.flush()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_in_order(number: signal.Signals) -> None:
    process = started(WAIT)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "True\n"
    assert process.returncode == 0


def test_a_second_signal_ends_a_process_that_is_stuck() -> None:
    process = started(STUCK_IN_A_LIBRARY)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.terminate()
    assert process.wait(5.0) == 1


def start_scraper(folder: Path, brokers: str, redis_url: str) -> tuple[Part, str]:
    "A real scraper of a made city, and the address of its port."
    words = "-m sensorlib.cli scrape --source simulate --sensors 30 --poll-s 0.5 --listen 127.0.0.1:0 --log-format json --json"
    told = ["--brokers", brokers, "--redis-url", redis_url, "--status", folder / "scrape.json"]
    part = start_part("scrape", [sys.executable, *words.split(), *told], folder)
    deadline = time.monotonic() + 60
    while "metrics and health at " not in part.log_file.read_text():
        part.check()
        assert time.monotonic() < deadline, part.log_file.read_text()
        time.sleep(0.1)
    messages = [json.loads(line)["message"] for line in part.log_file.read_text().splitlines()]
    return part, next(m.split(" at ")[1] for m in messages if m.startswith("metrics and health at "))


def wait_until_ready(part: Part, url: str) -> None:
    deadline = time.monotonic() + 60
    while ask(f"{url}/health/ready")[0] != 200:
        part.check()
        assert time.monotonic() < deadline, ask(f"{url}/health/ready")
        time.sleep(0.1)


def test_a_real_scraper_tells_the_truth_and_ends_in_order(brokers: str, redis_url: str, tmp_path: Path) -> None:
    part, url = start_scraper(tmp_path, brokers, redis_url)
    try:
        wait_until_ready(part, url)
        while read_status(tmp_path / "scrape.json").get("polls", 0) < 3:
            part.check()
            time.sleep(0.1)
        told, live = samples(url), ask(f"{url}/health/live")
        began = time.monotonic()
        part.process.terminate()
        assert part.process.wait(30) == 0
        assert time.monotonic() - began < 10
    finally:
        part.stop()
    assert live[0] == 200
    assert told[("sensorlib_scraper_polls_total", "ok")] >= 3
    assert told[("sensorlib_scraper_polls_total", "failed")] == 0
    assert told[("sensorlib_scraper_values_total", "new")] > 0
    assert time.time() - told[("sensorlib_scraper_newest_reading_timestamp_seconds",)] < 300
    lines = part.log_file.read_text().splitlines()
    end = json.loads(lines[-1])
    assert end == read_status(tmp_path / "scrape.json")
    assert end["values"] == end["repeated"] + end["sent"] > 0
    assert told[("sensorlib_scraper_values_total", "new")] <= end["sent"]
    raw, rows = messages_on(brokers, RAW_TOPIC), messages_on(brokers, COMPLETENESS_TOPIC)
    assert sum(len(record["sensordatavalues"]) for record in raw) == end["sent"]
    assert sum(row["received"] for row in rows) == len({(r["sensor"]["id"], r["timestamp"]) for r in raw})
    assert {row["sensor_id"] for row in rows} == {record["sensor"]["id"] for record in raw}
    assert all(json.loads(line)["service"] == "scrape" for line in lines[:-1])


def messages_on(brokers: str, topic: str) -> list[dict[str, Any]]:
    "All messages of a topic, which has one partition."
    wanted = topic_sizes(brokers)[topic]
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "test", "enable.auto.commit": False})
    reader.assign([TopicPartition(topic, 0, 0)])
    messages = reader.consume(wanted, timeout=30)
    reader.close()
    assert len(messages) == wanted
    return [json.loads(m.value()) for m in messages]
