"""Keep small what notebooks store: pictures in few colours, a third of the size, and no log lines of libraries.

python tools/outputs.py NOTEBOOK...
"""

import json
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image


def reduced(picture: str) -> str:
    "A PNG in base64 with a palette of 64 colours; as it was when that is no smaller."
    drawn, stored = Image.open(BytesIO(b64decode(picture))), BytesIO()
    drawn.convert("RGB").quantize(64).save(stored, "png", optimize=True)
    return min(b64encode(stored.getvalue()).decode(), picture, key=len)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if "outputs" in cell:
                cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = reduced(output["data"]["image/png"])
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
