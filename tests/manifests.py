"""What tests of the cluster share: the objects that a kustomization makes, and how to change one field of one."""

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
CRDS = ROOT.parent / "shared" / "crds"
OVERLAYS = sorted(file.parent.name for file in K8S.glob("overlays/*/kustomization.yaml"))
KUBECTL = Path(sys.executable).with_name("kubectl")

Object = dict[str, Any]  # A Kubernetes object, as its manifest has it


def kustomized(folder: Path) -> list[Object]:
    "All objects that a folder with a kustomization makes."
    ran = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.load_all(ran.stdout, yaml.CSafeLoader))


def name_of(manifest: Object) -> str:
    "Kind and name, as in Deployment/scraper."
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def named(objects: list[Object], name: str) -> Object:
    "The object that is called so."
    (found,) = [one for one in objects if name_of(one) == name]
    return found


class Renamed(str):
    "A field under a name that nobody knows."


def changed(manifest: Object, place: str, value: object) -> Object:
    "The object with another value, or none, in a field named as in spec.template.spec.containers[0].image."
    *path, last = (int(word) if word.isdigit() else word for word in re.findall(r"[^.\[\]]+", place))
    made = copy.deepcopy(manifest)
    parent: Any = made
    for word in path:
        parent = parent[word]
    if isinstance(value, Renamed):
        parent[str(value)] = parent.pop(last)
    elif value is None:
        del parent[last]
    else:
        parent[last] = value
    assert made != manifest, f"{name_of(manifest)}, {place}: nothing was changed"
    return made


def values_of(tree: Any, key: str) -> Iterator[Any]:
    "Everything that stands under a key, however deep."
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if name == key:
            yield value
        yield from values_of(value, key)


def template_of(manifest: Object) -> Object | None:
    "Metadata and specification of the pods of an object that we describe ourselves."
    spec = manifest.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    template = spec.get("podTemplate") or spec.get("template")
    return template if template and manifest["kind"] not in ("KafkaNodePool", "Kafka") else None


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    "Name and template of each kind of pod."
    for one in objects:
        template = template_of(one)
        if template:
            yield name_of(one), template


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    "Name and description of each container."
    for name, template in pods(objects):
        for container in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            yield f"{name}, {container['name']}", container


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    "What a container finds in its environment: from config maps, and its own; empty where only the cluster knows."
    maps = [source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source]
    held = {key: text for name in maps for key, text in named(objects, f"ConfigMap/{name}")["data"].items()}
    return held | {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
