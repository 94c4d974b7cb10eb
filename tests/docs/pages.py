"""The pages that are tested, and the snippets on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CARD = ROOT / "deltamem_agents" / "builtin" / "MODEL_CARD.md"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    """What stands between two fences."""

    page: Path
    number: int
    kind: str
    text: str

    @property
    def name(self) -> str:
        """How a test's id and a traceback name it."""
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def snippets(page: Path, *kinds: str) -> list[Snippet]:
    """The snippets of a page, those of some kinds or all."""
    found = enumerate(FENCE.findall(page.read_text("utf-8")), 1)
    every = [Snippet(page, number, kind, text) for number, (kind, text) in found]
    return [one for one in every if not kinds or one.kind in kinds]


def commands(text: str) -> list[str]:
    """The lines of a shell snippet, continued ones joined, without comments."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for line in (re.sub(r"\s*#.*", "", one).strip() for one in lines) if line]
