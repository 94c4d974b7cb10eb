"""The examples about the chat model run, and print what they promise."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISES = {
    "tools": ["the model calls lamp with", "the tool says 'The lamp in the"],
    "structured_output": ["json_schema: Ticket(kind=", "function_calling: Ticket(kind="],
    "streaming": ["messages: 4 and in the branch: 6", "another memory: True", "visible=4"],
}


@pytest.mark.parametrize("name", PROMISES)
def test_example(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in PROMISES[name]:
        assert words in printed
