"""Tools: the model calls one, the answer goes back, the model goes on.

Decoding follows the tools' schemas, so that even the small built-in model makes a valid call.
"""

from typing import Literal

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from deltamem_agents.chat import ChatDeltaMem


@tool
def lamp(room: Literal["kitchen", "bedroom"], on: bool) -> str:
    """Switch a lamp on or off."""
    return f"The lamp in the {room} is {'on' if on else 'off'}."


def main() -> None:
    model = ChatDeltaMem(max_tokens=60)
    question = HumanMessage("Please switch the lamp in the kitchen on.")

    caller = model.bind_tools([lamp], tool_choice="any")
    request = caller.invoke([question])
    call = request.tool_calls[0]
    print("the model calls", call["name"], "with", call["args"])

    result = lamp.invoke(call)
    print("the tool says", repr(result.content))

    reply = model.bind_tools([lamp], tool_choice="none").invoke([question, request, result])
    print("the model says", repr(reply.content))
    print("tokens:", reply.usage_metadata["input_tokens"], "in,",
          reply.usage_metadata["output_tokens"], "out")  # fmt: skip


if __name__ == "__main__":
    main()
