"""Put what the demo prints and draws, and the recall table, into README.md.

    python docs/refresh_readme.py                 # run the demo anew
    python docs/refresh_readme.py --recall FILE   # and take what `deltamem eval recall` wrote

The README is left as it was where the demo's promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "memory.png"
KINDS = {
    "memory": "with memory",
    "reset": "memory reset",
    "swapped": "another conversation's memory",
    "full": "everything visible, no memory",
    "unknown": "never told: declined",
}


def demo() -> str:
    """The demo's output, with a folder that reads well, and its picture."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "demo"
        done = subprocess.run(
            [sys.executable, "-m", "deltamem_agents.cli", "demo", "--folder", str(place)],
            cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, text=True, check=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        shutil.copy(place / "memory.png", PICTURE)
    lines = done.stdout.replace(str(place), "deltamem-demo").splitlines()
    text = "\n".join(line.rstrip() for line in lines).strip()
    picture = f"![The memory, layer by layer](docs/{PICTURE.name})"
    return f"```text\n{text}\n```\n\n{picture}"


def recall(result: dict[str, Any]) -> str:
    """The table of `deltamem eval recall`."""
    far = result["distance"]
    lines = [
        f"Exact answers (the whole sentence, to the letter) about facts {far['least']} to "
        f"{far['most']} tokens outside of a window of {result['context_window']}, in held-out "
        f"combinations and phrasings, seed {result['seed']}; 95 % intervals by Wilson:",
        "",
        "| told | asked | exact | answers |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        told = f"{row['facts']} {'revised ' if row['revised'] else ''}facts, {row['values']} values"
        told = told.replace("1 facts", "1 fact")
        low, high = row["interval"]
        share = f"{row['exact']:.3f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {told} | {KINDS[row['measured']]} | {share} | {row['answers']} |")
    return "\n".join(lines)


def put(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    changed, count = pattern.subn(lambda _: f"{start}\n{content}\n{end}", text)
    if count != 1:
        raise ValueError(f"README.md has {count} places for {name!r}")
    return changed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recall", type=Path)
    arguments = parser.parse_args()
    text = put(README.read_text(encoding="utf-8"), "demo", demo())
    if arguments.recall is not None:
        text = put(text, "recall", recall(json.loads(arguments.recall.read_text(encoding="utf-8"))))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
