"""How long the training of a city takes, with its members one after the other and side by side.

`python -m pytest tests/benchmarks -k train -s` trains the model of one kind at full size on 50 simulated sensors, each
time in a fresh process. `KIND=particulates DAYS=540` asks about another kind and more days.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SENSORS = 50
PROGRAM = f"""
import resource, sys, time
sys.path.insert(0, sys.argv[4])
from dataclasses import replace
from cities import panel_of, said
from sensorlib.network import Recipe, train
kind, days, lanes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
panel = panel_of(kind, said(days, {SENSORS}), days, {SENSORS})
began = time.monotonic()
train(panel, 0, panel.steps, replace(Recipe(), lanes=lanes))
taken = time.monotonic() - began
mine, lane = (resource.getrusage(who).ru_maxrss // 1000 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(taken, mine + lanes * lane if lanes > 1 else mine)
"""


@pytest.mark.timeout(3600)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core trains one member after the other")
def test_training_side_by_side_takes_less_time() -> None:
    kind, days, taken = os.environ.get("KIND", "temperature"), os.environ.get("DAYS", "180"), {}
    for lanes in (1, 2):
        words = [kind, days, str(lanes), str(Path(__file__).parents[1])]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True, check=True)
        seconds, peak_mb = map(float, done.stdout.split())
        taken[lanes] = seconds
        print(
            f"{kind}, {SENSORS} sensors, {days} days, {lanes} at a time: {seconds:.0f} s, {peak_mb:.0f} MB", flush=True
        )
    print(f"side by side takes {taken[2] / taken[1]:.2f} times as long")
    assert taken[2] < taken[1]
