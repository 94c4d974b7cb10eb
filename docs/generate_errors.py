"""Write docs/errors.md: every error, and every rule that raises it with its remedy, from the code.

Run: python docs/generate_errors.py
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "deltamem_agents"
PAGE = Path(__file__).parent / "errors.md"
FILLED_IN = "…"
HEAD = """# Errors

Made from the code by `python docs/generate_errors.py`; do not edit.

Each error says the rule that was broken, the value that was received, and what to do. All are
`DeltaMemError`s (`from deltamem_agents import DeltaMemError`); where one of Python's or LangChain's
own errors has the same meaning, ours is one of those too. `…` stands for what is filled in.
"""


class Raised(NamedTuple):
    """One place in the code that makes an error."""

    place: str
    kind: str
    rule: str
    remedy: str


@cache
def modules() -> dict[Path, ast.Module]:
    """The package's files, parsed; the tree's own file first."""
    paths = sorted(PACKAGE.rglob("*.py"), key=lambda path: (path != PACKAGE / "errors.py", path))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def kinds() -> dict[str, ast.ClassDef]:
    """The error classes in the order of their definition: the root, and what comes from it."""
    found: dict[str, ast.ClassDef] = {}
    for tree in modules().values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                if node.name == "DeltaMemError" or bases & set(found):
                    found[node.name] = node
    return found


@cache
def constants() -> dict[str, str]:
    """The texts that modules give a name, such as CONFIG."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in modules().values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    found[ast.unparse(target)].add(str(node.value.value))
    return {name: texts.pop() for name, texts in found.items() if len(texts) == 1}


def text_of(node: ast.expr | None) -> str:
    """A string as it stands in the code, with … for what is filled in."""
    text = "" if node is None else FILLED_IN
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(map(text_of, node.values))
    elif isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        text = text_of(node.value)
    elif isinstance(node, ast.BinOp):
        text = text_of(node.left) + text_of(node.right)
    elif isinstance(node, ast.Name):
        text = constants().get(node.id, FILLED_IN)
    return text


def raised() -> list[Raised]:
    """Every error that the package makes; without those that only change another one's class."""
    found = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in kinds() and ast.unparse(node.args[0]) != "error.rule":
                remedy = next((k.value for k in node.keywords if k.arg == "remedy"), None)
                place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                found.append(Raised(place, name, text_of(node.args[0]), text_of(remedy)))
    return found


def render() -> str:
    """The page."""
    rules, parts = defaultdict(set), [HEAD]
    for one in raised():
        rules[one.kind].add((one.rule, one.remedy))
    for name, kind in kinds().items():
        bases = [ast.unparse(base) for base in kind.bases]
        doc = (ast.get_docstring(kind) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"## {name}\n\n{doc}\n")
        if others := [base for base in bases if base not in ("Exception", "DeltaMemError")]:
            parts.append(f"Also a {', '.join(f'`{base}`' for base in others)}.\n")
        if rules[name]:
            rows = [f"| {cell(rule)} | {cell(remedy)} |" for rule, remedy in sorted(rules[name])]
            parts.append("| rule | what to do |\n|---|---|\n" + "\n".join(rows) + "\n")
        elif twins := [base for base in bases if rules[base]]:
            parts.append(f"Rules and what to do: see `{twins[0]}`.\n")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Text within a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    for letter in "<*_[":
        text = text.replace(letter, "\\" + letter)
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE}: {len(kinds())} errors, {len(raised())} places")
