"""Clean and export the notebooks; fail when that changed any file of the checkout.

python tools/exported.py
"""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def contents() -> dict[str, str]:
    "Hash of every file that git tracks, or would track."
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name: sha256((ROOT / name).read_bytes()).hexdigest() for name in names if (ROOT / name).is_file()}


def main() -> int:
    "Compare before and after; return the exit code."
    before = contents()
    for tool in ("nbdev_clean", "nbdev_export"):
        subprocess.run([Path(sys.executable).with_name(tool)], cwd=ROOT, check=True)
    after = contents()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        print("The package was not what the notebooks export. It is now; look at the difference and commit it:")
        print("\n".join(f"  {name}" for name in changed))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
