"""The commands of the CronJobs, run as they stand in the manifests, against a real InfluxDB with a city in it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from city import City
from manifests import K8S, Object, environment, kustomized, named

SENSORLIB = Path(sys.executable).with_name("sensorlib")


@cache
def objects() -> tuple[Object, ...]:
    return tuple(kustomized(K8S / "overlays" / "minikube"))


@dataclass(frozen=True)
class Pod:
    "A folder that stands for the volumes of a pod."

    folder: Path
    city: City

    def volume(self, volume: Object) -> Path:
        "Fill a volume as Kubernetes does."
        place = self.folder / str(volume["name"])
        place.mkdir(exist_ok=True)
        if "configMap" in volume:
            for key, text in named(list(objects()), f"ConfigMap/{volume['configMap']['name']}")["data"].items():
                (place / key).write_text(text)
        for item in volume.get("secret", {}).get("items", []):
            (place / item["path"]).write_text((self.city.tokens / item["key"]).read_text())
        return place

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        "Run the command of a CronJob, with its environment and its volumes."
        job = named(list(objects()), f"CronJob/{name}")["spec"]["jobTemplate"]["spec"]
        template, (container,) = job["template"], job["template"]["spec"]["containers"]
        volumes = {volume["name"]: self.volume(volume) for volume in template["spec"]["volumes"]}
        places = {mount["mountPath"]: str(volumes[mount["name"]]) for mount in container["volumeMounts"]}

        def inside(text: str) -> str:
            "A path of the pod as one of this machine."
            return re.sub(r"^/\w+", lambda found: places.get(found[0], found[0]), text)

        env = environment(list(objects()), container) | {
            "KIND": template["metadata"]["labels"].get("sensorlib/kind", "")
        }
        env = {key: inside(text) for key, text in env.items()} | {"SENSORLIB_STORE": self.city.url}
        words = [inside(re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], word)) for word in container["args"]]
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        limit = job["activeDeadlineSeconds"]
        return subprocess.run([SENSORLIB, *words], env=kept | env, capture_output=True, text=True, timeout=limit)


@pytest.fixture(scope="module")
def pod(city: City, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    return Pod(tmp_path_factory.mktemp("pod"), city)


def notebook(pod: Pod, kind: str) -> Object:
    "The newest notebook that papermill has left of a kind."
    files = sorted((pod.folder / "runs" / kind).rglob("*.ipynb"), key=lambda file: file.stat().st_mtime)
    return dict(json.loads(files[-1].read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", ["temperature", "noise"])
def test_predict_leaves_forecasts_and_its_notebook(pod: Pod, kind: str) -> None:
    ran = pod.run(f"predict-{kind}")
    assert ran.returncode == 0, ran.stderr
    found = pod.city.store.forecasts(kind, pod.city.now, pod.city.now.replace(year=pod.city.now.year + 1))
    assert len(found) and set(found["horizon_min"]) >= {10, 1440}
    assert notebook(pod, kind)["metadata"]["papermill"]["exception"] is None


def test_verify_compares_what_came(pod: Pod) -> None:
    ran = pod.run("verify-temperature")
    assert ran.returncode == 0, ran.stderr
    assert "kinds" in json.dumps(notebook(pod, "temperature")["metadata"]["papermill"]["parameters"])


def test_rollup_averages(pod: Pod) -> None:
    ran = pod.run("rollup")
    assert ran.returncode == 0, ran.stderr
    assert len(pod.city.store.averages("noise", 3600, pod.city.now.replace(year=pod.city.now.year - 1), pod.city.now))


def test_train_says_that_two_days_are_too_few(pod: Pod) -> None:
    ran = pod.run("train-noise")
    assert ran.returncode == 1
    assert "gate_days is 14 of 2 days" in ran.stderr and "Traceback" not in ran.stderr.splitlines()[-1]
    assert "nothing could be trained" in json.dumps(notebook(pod, "noise"))
