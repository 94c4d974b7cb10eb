"""Structured output: a reply that is an object, whatever the model would rather say."""

from typing import Literal

from pydantic import BaseModel

from deltamem_agents.chat import ChatDeltaMem


class Ticket(BaseModel):
    """A message from a customer, sorted."""

    kind: Literal["question", "complaint", "praise"]
    urgent: bool


def main() -> None:
    model = ChatDeltaMem(max_tokens=60)
    for method in ("json_schema", "function_calling"):
        sorter = model.with_structured_output(Ticket, method=method)
        ticket = sorter.invoke("The parcel has not come and I need it today!")
        print(f"{method}: {ticket!r}")


if __name__ == "__main__":
    main()
