"""The house's own rules: sizes, who imports whom, and what a bare import may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deltamem_agents"
LONGEST_FILE = 300
LONGEST_FUNCTION = 50  # lines without the docstring
HEAVY = ("torch", "transformers", "peft", "numba", "langchain", "langgraph", "sqlalchemy",
         "matplotlib")  # fmt: skip


def sources() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 50
    return found


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and length of every function; one inside another counts for both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, length


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources()
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{name}": length
        for path in sources()
        for name, length in functions(ast.parse(path.read_text(encoding="utf-8")))
        if length > LONGEST_FUNCTION
    }
    assert long == {}


def test_rooms_import_from_right_to_left_only() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert ", 0 broken" in done.stdout


def unsafe_calls(tree: ast.Module) -> Iterator[str]:
    """Calls that read or write pickles."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            yield "from pickle import"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        module, _, function = name.rpartition(".")
        if module in {"pickle", "dill", "cloudpickle", "joblib"}:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield name
        if function == "load" and given.get("allow_pickle", "False") != "False":
            yield name


def test_no_file_reads_or_writes_a_pickle() -> None:
    guilty = {
        f"{path.relative_to(ROOT)}:{name}"
        for path in sources()
        for name in unsafe_calls(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert guilty == set()
    bad = "pickle.loads(x); torch.load(f); np.load(f, allow_pickle=True)"
    assert len(list(unsafe_calls(ast.parse(bad)))) == 3


def loaded_after(code: str) -> list[str]:
    report = f"import json, sys; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return list(json.loads(done.stdout))


def test_a_bare_import_loads_nothing_heavy() -> None:
    assert loaded_after("import deltamem_agents") == []
    assert loaded_after("import torch") == ["torch"]  # the probe sees what it should
