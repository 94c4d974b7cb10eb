"""The API page has every public name, and every name that a page, an example or a notebook uses."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, snippets

PACKAGE = "deltamem_agents"
SHOWN = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
ROOMS = [
    PACKAGE,
    *(
        f"{PACKAGE}.{path.parent.name}"
        for path in sorted((ROOT / PACKAGE).glob("*/__init__.py"))
        if "__all__" in path.read_text("utf-8")
    ),
]


def home_of(module: str, name: str) -> str:
    """Where a name that a module gives is defined."""
    value = getattr(importlib.import_module(module), name)
    return str(getattr(value, "__module__", module))


def shown(module: str, name: str) -> bool:
    """Whether the page has a name, or the whole module that defines it."""
    home = home_of(module, name)
    return home in SHOWN or f"{home}.{name}" in SHOWN


def sources() -> Iterator[tuple[str, str]]:
    """Name and text of all code that a reader is shown."""
    for page in PAGES:
        for one in snippets(page, "python", "py"):
            yield one.name, one.text
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield path.name, path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "code" and not re.search(r"^[%!]", text, re.MULTILINE):
                yield path.name, text


def imported() -> Iterator[tuple[str, str, str]]:
    """(where, module, name) of each import from the package."""
    for where, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                for alias in node.names:
                    yield where, str(node.module), alias.name


def test_the_rooms_with_public_names_are_known() -> None:
    assert {room.removeprefix(PACKAGE).strip(".") for room in ROOMS} == {
        "", "adapter", "chat", "checkpoint", "router", "training",
    }  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_the_page(room: str) -> None:
    names = importlib.import_module(room).__all__
    assert [name for name in names if not shown(room, name)] == []


def test_every_name_that_a_reader_is_shown_is_on_the_page() -> None:
    found = list(imported())
    assert len({(module, name) for _, module, name in found}) > 30
    assert [one for one in found if not shown(one[1], one[2])] == []


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_page_shows_is_there_and_says_what_it_is(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if (ROOT / Path(*name.split("."))).with_suffix(".py").exists():
        assert importlib.import_module(name).__doc__
    else:
        assert getattr(importlib.import_module(module), attribute).__doc__


def test_a_name_is_shown_once() -> None:
    assert len(SHOWN) == len(set(SHOWN))
    assert [n for n in SHOWN if n.rpartition(".")[0] in SHOWN] == []
