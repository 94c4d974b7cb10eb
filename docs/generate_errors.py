"""Write docs/errors.md: every error, and every rule that raises it with its remedy, from the code.

Run: python docs/generate_errors.py
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from pathlib import Path

from deltamem_agents import errors

PACKAGE = Path(errors.__file__).parent
PAGE = Path(__file__).parent / "errors.md"
HEAD = """# Errors

Made from the code by `python docs/generate_errors.py`; do not edit.

Each error says the rule that was broken, the value that was received, and what to do. All are
`DeltaMemError`s (`from deltamem_agents import DeltaMemError`); where one of Python's own errors has
the same meaning, ours is one of those too. `…` stands for what is filled in.
"""


def kinds() -> dict[str, type[errors.DeltaMemError]]:
    """The error classes in the order of their definition."""
    found = vars(errors).values()
    return {k.__name__: k for k in found
            if isinstance(k, type) and issubclass(k, errors.DeltaMemError)}  # fmt: skip


def text_of(node: ast.expr | None) -> str:
    """A string as it stands in the code, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "" if node is None else "…"


def raised() -> dict[str, set[tuple[str, str]]]:
    """(rule, remedy) of each error class, over the package."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            rule = text_of(node.args[0])
            if name in kinds() and rule.strip("… "):
                remedy = next((k.value for k in node.keywords if k.arg == "remedy"), None)
                found[name].add((rule, text_of(remedy)))
    return found


def render() -> str:
    """The page."""
    rules, parts = raised(), [HEAD]
    for name, kind in kinds().items():
        plain = (Exception, errors.DeltaMemError)
        bases = [base.__name__ for base in kind.__bases__ if base not in plain]
        doc = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"## {name}\n\n{doc}\n")
        if bases:
            parts.append(f"Also a {', '.join(f'`{base}`' for base in bases)}.\n")
        if rules[name]:
            rows = [f"| {cell(rule)} | {cell(remedy)} |" for rule, remedy in sorted(rules[name])]
            parts.append("| rule | what to do |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Text within a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    for letter in "<*_[":
        text = text.replace(letter, "\\" + letter)
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE}: {len(kinds())} errors")
