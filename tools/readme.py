"""Write README.md from nbs/index.ipynb; with --check, say whether it is already so.

python tools/readme.py [--check]
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def printed(cell: dict) -> str:
    "What a code cell printed on stdout, and the text of its value."
    texts = [
        o.get("data", {}).get("text/plain", o.get("text", [])) for o in cell["outputs"] if o.get("name") != "stderr"
    ]
    return "".join("".join(text) for text in texts).rstrip()


def render(notebook: dict) -> str:
    "Markdown of a notebook: its prose, the code that is not hidden, and what that prints."
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](images/", "](nbs/images/").replace("](../", "]("))
            continue
        if not re.match(r"#\|\s*(hide|echo: false)", source):
            parts.append(f"```python\n{source}\n```")
        if not re.match(r"#\|\s*hide", source) and printed(cell):
            parts.append(f"```\n{printed(cell)}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    "Write or check; return the exit code."
    readme = ROOT / "README.md"
    text = render(json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")))
    if sys.argv[1:] != ["--check"]:
        readme.write_text(text, encoding="utf-8")
    elif not readme.is_file() or readme.read_text(encoding="utf-8") != text:
        print("README.md differs from nbs/index.ipynb: edit the notebook, then run python tools/readme.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
