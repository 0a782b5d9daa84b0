"""Command line of sensorlib: one subcommand a task, exit 0 done, 1 failed, 2 bad usage."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from sensorlib import __version__
from sensorlib.core import SensorlibError, Settings, format_time, load_settings, write_status

Arguments = argparse.Namespace
LONGEST_TURN_S = 300.0  # of a service's loop; whoever runs it may start it anew after that


def _settings(arguments: Arguments) -> Settings:
    given = {f.name: getattr(arguments, f.name, None) for f in fields(Settings)}
    return load_settings(**given)


def _status_writer(path: Path | None) -> Callable[[dict[str, Any]], None]:
    return (lambda status: write_status(path, status)) if path else (lambda status: None)


def _plain(value: object) -> str:
    "Write a result as people read it."
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)


def _print_result(arguments: Arguments, result: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>15}  {_plain(value)}")


def _bar(arguments: Arguments, what: str) -> Any:
    "Progress bar for people at a terminal."
    from tqdm import tqdm

    return tqdm(desc=what, unit="", disable=arguments.json or not sys.stderr.isatty())


def _polls(arguments: Arguments, settings: Settings) -> tuple[Any, float]:
    "Source of a scraper, and its pause between polls [s]."
    from sensorlib.scraper import live, replayed, simulated

    if arguments.source in ([], ["live"]):
        return live(settings.feed_url), settings.poll_s
    if arguments.source == ["simulate"]:
        return simulated(arguments.sensors), min(settings.poll_s, 15.0)
    return replayed(map(Path, arguments.source)), 0.0


def scrape(arguments: Arguments) -> int:
    "Poll a source and send on what is new."
    from sensorlib.bus import Outbox, make_topics
    from sensorlib.places import places_of
    from sensorlib.scraper import Ledger, memory_of
    from sensorlib.scraper import scrape as run
    from sensorlib.service import Health, serving, stop_on_signals

    settings, stop = _settings(arguments), stop_on_signals()
    places = places_of(settings)
    write = _status_writer(arguments.status)
    polls, pause_s = _polls(arguments, settings)
    health = Health({"poll": pause_s + LONGEST_TURN_S})
    with serving(settings.listen, health):
        make_topics(settings.brokers, settings.partitions, settings.replicas)
        memory, outbox = memory_of(settings), Outbox(settings.brokers, stop=stop)
        goes_on = arguments.source in ([], ["live"], ["simulate"])
        ledger = Ledger(memory, outbox, datetime.now(UTC), health.registry) if goes_on else None
        counts = run(polls, memory, outbox, stop, pause_s, lambda now: write(asdict(now)), health, places, ledger)
    _print_result(arguments, asdict(counts))
    return 0


def stream(arguments: Arguments) -> int:
    "Run the Flink job on Kafka, or over files."
    from sensorlib.service import Health, serving, stop_on_signals
    from sensorlib.stream import run_batch, run_detached, run_stream

    settings = _settings(arguments)
    if arguments.detached:
        run_detached(settings)
        return 0
    if arguments.batch:
        run_batch(arguments.batch, arguments.out, settings.parallelism)
        return 0
    write = _status_writer(arguments.status)
    health, stop = Health({"job": LONGEST_TURN_S}), stop_on_signals()
    with serving(settings.listen, health):
        run_stream(settings, stop, lambda state: write({"state": state}), health)
    return 0


def collect(arguments: Arguments) -> int:
    "Store readings as they come."
    from sensorlib.collector import Progress
    from sensorlib.collector import collect as run
    from sensorlib.service import Health, serving, stop_on_signals

    settings, stop, health = _settings(arguments), stop_on_signals(), Health({"receive": LONGEST_TURN_S})
    write = _status_writer(arguments.status)

    def counts(now: Progress) -> dict[str, Any]:
        "What the status file tells."
        told = {name: getattr(now, name) for name in ("received", "stored", "dead", "refused", "flagged", "hours", "dead_hours")}
        p50_s, p99_s = now.percentiles_s([50, 99])
        return {**told, "p50_s": p50_s, "p99_s": p99_s}

    with serving(settings.listen, health):
        progress = run(settings, stop, lambda now: write(counts(now)), health)
    _print_result(arguments, counts(progress))
    return 0


def _existing_store(url: str) -> Any:
    "Open a store to read from it: a file that is not there is an error."
    from sensorlib.core import MissingPart
    from sensorlib.store import open_store

    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path and not Path(path).exists():
        raise MissingPart(f"no such store: {path}; start sensorlib collect or demo, or name another with --store")
    return open_store(url)


def _moment(flag: str, text: str) -> datetime:
    "Read a day or a time of a flag."
    from sensorlib.core import SettingError, parse_time

    moment = parse_time(text if len(text) > 10 else f"{text}T00:00:00Z")
    if moment is None:
        raise SettingError(f"{flag} is {text!r}, expected a day or a time in UTC such as 2026-01-15T00:00:00Z")
    return moment


def rollup(arguments: Arguments) -> int:
    "Average readings by hour and day, and forget old ones."
    from contextlib import closing

    from sensorlib.rollups import retain, roll_up

    with (
        closing(_existing_store(_settings(arguments).store)) as store,
        _bar(arguments, "days") as bar,
    ):

        def watch(days: Sequence[Any], done: int) -> None:
            "Move the bar."
            bar.total = len(days)
            bar.set_postfix_str(f"{days[done - 1].start:%Y-%m-%d} {days[done - 1].kind}")
            bar.update()

        if arguments.keep_days:
            done = asdict(retain(store, arguments.keep_days, datetime.now(UTC), watch))
        else:
            done = asdict(roll_up(store, _moment("--since", arguments.since) if arguments.since else None, watch))
    before = done["forgotten_before"]
    _print_result(arguments, {**done, "forgotten_before": format_time(before) if before else None})
    return 0


def export(arguments: Arguments) -> int:
    "Write readings or averages to a CSV or Parquet file."
    from contextlib import closing
    from datetime import timedelta

    from sensorlib.core import KINDS, SettingError
    from sensorlib.export import exported, write_export

    if arguments.kind not in (None, *KINDS):
        raise SettingError(f"--kind is {arguments.kind!r}, expected one of {', '.join(KINDS)}")
    until = _moment("--to", arguments.until) if arguments.until else datetime.now(UTC)
    since = _moment("--from", arguments.since) if arguments.since else until - timedelta(days=1)
    kinds = [arguments.kind] if arguments.kind else KINDS
    window = None if arguments.window == "raw" else arguments.window
    with (
        closing(_existing_store(_settings(arguments).store)) as store,
        _bar(arguments, "rows") as bar,
    ):
        frames = exported(store, kinds, since, until, window, arguments.sensor_ids, arguments.good)
        rows = write_export(frames, arguments.out, watch=lambda rows: bar.update(rows - bar.n))
    _print_result(arguments, {"rows": rows, "out": str(arguments.out)})
    return 0


def setup(arguments: Arguments) -> int:
    "Make the buckets of an InfluxDB, and a token for each part."
    from sensorlib.influx import influx_address, influx_token
    from sensorlib.provision import provision

    address, keep = influx_address(_settings(arguments).store), (arguments.keep_days, arguments.keep_forecasts_days)
    made = provision(address, influx_token(), arguments.tokens, *keep)
    told = {part: "made" if new else "kept" for part, new in made.items()}
    _print_result(arguments, {"tokens": told, "folder": str(arguments.tokens)})
    return 0


def check(arguments: Arguments) -> int:
    "Judge files without any server."
    from sensorlib.quality import check_files, read_frame, score, summarise, write_frame

    with _bar(arguments, "files") as bar:
        verdicts = check_files(arguments.paths, watch=lambda name: bar.update())
    result = summarise(verdicts)
    if arguments.truth:
        result["truth"] = score(verdicts.readings, read_frame(arguments.truth))
    for frame, path in ((verdicts.readings, arguments.out), (verdicts.dead, arguments.dead)):
        if path:
            write_frame(frame, path)
    _print_result(arguments, result)
    return 0


def _day(text: str | None, flag: str) -> date | None:
    "A day, as a flag gives it."
    from sensorlib.core import SettingError

    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingError(f"{flag} is {text!r}, expected a day such as 2017-08-30") from None


def backfill(arguments: Arguments) -> int:
    "Judge published files into a Parquet history and a store."
    from sensorlib.backfill import backfill as run
    from sensorlib.places import places_of
    from sensorlib.service import stop_on_signals

    since, until = _day(arguments.since, "--from"), _day(arguments.until, "--to")
    stop = stop_on_signals()
    with _bar(arguments, "files") as bar:

        def watch(done: int, total: int) -> None:
            "Move the bar; what was done before says nothing about the rate."
            if bar.total is None:
                bar.reset(total)
                bar.initial = bar.n = done
            bar.update(done - bar.n)

        settings = _settings(arguments)
        result = run(
            arguments.paths, arguments.history, arguments.store, since, until,
            arguments.engine, settings.parallelism, watch, stop, places_of(settings, bulk=True),
        )  # fmt: skip
    _print_result(arguments, result)
    if "left" in result:
        print(f"sensorlib backfill: stopped with {result['left']} files left, the same command goes on", file=sys.stderr)
    return 1 if "left" in result else 0


def _names(text: str, known: Iterable[str]) -> list[str]:
    "Names, comma separated; `all` stands for those that are known."
    return list(known) if text == "all" else [name for name in text.split(",") if name]


def simulate(arguments: Arguments) -> int:
    "Write the records of a made city, with the truth of its faults."
    import gzip
    import math
    from datetime import timedelta

    import msgspec
    import pandas as pd
    import zstandard
    from tqdm import tqdm

    from sensorlib.core import SettingError, parse_time
    from sensorlib.quality import write_frame
    from sensorlib.simulate import EVENTS, FAULTS, draw_events, inject, inject_events, inject_pieces, make_city, records

    start = parse_time(arguments.start)
    if start is None:
        raise SettingError(f"--start is {arguments.start!r}, expected a time such as 2026-01-15T00:00:00Z")
    names = _names(arguments.faults, FAULTS)
    events = draw_events(_names(arguments.events, EVENTS), arguments.seed, start, start + timedelta(hours=arguments.hours))
    city = make_city(sensors=arguments.sensors, seed=arguments.seed)
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".zst": zstandard.open}
    hours = arguments.hours
    begins = tqdm(range(math.ceil(hours)), desc="hours", unit="", disable=not sys.stderr.isatty())
    pieces = (
        records(city, start + timedelta(hours=hour), start + timedelta(hours=min(hour + 1.0, hours))) for hour in begins
    )
    truths, count = [inject([], names, seed=arguments.seed)[1]], 0
    with openers.get(arguments.out.suffix, open)(arguments.out, "wb") as file:
        lived = (inject_events(piece, events)[0] for piece in pieces)
        for made, truth in inject_pieces(lived, names, seed=arguments.seed):
            file.write(b"".join(msgspec.json.encode(record) + b"\n" for record in made))
            truths.append(truth)
            count += len(made)
    if arguments.truth:
        write_frame(pd.concat(truths), arguments.truth)
    _print_result(arguments, {"records": count, "spoilt": sum(map(len, truths)), "out": str(arguments.out)})
    return 0


def _examined(arguments: Arguments, settings: Settings) -> Any:
    "Readings to report on: of files, judged here; else of a store, with the verdicts they have."
    from contextlib import closing

    from sensorlib.health import examine_files, newest, stored

    if arguments.source:
        with _bar(arguments, "files") as bar:
            return examine_files(arguments.source, watch=lambda name: bar.update())
    with closing(_existing_store(settings.store)) as store:
        return stored(store, arguments.sensor_ids) if arguments.sensor_ids else newest(store)


def health(arguments: Arguments) -> int:
    "Report what is wrong with some sensors, or how good the network is."
    from sensorlib import health as reports

    ids: list[int] = list(dict.fromkeys(arguments.sensor_ids))
    examined = _examined(arguments, _settings(arguments))
    if ids:
        told = [reports.summary(examined, sensor_id) for sensor_id in ids]
        result: dict[str, Any] = {"sensors": told}
        texts = [reports.as_text(reports.words(one)) for one in told]
    else:
        result = reports.network_summary(examined)
        texts = [reports.as_text(reports.network_words(result))]
    if arguments.page:
        reports.write_page(arguments.page, examined, ids)
        result["page"] = str(arguments.page)
    if arguments.json:
        print(json.dumps(reports.as_json(result)))
        return 0
    if arguments.page:
        texts.append(f"page: {arguments.page}")
    print("\n\n".join(texts))
    return 0


def completeness(arguments: Arguments) -> int:
    "Tell what should have come, what came, and whose gap the difference is."
    from contextlib import closing
    from datetime import timedelta

    from sensorlib.completeness import summary, words
    from sensorlib.core import SettingError

    if not 0 < arguments.hours <= 10**6:
        raise SettingError(f"--hours is {arguments.hours:g}, expected more than 0 and at most a million")
    settings = _settings(arguments)
    until = datetime.now(UTC)
    since = until - timedelta(hours=arguments.hours)
    with closing(_existing_store(settings.store)) as store:
        rows = store.completeness(since, until)
    if arguments.sensor_ids:
        rows = rows[rows["sensor_id"].isin(arguments.sensor_ids)]
    result = {"since": format_time(since), "until": format_time(until), **summary(rows)}
    lines = words(result)
    if arguments.page:
        from sensorlib.figures import completeness_page

        completeness_page(arguments.page, rows, lines)
        lines.append(f"page: {arguments.page}")
    print(json.dumps(result) if arguments.json else "\n".join(lines))
    return 0


def run(arguments: Arguments) -> int:
    "Run a job notebook: train, predict or verify."
    from sensorlib.jobs import described, find_job, parameters_of, read_parameters, run_job

    if arguments.parameters:
        known = parameters_of(find_job(arguments.job))
        told = {name: {"default": p.default, "help": p.help} for name, p in known.items()}
        print(json.dumps(told) if arguments.json else "\n".join(described(known)))
        return 0
    given = (read_parameters(arguments.file) if arguments.file else {}) | dict(arguments.given)
    done = run_job(arguments.job, given, arguments.out, timeout_s=arguments.timeout)
    _print_result(arguments, done.result if arguments.json else {**done.result, "notebook": str(done.notebook)})
    return 0


def models(arguments: Arguments) -> int:
    "List the models, take one out of service, or put it back."
    from sensorlib.core import KINDS, SettingError
    from sensorlib.registry import open_registry, restore, versions, withdraw

    if arguments.kind not in (None, *KINDS):
        raise SettingError(f"the kind is {arguments.kind!r}, expected one of {', '.join(KINDS)}")
    if bool(arguments.withdraw) != bool(arguments.reason):
        raise SettingError("--withdraw VERSION and --reason TEXT belong together: give both or none")
    registry = open_registry(_settings(arguments).models)
    wanted = arguments.withdraw or arguments.restore
    tables = {kind: versions(registry, kind) for kind in ([arguments.kind] if arguments.kind else KINDS)}
    if wanted:
        published = (kind for kind, table in tables.items() for line in table if line.version == wanted)
        kind = next(published, arguments.kind)
        if kind is None:
            raise SettingError(f"no version {wanted!r} at {registry.url}; sensorlib models lists those that are there")
        if arguments.withdraw:
            withdraw(registry, kind, wanted, arguments.reason)
        else:
            restore(registry, kind, wanted)
        tables = {kind: versions(registry, kind)}
    lines = [_model(line) for table in tables.values() for line in table]
    if arguments.json:
        print(json.dumps({"registry": registry.url, "models": lines}))
        return 0
    for told in lines:
        size = "" if told["size"] is None else f"{told['size'] / 1e6:.1f} MB"
        print(f"{told['kind']:<12}  {told['version']}  {told['state']:<10}  {size:>9}  {told['reason']}")
    if not lines:
        print(f"no models at {registry.url}: sensorlib run train makes one")
    return 0


def evaluate(arguments: Arguments) -> int:
    "Train on the past, test on a time after it, and say how far off it was."
    from importlib.util import find_spec

    from sensorlib.core import KINDS, MissingPart, SettingError
    from sensorlib.grids import source_of

    if find_spec("tensorflow") is None:
        raise MissingPart("training needs TensorFlow: pip install 'sensorlib[forecast]'")
    from sensorlib.evaluate import as_text, cells, summary
    from sensorlib.evaluate import evaluate as run
    from sensorlib.network import on_device

    kinds = arguments.kind or KINDS
    if unknown := {*kinds} - {*KINDS}:
        raise SettingError(f"--kind is {', '.join(sorted(unknown))}, expected some of {', '.join(KINDS)}")
    flags = ("train_until", "test_from", "test_until")
    until, first, last = (_moment(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in flags)
    source, reference = source_of(arguments.history), find_spec("lightgbm") is not None
    since = _moment("--train-from", arguments.train_from) if arguments.train_from else _begin(arguments.history, until)
    found, train_s, left_out = [], 0.0, []
    with on_device(arguments.device), _bar(arguments, "steps") as bar:

        def watch(done: int, total: int, says: str) -> None:
            "Move the bar."
            bar.total = total
            bar.set_postfix_str(says, refresh=False)
            bar.update(done - bar.n)

        for kind in kinds:
            bar.reset()
            try:
                test = run(source, kind, until, first, last, since, reference=reference, held_out=arguments.held_out, watch=watch)
            except SettingError as error:
                if arguments.kind:
                    raise
                left_out.append(str(error))
                continue
            if test is not None:
                found += cells(test)
                train_s += test.train_s
    if not found:
        empty = f"{arguments.history} holds nothing good of {', '.join(kinds)} in that time: choose another"
        raise SettingError("; ".join(dict.fromkeys(left_out)) or empty)
    for why in left_out:
        logging.getLogger("sensorlib").warning("left out: %s", why)
    result = summary(found, train_s)
    print(json.dumps(result) if arguments.json else as_text(result))
    return 0


def _begin(history: str, until: datetime) -> datetime:
    "Begin of the oldest month of a history; of a store, so many days before the end of the training as a job trains on."
    from datetime import timedelta

    months = sorted(path.name.removeprefix("month=") for path in Path(history).glob("kind=*/month=*"))
    return _moment("--train-from", f"{months[0]}-01") if months else until - timedelta(days=540)


def _model(line: Any) -> dict[str, Any]:
    "A line of the table of models, as JSON holds it."
    told = asdict(line)
    return {name: format_time(value) if isinstance(value, datetime) else value for name, value in told.items()}


def doctor(arguments: Arguments) -> int:
    "Say what is missing on this machine, and how to get it."
    from sensorlib.local import examine

    found = examine(_settings(arguments).feed_url)
    missing = [f for f in found if f.found is None]
    if arguments.json:
        print(json.dumps({"found": {f.name: f.found for f in found}, "missing": [f.name for f in missing]}))
    else:
        for f in found:
            print(f"{'ok' if f.found else 'missing':>8}  {f.name:<14} {f.found or f'{f.needed_for}: {f.remedy}'}")
    return 1 if any("optional" not in f.needed_for for f in missing) else 0


def dashboards(arguments: Arguments) -> int:
    "Write Grafana's dashboards as JSON files."
    from importlib.util import find_spec

    from sensorlib.core import MissingPart

    if find_spec("grafana_foundation_sdk") is None:
        wanted = "pip install grafana-foundation-sdk==0.0.21"
        raise MissingPart(f"dashboards need grafana-foundation-sdk, which is not here: {wanted}")
    from sensorlib.dashboards import write_dashboards

    written = write_dashboards(arguments.out)
    _print_result(arguments, {"dashboards": len(written), "out": str(arguments.out)})
    return 0


def _demo_source(arguments: Arguments, feed_url: str) -> list[str]:
    "Source of the demo: as asked, else live where the feed answers in 3 s, else a made city."
    from sensorlib.core import FeedError
    from sensorlib.feed import Feed

    if arguments.source:
        return list(arguments.source)
    feed = Feed(feed_url, attempts=1, timeout_s=3.0)
    try:
        feed.fetch()
        return ["live"]
    except FeedError:
        return ["simulate"]
    finally:
        feed.close()


def demo(arguments: Arguments) -> int:
    "Run the whole system on this machine."
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts `demo &` with SIGINT ignored
        signal.signal(number, signal.default_int_handler)

    import webbrowser

    from sensorlib.fans import Outlook, forecast_block, write_forecasts
    from sensorlib.figures import save_page, serve_page
    from sensorlib.local import Books, Display, Schedule, local_system, run_demo
    from sensorlib.local import report as told

    folder: Path = arguments.dir
    source = _demo_source(arguments, load_settings().feed_url)
    goes_on = source in (["live"], ["simulate"])
    latest: dict[str, Any] = {"source": " ".join(source), "since": format_time(datetime.now(UTC)), "messages": []}
    with (
        Display(quiet=arguments.json) as display,
        local_system(folder, display.say) as system,
        Schedule(system, display.say) as jobs,
    ):

        def watch(books: Books) -> None:
            "Show the books on the terminal and the page."
            latest.update(told(system, books, jobs.told()), messages=jobs.troubles())
            display.show(latest)

        block = forecast_block(lambda: Outlook(jobs.next_run, jobs.note, jobs.ended))
        page = serve_page(system.settings.store, lambda: latest, block=block)
        try:
            display.say(f"page: {page.url}")
            if not arguments.no_browser:
                webbrowser.open(page.url)
            scrape_arguments = ["--source", *source, "--sensors", str(arguments.sensors)]
            books = run_demo(system, scrape_arguments, watch, arguments.minutes, jobs if goes_on else None)
            result = told(system, books, jobs.told())
        finally:
            page.close()
        kept = save_page(system.store, {**latest, **result}, folder / "page.html")
        forecasts = write_forecasts(system.store, folder / "forecasts.html")
    pages = {"page": str(kept.resolve()), "forecasts_page": str(forecasts.resolve())}
    runs = {name: f"{job['runs']} runs, {job['failed']} failed" for name, job in result["jobs"].items()}
    _print_result(arguments, {**result, **({} if arguments.json else {"jobs": runs}), **pages})
    return 0 if result["lost"] == 0 else 1


SOURCE_HELP = "live, simulate, or files and folders to replay once"
DEMO_HELP = (
    "It starts Kafka, Redis, Flink, the scraper, the collector and the page, and ends them together. "
    "Of a source that goes on, forecasts are made (run predict) and compared with what came (run verify) every ten minutes, "
    "and a model is trained (run train) once a day where TensorFlow is installed and the store holds enough days."
)
STATUS_HELP = "file that gets the counts as JSON after each step"


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    "Name defaults, where there are any."

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _command(commands: Any, run: Callable[[Arguments], int], settings: str = "", json_too: bool = True) -> Any:
    "Add a subcommand named after its function, with flags for some settings."
    added = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__, formatter_class=_Help)
    added.set_defaults(run=run)
    added.add_argument("--verbose", action="store_true", help="log more")
    if json_too:
        added.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    known = {f.name: f for f in fields(Settings)}
    for name in settings.split():
        told = f"{known[name].metadata['says']} (SENSORLIB_{name.upper()}, default: {known[name].default or 'none'})"
        added.add_argument(f"--{name.replace('_', '-')}", dest=name, help=told)
    return added


def _add_system(commands: Any) -> None:
    "Add what runs on one machine."
    added = _command(commands, demo)
    added.epilog = DEMO_HELP
    choice = f"{SOURCE_HELP}; default: live, or simulate where the feed does not answer"
    added.add_argument("--source", nargs="+", default=[], help=choice)
    added.add_argument("--minutes", type=float, help="end after so many minutes; default: at Ctrl-C, or with the files")
    added.add_argument("--sensors", type=int, default=200, help="sensors of a simulated city")
    added.add_argument("--no-browser", action="store_true", help="do not open the page")
    added.add_argument("--dir", type=Path, default=Path(".sensorlib"), help="keeps data, logs and the page")
    _command(commands, doctor, "feed_url")
    added = _command(commands, dashboards)
    added.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, one a dashboard")


def _add_files(commands: Any) -> None:
    "Add what works on files."
    added = _command(commands, check)
    shapes = "JSON, ndjson or archive CSV, also .gz, .zst, .zip, .tar.zst, or a folder"
    added.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=shapes)
    added.add_argument("--out", type=Path, help="write readings; .parquet, .csv or .ndjson")
    added.add_argument("--dead", type=Path, help="write what is no reading, with the reason; same endings")
    added.add_argument("--truth", type=Path, help="compare with the truth that `simulate --truth` wrote")
    added = _command(commands, backfill, "parallelism redis_url geocoder")
    published = "day files, plain or packed, Parquet, a folder, a history, or a URL of the archive's layout"
    added.add_argument("paths", nargs="+", metavar="PATH", help=published)
    added.add_argument("--history", type=Path, metavar="DIR", help="write Parquet, by kind and month")
    added.add_argument("--store", help="write to this store too: sqlite:///PATH or influxdb://HOST:PORT?org=ORG&bucket=BUCKET")
    engine = "who judges: python on this machine, or flink, by the same SQL in batch mode, here or on a cluster"
    added.add_argument("--engine", choices=["python", "flink"], default="python", help=engine)
    added.add_argument("--from", dest="since", metavar="DAY", help="first day, such as 2017-08-30")
    added.add_argument("--to", dest="until", metavar="DAY", help="first day that is not wanted")
    added = _command(commands, health, "store")
    whose = "sensors to report on; none: the whole network"
    added.add_argument("sensor_ids", nargs="*", type=int, metavar="SENSOR_ID", help=whose)
    source = f"judge these files instead of asking the store: {shapes}"
    added.add_argument("--source", nargs="+", type=Path, metavar="PATH", help=source)
    added.add_argument("--page", type=Path, metavar="FILE", help="write words and pictures as one HTML file")
    added = _command(commands, completeness, "store")
    whose = "sensors to report on; none: the whole network"
    added.add_argument("sensor_ids", nargs="*", type=int, metavar="SENSOR_ID", help=whose)
    added.add_argument("--hours", type=float, default=24.0, help="how far back to look")
    added.add_argument("--page", type=Path, metavar="FILE", help="write words and a picture as one HTML file")
    added = _command(commands, simulate)
    added.add_argument("--sensors", type=int, default=200, help="sensors of the city")
    added.add_argument("--hours", type=float, default=24.0, help="length")
    added.add_argument("--seed", type=int, default=1, help="another seed, another city")
    added.add_argument("--start", default="2026-01-15T00:00:00Z", help="first moment, UTC")
    faults = "faults to inject, comma separated, such as stuck,spike,delayed; all: those that a single record shows"
    added.add_argument("--faults", default="", metavar="NAMES", help=faults)
    events = "events that happen to many sensors and are no faults, such as fireworks,storm,heat_wave; all: one of each"
    added.add_argument("--events", default="", metavar="NAMES", help=events)
    added.add_argument("--out", type=Path, required=True, help="records, one a line; .gz and .zst pack them")
    added.add_argument("--truth", type=Path, help="write which readings were spoilt; .parquet, .csv or .ndjson")


def _add_services(commands: Any) -> None:
    "Add the three services, and what sets their store up."
    told = "feed_url poll_s brokers partitions replicas redis_url geocoder nominatim_url contact listen log_format"
    added = _command(commands, scrape, told)
    added.add_argument("--source", nargs="+", default=["live"], help=SOURCE_HELP)
    added.add_argument("--sensors", type=int, default=200, help="sensors of a simulated city")
    added.add_argument("--status", type=Path, help=STATUS_HELP)
    added = _command(commands, stream, "brokers checkpoints parallelism listen log_format", json_too=False)
    added.add_argument("--status", type=Path, help=STATUS_HELP)
    detached = "hand the job over to the Flink cluster that runs this program, and end; checkpoints, restarts and parallelism are its affair"
    added.add_argument("--detached", action="store_true", help=detached)
    batch = "run over this file or folder of raw records instead of Kafka"
    added.add_argument("--batch", type=Path, metavar="PATH", help=batch)
    added.add_argument("--out", type=Path, default=Path("readings"), help="where --batch writes, one folder a topic")
    added = _command(commands, collect, "brokers store writers listen log_format")
    added.add_argument("--status", type=Path, help=STATUS_HELP)
    added = _command(commands, export, "store")
    added.add_argument("sensor_ids", nargs="*", type=int, metavar="SENSOR_ID", help="sensors to export; none: all")
    added.add_argument("--out", type=Path, required=True, metavar="FILE", help="file ending in .csv, .csv.gz or .parquet")
    added.add_argument("--kind", help="temperature, humidity, pressure, particulates or noise; default: all")
    day = "a day or a time in UTC such as 2026-01-15T00:00:00Z"
    added.add_argument("--from", dest="since", metavar="TIME", help=f"{day}; default: a day before the end")
    added.add_argument("--to", dest="until", metavar="TIME", help=f"end, {day}; default: now")
    added.add_argument("--window", choices=("raw", "1h", "1d"), default="raw", help="readings, or averages by hour or day")
    added.add_argument("--good", action="store_true", help="leave out readings with a fault")
    which = _command(commands, rollup, "store").add_mutually_exclusive_group()
    keep = "forget readings and forecasts of days that are averaged and older than so many days; InfluxDB does so by itself, see setup"
    which.add_argument("--keep-days", type=int, help=f"{keep}; default: keep all")
    since = "average anew from this day on; default: only days to which something was written since they were averaged"
    which.add_argument("--since", metavar="DAY", help=since)
    added = _command(commands, setup, "store")
    tokens = "folder that gets a file for each part; the administrator's token is read from SENSORLIB_INFLUX_TOKEN(_FILE)"
    added.add_argument("--tokens", type=Path, required=True, metavar="DIR", help=tokens)
    keep = "days to keep readings, 0: for ever; default: as it is, and for ever in a new bucket"
    added.add_argument("--keep-days", type=int, metavar="DAYS", help=keep)
    added.add_argument("--keep-forecasts-days", type=int, metavar="DAYS", help="days to keep forecasts; default: as readings")


def _add_models(commands: Any) -> None:
    "Add what trains, forecasts and keeps models."
    added = _command(commands, run, "log_format")
    added.add_argument("job", metavar="NAME", help="train, predict or verify")
    given = "set a parameter of the job; may be repeated"
    added.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"), help=given)
    added.add_argument("-f", dest="file", type=Path, metavar="FILE", help="read parameters from this YAML file; -p wins over it")
    added.add_argument("--parameters", action="store_true", help="list the parameters of the job, and run nothing")
    added.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="keeps the executed notebooks")
    added.add_argument("--timeout", type=float, metavar="SECONDS", help="end a run that takes longer; default: no limit")
    added = _command(commands, evaluate)
    added.add_argument("--history", required=True, metavar="DIR", help="Parquet history of backfill, or the URL of a store")
    added.add_argument("--kind", nargs="+", metavar="KIND", help="temperature, humidity, pressure, particulates or noise; default: all")
    day, oldest = "a day or a time in UTC such as 2019-04-01", "default: the oldest month of a history, 540 days of a store"
    added.add_argument("--train-from", metavar="TIME", help=f"begin of the training, {day}; {oldest}")
    added.add_argument("--train-until", required=True, metavar="TIME", help=f"end of the training, {day}")
    added.add_argument("--test-from", required=True, metavar="TIME", help="first moment of issue that is tested")
    added.add_argument("--test-until", required=True, metavar="TIME", help="end of the test")
    held = "share of the locations, 0 to 1, that nothing is trained on and that alone are tested"
    added.add_argument("--held-out", type=float, default=0.0, metavar="SHARE", help=held)
    added.add_argument("--device", default="", metavar="NAME", help="where Keras computes, such as gpu:0; default: as Keras finds it")
    added = _command(commands, models)
    added.add_argument("kind", nargs="?", metavar="KIND", help="temperature, humidity, pressure, particulates or noise; none: all")
    where = "folder or URL of the models (SENSORLIB_MODELS, default: models)"
    added.add_argument("--registry", dest="models", metavar="URL", help=where)
    which = added.add_mutually_exclusive_group()
    which.add_argument("--withdraw", metavar="VERSION", help="take this version out of service; nothing is deleted")
    which.add_argument("--restore", metavar="VERSION", help="put a withdrawn version into service again")
    added.add_argument("--reason", metavar="TEXT", help="why it is withdrawn")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sensorlib", description=sys.modules[__name__].__doc__)
    parser.add_argument("--version", action="version", version=f"sensorlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_system, _add_files, _add_services, _add_models):
        add(commands)
    return parser


def _log_format(arguments: Arguments) -> str:
    "Format of the log: as asked, else of the environment; other settings may be wrong without harm."
    env = {name: text for name, text in os.environ.items() if name == "SENSORLIB_LOG_FORMAT"}
    return load_settings(env, log_format=getattr(arguments, "log_format", None)).log_format


def _set_up_logging(arguments: Arguments) -> None:
    from sensorlib.service import set_up_logging

    set_up_logging(_log_format(arguments), arguments.command, arguments.verbose)


def _complain(arguments: Arguments, why: str) -> None:
    "Say why a command failed: as a line of the log where programs read it, else for people."
    from sensorlib.service import redact

    if _log_format(arguments) == "json":
        logging.getLogger("sensorlib").error(why)
    else:
        print(f"sensorlib {arguments.command}: {redact(why)}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    "Run a command; return its exit code."
    arguments = _parser().parse_args(argv)
    try:
        _set_up_logging(arguments)
        return int(arguments.run(arguments))
    except (SensorlibError, OSError) as error:
        _complain(arguments, str(error))
        return 1
    except KeyboardInterrupt:
        _complain(arguments, "stopped")
        return 1


if __name__ == "__main__":
    sys.exit(main())
