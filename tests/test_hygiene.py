"""Rules of the checkout: how notebooks are built, what is tracked, what an installation brings."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sensorlib import cli

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
LIBRARY = [path for path in NOTEBOOKS if re.match(r"[01]\d[a-z]?_", path.name)]
JOBS = [path for path in NOTEBOOKS if re.match(r"2\d_", path.name)]
EXPLORATIONS = [path for path in NOTEBOOKS if re.match(r"[34]\d_", path.name)]
NUMBERS = dict(path.stem.split("_", 1)[::-1] for path in LIBRARY)  # module -> number, "06a" comes after "06"
BY_HAND = {"__init__", "_modidx", "cli"}
EXPORT = re.compile(r"#\|\s*(export|default_exp)")

# Each pattern spells one letter as a class, so that it does not find itself.
UNWANTED = {
    "left open": r"\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b",
    "not built": r"NotImplemented[E]rror",
    "a machine's path": r"(?<![\w.])/([w]ork|[r]oot|[U]sers|tmp/[b]ash)\b",
    "a secret": r"(?i)([p]assword|[t]oken|[s]ecret)\s*[=:]\s*['\"][A-Za-z0-9+/_=-]{12,}['\"]",
    "a blanket ignore": r"type: [i]gnore(?!\[)|[n]oqa(?!:)",
}


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict]:
    "Cells of a notebook, each source as one text."
    read = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in read]


def sources(path: Path) -> list[str]:
    "Code cells of a notebook, without magics."
    code = [cell["source"] for cell in cells(path) if cell["cell_type"] == "code"]
    return [re.sub(r"(?m)^\s*[%!].*$", "", text) for text in code]


def exported(path: Path) -> list[str]:
    return [text for text in sources(path) if re.match(r"#\|\s*export", text)]


def nodes(path: Path) -> Iterator[ast.AST]:
    for text in sources(path):
        yield from ast.walk(ast.parse(text))


def imported(path: Path) -> set[str]:
    "Modules of sensorlib that a notebook imports."
    names = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "sensorlib" and not part[1].startswith("__")}


def is_import(node: ast.stmt) -> bool:
    "Whether a statement is an import, or imports for type checkers alone."
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return all(map(is_import, node.body)) and not node.orelse
    return isinstance(node, ast.Import | ast.ImportFrom)


def tracked() -> list[Path]:
    "Files that git tracks, or would track."
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def requirements() -> list[Requirement]:
    return [Requirement(text) for text in importlib.metadata.requires("sensorlib") or []]


def test_what_lies_at_the_top_is_text() -> None:
    found = [path.name for path in tracked() if path.parent == ROOT and b"\0" in path.read_bytes()]
    assert found == [], "packages and pictures do not belong here"


@each(LIBRARY)
def test_library_imports_only_lower_numbers(path: Path) -> None:
    number = path.stem.split("_", 1)[0]
    assert {name for name in imported(path) if NUMBERS.get(name, "99") >= number} == set()


@each(LIBRARY)
def test_library_opens_with_its_name_and_ends_with_the_export(path: Path) -> None:
    name, (title, module, *_, last) = path.stem.split("_", 1)[1], cells(path)
    assert title["cell_type"] == "markdown"
    assert re.fullmatch(rf"# {name}\n\n> [^\n]+\.", title["source"])
    assert module["source"] == f"#| default_exp {name}"
    assert last["source"] == "#| hide\nimport nbdev\n\nnbdev.nbdev_export()"


@each(LIBRARY)
def test_exported_cells_are_short(path: Path) -> None:
    assert max(len(text.splitlines()) for text in exported(path)) <= 60


@each(LIBRARY)
def test_exported_imports_stand_alone(path: Path) -> None:
    for text in exported(path):
        kinds = {is_import(node) for node in ast.parse(text).body}
        assert len(kinds) == 1, f"imports and other code in one cell:\n{text}"


@each(NOTEBOOKS)
def test_notebook_is_small_and_imports_by_name(path: Path) -> None:
    assert path.stat().st_size <= 300_000
    starred = [n for n in nodes(path) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert starred == []


@each(NOTEBOOKS)
def test_expected_failures_are_tried(path: Path) -> None:
    "`expect_fail` is a context manager: called like a function it tries nothing, and passes."
    calls = [n.value for n in nodes(path) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) == "expect_fail"] == []


@each(JOBS)
def test_job_is_parameters_and_calls(path: Path) -> None:
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert [cell["id"] for cell in cells(path) if cell.get("outputs")] == []
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert [ast.unparse(n) for n in nodes(path) if isinstance(n, definitions)] == []
    calls = {ast.unparse(n.func) for n in nodes(path) if isinstance(n, ast.Call)}
    assert not calls & {"sys.exit", "exit", "quit", "os._exit"}


@each(JOBS + EXPLORATIONS)
def test_jobs_and_explorations_export_nothing(path: Path) -> None:
    assert [text for text in sources(path) if EXPORT.search(text)] == []


def test_every_module_has_its_notebook() -> None:
    modules = {path.stem for path in (ROOT / "sensorlib").glob("*.py")}
    assert modules - BY_HAND == set(NUMBERS)


def test_readme_is_the_index_notebook() -> None:
    said = subprocess.run([sys.executable, "tools/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("what", UNWANTED)
def test_tracked_text_is_free_of(what: str) -> None:
    found = []
    for path in tracked():
        if path.stat().st_size < 1_000_000 and b"\0" not in (raw := path.read_bytes()):
            hits = re.finditer(UNWANTED[what], raw.decode(errors="replace"))
            found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in hits]
    assert found == []


def test_contributing_says_first_where_to_edit() -> None:
    first = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()[0]
    assert re.search(r"edited in the notebooks under `nbs/`, never in `sensorlib/`", first)


def test_base_installation_is_small() -> None:
    base = {canonicalize_name(r.name) for r in requirements() if not r.marker or r.marker.evaluate({"extra": ""})}
    assert "pandas" in base
    assert [name for name in base if re.match(r"apache-|tensorflow|keras|plotly|jupyter|papermill|nbdev", name)] == []


def test_constraints_pin_every_requirement() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in lines}
    loose = [str(r) for r in requirements() if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert loose == []


def test_command_line_starts_fast() -> None:
    code = "import sys, time, sensorlib.cli; print(time.process_time(), *sys.modules)"
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True, cwd="/").split() for _ in range(3)]
    assert min(float(run[0]) for run in runs) < 1.0
    assert not {"pandas", "numpy", "duckdb", "pyflink", "tensorflow", "plotly"} & set(runs[0])


@pytest.mark.parametrize("name", next(a.choices for a in cli._parser()._actions if a.dest == "command"))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert re.search(rf"usage: sensorlib {name} .*\n\n[A-Z][^\n]+\.\n", capsys.readouterr().out, re.DOTALL)


def test_wheel_carries_sql_jars_jobs_and_assets(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for path in tracked():
        (target := checkout / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, checkout]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    carried = [*(ROOT / "flink").glob("sql/*.sql"), ROOT / "flink" / "jars.txt", *JOBS]
    expected = {f"sensorlib/{path.relative_to(ROOT)}" for path in carried}
    expected |= {f"sensorlib/assets/{path.name}" for path in (ROOT / "sensorlib" / "assets").glob("*.gz")}
    assert len(expected) > 6
    assert expected | {"sensorlib/py.typed"} <= names
    assert {name for name in names if name.endswith(".ipynb")} == {f"sensorlib/nbs/{path.name}" for path in JOBS}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sensorlib"}
