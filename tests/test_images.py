"""What the images are built from: pinned bases, a user without rights, and only files that are here and sent along."""

import os
import re
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatch
from importlib.metadata import metadata
from importlib.metadata import version as installed
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "k8s" / "images" / "build"
DOCKERFILES = [ROOT / "k8s" / "images" / "Dockerfile", ROOT / "flink" / "Dockerfile"]
EACH = pytest.mark.parametrize("path", DOCKERFILES, ids=["python", "flink"])


def instructions(path: Path) -> list[tuple[str, str]]:
    "Instructions of a Dockerfile, each with the rest of its line."
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def said(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def run(tmp_path: Path, *roles: str, builder: str = "docker", **env: str) -> tuple[int, str, list[str]]:
    "Run the script with a builder that only writes down what it is told: exit code, output, commands."
    (tools := tmp_path / "tools").mkdir(exist_ok=True)
    told = tmp_path / "told"
    lines = ["#!/bin/sh", f'echo "$*" >>{told}', 'case "$*" in', '  *"get nodes"*) echo "$RUNTIME" ;;']
    lines += ['  "image ls") echo "$LISTED" ;;', "esac"]
    (tools / builder).write_text("\n".join(lines) + "\n")
    (tools / builder).chmod(0o755)
    full = {**os.environ, "BUILDER": builder, **env, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([BUILD, *roles], env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, told.read_text().splitlines() if told.exists() else []


def builds(commands: list[str]) -> list[str]:
    return [command for command in commands if re.match(r"(image )?build ", command)]


def version() -> str:
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini")
    return ini["DEFAULT"]["version"]


def excluded(path: str) -> bool:
    "Whether .dockerignore keeps a path from the builder: its last pattern that matches decides."
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        candidates = Path(path).parts if anywhere != pattern else [path, *map(str, Path(path).parents)]
        if line and not line.startswith("#") and any(fnmatch(part, anywhere) for part in candidates):
            out = not line.startswith("!")
    return out


def images(value: object) -> Iterator[str]:
    "Our images in a manifest."
    if isinstance(value, dict):
        yield from (image for part in value.values() for image in images(part))
    elif isinstance(value, list):
        yield from (image for part in value for image in images(part))
    elif isinstance(value, str) and re.fullmatch(r"sensorlib/\w+:\S+", value):
        yield value


@EACH
def test_the_base_is_pinned_and_can_be_exchanged(path: Path) -> None:
    assert instructions(path)[0][0] == "ARG"
    base = instructions(path)[0][1]
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.11\.\d+-slim-bookworm", base)
    stages = [stage.split() for stage in said(path, "FROM")]
    known = {"${BASE}", *(name for _, _, name in stages)}
    assert len(stages) >= 2 and {source for source, _, _ in stages} <= known


def test_both_build_upon_the_same_base() -> None:
    assert len({said(path, "ARG")[0] for path in DOCKERFILES}) == 1


@EACH
def test_nothing_runs_as_root(path: Path) -> None:
    stages = re.split(r"(?m)^FROM ", path.read_text())[1:]
    assert re.findall(r"(?m)^USER (.*)", stages[1]) == ["10001:10001"] and "USER" not in stages[0]
    assert all("USER" not in stage for stage in stages[2:])
    assert all(stage.split()[0] == "sensorlib" for stage in stages[2:])


@EACH
def test_packages_come_pinned_from_their_registries(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(curl|wget|git clone|apt-get|apk|ADD)\b|https?://|:latest", text)
    assert "PIP_CONSTRAINT=/needs/constraints.txt" in text and "ARG EXTRA" in text
    installs = re.findall(r"pip --python /opt/sensorlib install (.*?)(?: &&|\n|$)", text)
    assert installs == [".", '".${EXTRA:+[$EXTRA]}"', "--no-deps --force-reinstall ."]


@EACH
def test_what_is_copied_is_here_and_sent_along(path: Path) -> None:
    copied = [word for rest in said(path, "COPY") if "--from" not in rest for word in rest.split()[:-1]]
    assert len(copied) > 8
    assert [name for name in copied if not (ROOT / name).exists() or excluded(name)] == []


def test_nothing_else_is_sent_along() -> None:
    assert excluded(".git") and excluded(".venv/bin/python") and excluded("tests/test_images.py") and excluded(".env")
    assert excluded("sensorlib/__pycache__/core.cpython-311.pyc") and not excluded("sensorlib/core.py")


def test_manifests_name_exactly_the_images_that_are_built(tmp_path: Path) -> None:
    manifests = [*(ROOT / "k8s" / "base").rglob("*.yaml"), *(ROOT / "k8s" / "overlays").rglob("*.yaml")]
    named = {image for path in manifests for part in yaml.safe_load_all(path.read_text()) for image in images(part)}
    code, _, commands = run(tmp_path)
    built = re.findall(r"--tag docker\.io/(\S+)", "\n".join(builds(commands)))
    assert code == 0 and len(built) == 5 and sorted(built) == sorted(named)
    assert {image.split(":")[1] for image in built} == {version()}


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_arguments_are_those_of_the_dockerfile(builder: str, tmp_path: Path) -> None:
    code, _, commands = run(tmp_path, builder=builder, BASE="localhost/other:1")
    assert code == 0 and len(builds(commands)) == 5
    for command in builds(commands):
        (path,) = (path for path in DOCKERFILES if f"--file {path} " in command)
        (target,) = re.findall(r"--target (\S+)", command)
        assert any(stage.endswith(f" AS {target}") for stage in said(path, "FROM"))
        given = dict(re.findall(r"--build-arg=(\w+)=(\S*)", command))
        assert {*given} == {rest.split("=")[0] for rest in said(path, "ARG")} and given["BASE"] == "localhost/other:1"
        assert not given["EXTRA"] or {*given["EXTRA"].split(",")} <= {*metadata("sensorlib").get_all("Provides-Extra")}


def test_containerd_in_minikube_is_told_in_its_own_way(tmp_path: Path) -> None:
    image = f"docker.io/sensorlib/train:{version()}"
    asked = {}
    for runtime in ("docker://29.0.1", "containerd://2.1.5"):
        (folder := tmp_path / runtime[:6]).mkdir()
        code, _, commands = run(folder, "train", builder="minikube", RUNTIME=runtime, LISTED=f"{image}-new")
        assert code == 0 and f"image tag {image}-new {image}" in commands
        asked[runtime[:6]] = builds(commands)[0]
    assert "--build-opt=target=sensorlib --build-opt=build-arg=ROLE=train" in asked["docker"]
    assert "--build-opt=opt=target=sensorlib --build-opt=opt=build-arg:ROLE=train" in asked["contai"]
    assert all("--file k8s/images/Dockerfile " in command for command in asked.values())  # relative to the context


def test_a_build_that_fails_in_minikube_ends_with_1(tmp_path: Path) -> None:
    code, output, commands = run(tmp_path, "flink", builder="minikube", RUNTIME="docker://29.0.1")
    assert code == 1 and "minikube has built no docker.io/sensorlib/flink" in output
    assert not any(command.startswith("image tag") for command in commands)


@pytest.mark.parametrize(
    ("roles", "env", "told"),
    [
        (["train", "oven"], {}, "No role oven, expected services predict train notebooks flink."),
        ([], {"BUILDER": "kaniko"}, "BUILDER is kaniko, expected docker, podman, buildah or minikube."),
        ([], {"PATH": "/bin:/usr/bin", "BUILDER": "minikube"}, "No minikube on PATH. Install it, or choose another"),
    ],
)
def test_what_is_wrong_is_told(roles: list[str], env: dict[str, str], told: str) -> None:
    done = subprocess.run([BUILD, *roles], env={**os.environ, **env}, capture_output=True, text=True)
    assert (done.returncode, told in done.stderr) == (1, True)


def test_help_names_every_role() -> None:
    done = subprocess.run([BUILD, "--help"], capture_output=True, text=True, check=True)
    assert re.findall(r"(?m)^  (\w+) {2,}[A-Za-z]", done.stdout) == [
        "services",
        "predict",
        "train",
        "notebooks",
        "flink",
    ]


def test_jars_of_flink_have_its_version() -> None:
    jars = dict(line.split() for line in (ROOT / "flink" / "jars.txt").read_text().splitlines() if line[0] != "#")
    minor = installed("apache-flink").rpartition(".")[0]
    assert jars["s3"].split(":")[-1].startswith(f"{minor}.") and jars["connector"].endswith(f"-{minor}")
