"""Structured output: a reply that is an object, whatever the model would rather say.

Decoding follows the schema, so that the object is always valid. What is in it is as good as the
model: the built-in one guesses.

Run: python examples/structured_output.py
"""

from typing import Literal

from pydantic import BaseModel

from deltamem_agents import ChatDeltaMem


class Ticket(BaseModel):
    """A message from a customer, sorted."""

    kind: Literal["question", "complaint", "praise"]
    urgent: bool


model = ChatDeltaMem(max_tokens=60)
for method in ("json_schema", "function_calling"):
    sorter = model.with_structured_output(Ticket, method=method)
    ticket = sorter.invoke("The parcel has not come and I need it today!")
    print(f"{method}: {ticket!r}")
