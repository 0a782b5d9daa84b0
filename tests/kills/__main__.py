"""Run the matrix, from `make kills`, and print what became of each load."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from influx import influxd_program
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .load import city_feed
from .machine import Machine, machine
from .matrix import Outcome, Row, rows_of, run_row
from .stores import keep_in, no_small_disk


@contextmanager
def system(store: str, folder: Path) -> Iterator[Machine]:
    "Everything, with one store."
    with (
        city_feed() as feed,
        keep_in(store, folder / "store", folder / "logs") as kept,
        machine(folder, feed, kept) as made,
    ):
        yield made


def _table(outcomes: list[Outcome]) -> Table:
    lines = [outcome.line() for outcome in outcomes]
    table = Table(box=None, padding=(0, 1))
    for name in lines[0]:
        table.add_column(name, justify="left" if name in ("row", "store") else "right")
    for outcome, line in zip(outcomes, lines, strict=True):
        table.add_row(*map(str, line.values()), style="" if outcome.verdict.is_clean() else "bold red")
    return table


def _runnable(rows: list[Row], folder: Path) -> list[Row]:
    "Rows that can be run here; the others are named."
    why = no_small_disk(folder) if any(row.on_small_disk for row in rows) else ""
    for row in rows:
        if why and row.on_small_disk:
            print(f"left out: {row.name}: {why}", file=sys.stderr)
    return [row for row in rows if not (why and row.on_small_disk)]


def run_store(store: str, arguments: argparse.Namespace, folder: Path, bar: tqdm) -> Iterator[Outcome | None]:
    "Run all rows of a store; None for a row that could not be carried out, which is explained on stderr."
    folder.mkdir(parents=True)
    rows = _runnable(rows_of(store, arguments.rows), folder)
    plan = [(repetition, row) for repetition in range(1, arguments.repeats + 1) for row in rows]
    with system(store, folder) as made:
        for number, (repetition, row) in enumerate(plan):
            bar.set_description(f"{store}: {row.name}")
            try:
                scratch = folder / "rows" / str(number)
                outcome = run_row(made, row, store, number, repetition, arguments.seconds, scratch)
                print(json.dumps(outcome.line()), flush=True)
                yield outcome
            except AssertionError as error:
                print(f"{store}, {row.name}, repetition {repetition}: {error}", file=sys.stderr, flush=True)
                yield None
            bar.update()


def main() -> int:
    "Run the matrix and print it; 1 when a reading was lost, doubled or changed, or a row could not be carried out."
    parser = argparse.ArgumentParser(prog="python -m kills", description=__doc__)
    parser.add_argument("--stores", default="sqlite,influx", help="comma separated")
    parser.add_argument("--rows", default="", help="parts of the names of rows, comma separated; empty: all")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of each row")
    parser.add_argument("--seconds", type=int, default=60, help="length of each load")
    parser.add_argument("--dir", type=Path, help="keep data and logs in this folder, which is not there yet")
    arguments = parser.parse_args()
    stores = [store for store in arguments.stores.split(",") if store != "influx" or influxd_program()]
    if stores != arguments.stores.split(","):
        print("left out: influx: no influxd, run `make influxd`", file=sys.stderr)
    outcomes: list[Outcome | None] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        total = arguments.repeats * sum(len(rows_of(store, arguments.rows)) for store in stores)
        with tqdm(total=total, unit="row", disable=not sys.stderr.isatty()) as bar:
            for store in stores:
                outcomes += run_store(store, arguments, (arguments.dir or Path(temporary)).resolve() / store, bar)
    found = [outcome for outcome in outcomes if outcome]
    if found:
        Console(width=200).print(_table(found))
    return 0 if len(found) == len(outcomes) and all(outcome.verdict.is_clean() for outcome in found) else 1


if __name__ == "__main__":
    sys.exit(main())
