"""LangChain's standard tests with a scripted network: plumbing only.

Tokenizer, template, window, memory, grammar, parser and streaming are the real ones; what a capable
model would say comes from a script.
"""

from __future__ import annotations

import json
import re

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.testing import scripted, tiny_engine

_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)


def script(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>")[2]
    if last.startswith("user\n<tool_response>"):
        return "The tool has answered."
    listed = _TOOLS.search(prompt)
    if listed:
        tools = [json.loads(line)["function"] for line in listed.group(1).splitlines()]
        return f"<tool_call>\n{json.dumps(call(tools[0], last), ensure_ascii=False)}\n</tool_call>"
    if "joke" in last:
        return json.dumps({"setup": "Why do cats sleep?", "punchline": "They can."})
    return "Hello to you."


def call(tool: dict, said: str) -> dict:
    values = {"integer": 3, "string": "pirate", "number": 1.5, "boolean": True}
    arguments = {
        name: values[schema.get("type", "string")]
        for name, schema in tool["parameters"].get("properties", {}).items()
    }
    if tool["name"] == "unicode_customer":
        name = re.search(r"'(.*?)'", said).group(1)
        arguments = {"customer_name": name, "description": "a company"}
    return {"name": tool["name"], "arguments": arguments}


@pytest.fixture(scope="session")
def plumbing_engine():
    return scripted(tiny_engine(window=8192), script)


class Plumbing:
    @pytest.fixture(autouse=True)
    def _engine(self, plumbing_engine):
        Plumbing.engine = plumbing_engine

    @property
    def chat_model_class(self):
        return ChatDeltaMem

    @property
    def chat_model_params(self):
        return {"model": Plumbing.engine}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def supports_model_override(self):
        return False


class TestPlumbingOnlyUnit(Plumbing, ChatModelUnitTests):
    pass


class TestPlumbingOnlyIntegration(Plumbing, ChatModelIntegrationTests):
    pass
