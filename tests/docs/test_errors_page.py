"""The page of errors is current, and every error says its rule, what was received and a remedy."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import pickle
from pathlib import Path
from types import ModuleType

import pytest

from deltamem_agents.errors import ConfigError, DeltaMemError

DOCS = Path(__file__).parents[2] / "docs"
# Python's own errors that a protocol asks for, or that never leave the function that they end.
FOREIGN = {
    "__init__.py": {"AttributeError"},
    "adapter/forward.py": {"TypeError"},  # as Python itself says of an argument given twice
    "adapter/overrides.py": {"NotImplementedError"},
    "chat/__init__.py": {"AttributeError"},
    "training/__init__.py": {"AttributeError"},
    "checkpoint/maintenance.py": {"NotImplementedError"},
    "checkpoint/importing.py": {"TypeError"},  # ormsgpack's `default` refuses a value so
    "training/formats.py": {"KeyError"},  # caught there, as is the KeyError of a missing field
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("errors_page", DOCS / "generate_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(script: ModuleType) -> None:
    hint = "out of date: run `python docs/generate_errors.py`"
    assert script.render() == (DOCS / "errors.md").read_text("utf-8"), hint


def test_every_error_has_a_rule_and_a_remedy(script: ModuleType) -> None:
    found = script.raised()
    assert len(found) > 300
    assert [one for one in found if not one.rule.strip("… ")] == []
    assert [one for one in found if not one.remedy.strip("… ")] == []


def test_a_remedy_is_a_sentence_and_a_rule_is_none(script: ModuleType) -> None:
    found = script.raised()
    assert [one for one in found if one.remedy.rstrip()[-1] not in ".?…"] == []
    assert [one for one in found if one.rule.endswith(".")] == []


def test_rule_value_and_remedy_cannot_be_left_out() -> None:
    parameters = inspect.signature(DeltaMemError).parameters
    assert list(parameters) == ["rule", "got", "remedy"]
    assert {p.default for p in parameters.values()} == {inspect.Parameter.empty}
    error = ConfigError("k is at least 1", got=None, remedy="Pass 1 or more.")
    assert str(error) == "k is at least 1; got None. Pass 1 or more."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_no_other_errors_are_raised_on_purpose(script: ModuleType) -> None:
    """A bare ValueError has no rule and no remedy; `AssertionError` marks what cannot happen."""
    kinds = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
    builtin = {name for name, kind in kinds.items() if issubclass(kind, Exception)}
    found = []
    for path, tree in script.modules().items():
        place = str(path.relative_to(script.PACKAGE))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call | ast.Name):
                name = ast.unparse(getattr(node.exc, "func", node.exc))
                allowed = FOREIGN.get(place, set()) | {"AssertionError"}
                if name in builtin and name not in allowed:
                    found.append(f"{place}:{node.lineno}: {name}")
    assert found == []


def test_the_kinds_are_those_of_the_tree(script: ModuleType) -> None:
    import deltamem_agents.chat.errors  # noqa: F401  (LangChain's twins are in the tree too)

    def below(kind: type[DeltaMemError]) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    known = {name for name in below(DeltaMemError) if not name.startswith("_")}
    assert set(script.kinds()) == known
