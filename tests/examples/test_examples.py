"""Every example runs in a folder of its own and prints what it promises."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISES = {
    "agent_with_memory": [
        r"alice What is my locker code\?\n +-> Your locker code is 48213\.\n +48213: said by",
        r"bob   What is my locker code\?\n +-> Your locker code is 60217\.\n +60217: said by",
    ],
    "agent_with_tools": [
        r"ai    calls get_weather with {'city': 'Vienna'}\n"
        r"tool  21 degrees and sunny\nai    21 degrees and sunny\.",
        r"memory: .*visible=4",
    ],
    "batch_evaluation": [
        r"with memory\n(?s:.)*[78] of 8 right: (?s:.)*memory emptied\n(?s:.)*[012] of 8 right: ",
    ],
    "chat": [
        r"8 messages have left the window; the memory has 32768 bytes",
        r"model: Your sister's instrument is cello\.\n$",
    ],
    "existing_graph": [
        r"output has \['messages', 'turns'\]\nturns: 2\nanswer: Your name is Diego\.",
        r"memory: .*visible=4",
    ],
    "forget": [
        r"before: Your locker code is 4471-XK\.\ngone: 2 messages and 1 fact, from \d+ checkpoints",
        r"after:  (?!.*4471-XK)",
        r"never told: (0\.0e\+00|\d\.\de-0[6-9])\n",
        r"files that still hold the code: none",
    ],
    "fork": [
        r"trunk  What is my brother's hobby\? +Your brother's hobby is hiking\.",
        r"branch What is my brother's hobby\? +Your brother's hobby is chess\.",
        r"the two memories are [1-9][\d.]* apart",
    ],
    "peft_adapter": [
        r"before training: 0 of 4 words\nafter training:  4 of 4 words\nmemory emptied:  [01] of 4",
        r"saved, loaded:   4 of 4 words",
        r"the backbone's own: True",
    ],
    "plain_transformers": [
        r"memory: \[1, 4, 4, 16, 16\]\nwith memory Your sister's instrument is cello\.\nempty ",
        r"empty +(?!.*cello)",
    ],
    "rag_beside": [
        r"login service's port\? +exact +The login service's port is 9300\. "
        r"\[fact \w+, document runbook\.pdf, page 2, 28:32\]",
        r"audit service's port\? +both +\(the model, with \d passages",
        r"your day\? +neural",
    ],
    "service": [
        r"alice  What is my home city\? +Your home city is Oslo\.\n"
        r"bob    What is my home city\? +Your home city is Lisbon\.\n"
        r"carol  What is my home city\? +Your home city is Vienna\.",
        r"bob    forgets: {'messages': 4}\nbob    What is my home city\? +(?!.*Lisbon)",
        r"stranger: 401 unknown token",
    ],
    "streaming": [
        r"model: ([^|\n]+\|){4,}",
        r"broken off after '\w+'\nthe memory is as it was before: True\nmessages: 4",
    ],
    "structured_output": [
        r"json_schema: Ticket\(kind='(question|complaint|praise)', urgent=(True|False)\)",
        r"function_calling: Ticket\(kind='(question|complaint|praise)', urgent=(True|False)\)",
    ],
    "subgraph": [
        r"of its own\. The planner has not read the writer's last reply\n"
        r".*\n  planner  .*visible=5",
        r"  writer   .*visible=6",
        r"One memory for both\..*\n  together .*visible=6",
    ],
    "supervisor": [
        r"What is my boss's home city\? +people +Your boss's home city is Lisbon\.",
        r"billing service's language\? +operations +The billing service's language is kotlin\.",
        r"people +Mem.*visible=4.*\noperations +Mem.*visible=4",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def model() -> Any:
    """Keeps the built-in engine loaded, so that the examples share it."""
    from deltamem_agents import ChatDeltaMem

    return ChatDeltaMem()


def test_every_example_promises_something() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_an_example_prints_what_it_promises(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = EXAMPLES / f"{name}.py"
    assert f"Run: python examples/{name}.py" in path.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    for promise in PROMISES[name]:
        assert re.search(promise, printed), f"{promise}\nis not in\n{printed}"
