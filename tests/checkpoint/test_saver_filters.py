"""Metadata filters: one meaning on every database, nothing of them becomes SQL."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.errors import SerializationError
from tests.checkpoint.helpers import config, put

STORED: list[dict[str, Any]] = [
    {"name": "one", "n": 1},
    {"name": "true", "n": True},
    {"name": "float", "n": 1.0},
    {"name": "text", "n": "1"},
    {"name": "null", "n": None},
    {"name": "absent"},
    {"name": "zero", "n": 0},
    {"name": "false", "n": False},
    {"name": "list", "n": [1, {"a": 2}]},
    {"name": "object", "n": {"a": 1, "b": [True]}},
    {"name": "longer", "n": {"a": 1, "b": [True], "c": 3}},
    {"name": "dots", "a.b": 1},
    {"name": "path", "a": {"b": 1}},
    {"name": "spaces", "key with spaces": "v"},
    {"name": "quote", "it's \"\\ $.x %": "v%_"},
    {"name": "nan", "n": math.nan},
    {"name": "unicode", "ключ": "значение 🙂"},
]
CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({"n": 1}, {"one", "float"}),
    ({"n": True}, {"true"}),
    ({"n": 1.0}, {"one", "float"}),
    ({"n": "1"}, {"text"}),
    ({"n": None}, {"null"}),
    ({"missing": None}, set()),
    ({"n": 0}, {"zero"}),
    ({"n": False}, {"false"}),
    ({"n": [1, {"a": 2}]}, {"list"}),
    ({"n": [1]}, set()),
    ({"n": {"b": [True], "a": 1}}, {"object"}),
    ({"n": {"a": 1}}, set()),
    ({"a.b": 1}, {"dots"}),
    ({"a": {"b": 1}}, {"path"}),
    ({"key with spaces": "v"}, {"spaces"}),
    ({"it's \"\\ $.x %": "v%_"}, {"quote"}),
    ({"it's \"\\ $.x %": "v%%"}, set()),
    ({"n": math.nan}, {"nan"}),
    ({"ключ": "значение 🙂"}, {"unicode"}),
    ({"name": "one", "n": 1}, {"one"}),
    ({"name": "one", "n": 2}, set()),
    ({"x') OR 1=1 --": "1"}, set()),
    ({"n": "1' OR '1'='1"}, set()),
    ({}, {str(entry["name"]) for entry in STORED}),
]


def test_every_case_means_the_same(url: str) -> None:
    """CVE-2025-67644, CVE-2025-8709 and their relatives are among the cases."""
    with SQLAlchemySaver(url) as saver:
        for entry in STORED:
            put(saver, config(), {"x": 1}, **entry)
        for wanted, names in CASES:
            found = {entry.metadata["name"] for entry in saver.list(None, filter=wanted)}  # type: ignore[typeddict-item]
            assert found == names, wanted


async def test_the_async_listing_means_the_same(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        for entry in STORED[:6]:
            put(saver, config(), {"x": 1}, **entry)
        found = [entry async for entry in saver.alist(config(), filter={"n": 1})]
        assert [entry.metadata["name"] for entry in found] == ["float", "one"]  # type: ignore[typeddict-item]
        assert len([entry async for entry in saver.alist(None, filter={"n": 1}, limit=1)]) == 1


def test_a_limit_counts_what_is_selected(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = config()
        for step in range(130):
            place = put(saver, place, {"x": step}, step=step, odd=step % 2 == 1)
        found = [
            entry.metadata["step"] for entry in saver.list(config(), filter={"odd": True}, limit=60)
        ]
        assert found == list(range(129, 9, -2))


def test_a_filter_that_is_not_json_is_refused(tmp_path: Any) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver, pytest.raises(SerializationError):
        list(saver.list(None, filter={"x": object()}))


def test_metadata_that_is_not_json_is_refused_and_nothing_stored(tmp_path: Any) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        with pytest.raises(SerializationError, match="is JSON"):
            put(saver, config(), {"x": 1}, bad=object())
        assert list(saver.list(None)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


def _equal(one: Any, two: Any) -> bool:
    """JSON equality, written the slow way."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, int | float) and isinstance(two, int | float):
        return one == two
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_equal, one, two))
    return bool(one == two)


@settings(max_examples=400, deadline=None)
@given(
    stored=st.dictionaries(st.text(max_size=2), JSON, max_size=3),
    wanted=st.dictionaries(st.text(max_size=2), JSON, max_size=2),
)
def test_matching_is_json_equality_of_top_level_keys(
    stored: dict[str, Any], wanted: dict[str, Any]
) -> None:
    expected = all(key in stored and _equal(stored[key], value) for key, value in wanted.items())
    assert meta.matches(meta.loads(meta.dumps(stored)), wanted) == expected
    if expected:
        held = meta.terms(stored, b"")
        assert all(meta.term(key, value, b"") in held for key, value in wanted.items())
