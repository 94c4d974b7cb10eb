"""Put what the demo prints and draws into README.md, and the recall table wherever it stands.

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
CARD = ROOT / "deltamem_agents" / "builtin" / "MODEL_CARD.md"
PAGE = ROOT / "docs" / "built-in-model.md"
ASKED = {
    "memory": "with memory",
    "reset": "memory reset",
    "swapped": "another conversation's memory",
    "full": "everything visible, no memory",
}


def demo() -> str:
    """The demo's output, with a folder as it makes one by itself, and its picture."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "demo"
        done = subprocess.run(
            [sys.executable, "-m", "deltamem_agents.cli", "demo", "--folder", str(place)],
            cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, text=True, check=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        shutil.copy(place / "memory.png", PICTURE)
    lines = done.stdout.replace(str(place), "/tmp/deltamem-demo-x7q2m4kd").splitlines()
    text = "\n".join(line.rstrip() for line in lines).strip()
    picture = f"![The memory, layer by layer](docs/{PICTURE.name})"
    return f"```text\n{text}\n```\n\n{picture}"


def recall(result: dict[str, Any]) -> str:
    """The table of `deltamem eval recall`: the memory and the controls that a reader looks for."""
    far = result["distance"]
    lines = [
        f"| held-out conversations, facts {far['least']} to {far['most']} tokens outside of a "
        f"window of {result['context_window']} | asked | exact [95 %] | answers |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row["subject"] in ASKED:
            low, high = (f"{bound:.2f}" for bound in row["interval"])
            share = f"{row['exact']:.3f} [{low}, {high}]"
            asked = ASKED[row["subject"]]
            lines.append(f"| {row['group']} | {asked} | {share} | {row['answers']} |")
            if row.get("old") is not None:
                low, high = (f"{bound:.2f}" for bound in row["intervals"]["old"])
                share = f"{row['old']:.3f} [{low}, {high}]"
                lines.append(
                    f"| {row['group']}: the old one said | {asked} | {share} | {row['answers']} |"
                )
    count, seed = result["count"], result["seed"]
    lines += [
        "",
        f"{count} conversations a row, seed {seed} (`deltamem eval recall`); whole sentence exact, "
        "95 % intervals by Wilson.",
    ]
    return "\n".join(lines)


def put(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    changed, count = pattern.subn(lambda _: f"{start}\n{content}\n{end}", text)
    if count != 1:
        raise ValueError(f"one place for {name!r} is marked, found {count}")
    return changed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recall", type=Path)
    arguments = parser.parse_args()
    README.write_text(put(README.read_text(encoding="utf-8"), "demo", demo()), encoding="utf-8")
    if arguments.recall is not None:
        table = recall(json.loads(arguments.recall.read_text(encoding="utf-8")))
        for file in (README, CARD, PAGE):
            file.write_text(put(file.read_text(encoding="utf-8"), "recall", table), "utf-8")


if __name__ == "__main__":
    main()
