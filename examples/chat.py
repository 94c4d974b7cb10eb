"""A conversation that remembers, without LangGraph: save it, load it, go on.

Run: python examples/chat.py
"""

from __future__ import annotations

import tempfile

from deltamem_agents import ChatDeltaMem
from deltamem_agents.chat import ChatSession


def main() -> str:
    """Tell something, talk until it has left the window, and ask in a new conversation object."""
    model = ChatDeltaMem(context_window=160, max_tokens=32)
    session = model.session()
    for text in (
        "Let it be known that my sister's instrument is cello.",
        "The train was late again this morning.",
        "The kitchen smelled odd all day.",
        "The library was quiet today.",
        "My keyboard needed cleaning.",
        "The weather kept me awake last night.",
        "Can you believe the elevator was closed all day?",
        "The old kettle smelled odd before work.",
        "The bridge was on the news yesterday.",
        "My backpack cost too much.",
    ):
        print("you:  ", text)
        print("model:", session.invoke(text).text)

    later = ChatSession.load(model, session.save(tempfile.mkdtemp()))
    memory = later.memory
    assert memory is not None
    gone = memory.ledger.evicted_count
    print(f"({gone} messages have left the window; the memory has {memory.nbytes} bytes)")

    question = "What instrument is it that my sister practises?"
    answer = str(later.invoke(question).text)
    print("you:  ", question)
    print("model:", answer)
    return answer


if __name__ == "__main__":
    main()
