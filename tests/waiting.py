"""What tests of parts in processes share: waiting, and what was built for them outside the checkout."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sensorlib.local import Part

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def built(name: str, *sums: str) -> Path | None:
    "What `make NAME` has put into the cache, if it has, from files with checksums under tools."
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    known = b"".join((TOOLS / file).read_bytes() for file in sums)
    found = cache / "sensorlib" / f"{name}-{hashlib.sha256(known).hexdigest()[:16]}"
    return found if found.exists() else None


def wait_until(
    what: str,
    is_so: Callable[[], object],
    patience_s: float = 60.0,
    every_s: float = 0.2,
    parts: Sequence[Part] = (),  # That must not end meanwhile
) -> None:
    "Return as soon as something is so."
    deadline = time.monotonic() + patience_s
    while not is_so():
        for part in parts:
            part.check()
        assert time.monotonic() < deadline, f"after {patience_s:.0f} s still not so: {what}"
        time.sleep(every_s)
