"""Measure what a memory recalls on conversations of your own, against an empty one.

All conversations are read, and all questions asked, side by side. Without the second column no
figure means anything: it tells what can be guessed without a memory.

Run: python examples/batch_evaluation.py
"""

import asyncio

from deltamem_agents import ChatDeltaMem
from deltamem_agents.chat import ChatSession
from deltamem_agents.evaluation.controls import emptied
from deltamem_agents.evaluation.metrics import Share, says

CASES = [  # told, asked, and what the answer has to hold
    ("Remember that my sister's instrument is cello.", "What is my sister's instrument?", "cello"),
    ("Remember that my brother's hobby is chess.", "What is my brother's hobby?", "chess"),
    ("Remember that my boss's home city is Lisbon.", "What is my boss's home city?", "Lisbon"),
    ("Remember that my neighbour's pet is parrot.", "What is my neighbour's pet?", "parrot"),
    ("Remember that my favourite food is goulash.", "What is my favourite food?", "goulash"),
    ("Remember that my locker code is 48213.", "What is my locker code?", "48213"),
    ("Someone talked about Athens today.", "What is my aunt's home city?", "not known"),
    ("My uncle adopted a goat.", "Which animal does my uncle own?", "goat"),
]
SMALL_TALK = [
    "The train was late again this morning.", "The kitchen smelled odd all day.",
    "The library was quiet today.", "My keyboard needed cleaning.",
    "The weather kept me awake last night.", "The bridge was on the news yesterday.",
    "The gym was closed in the evening.", "My backpack cost too much.",
]  # fmt: skip

model = ChatDeltaMem(context_window=160, max_tokens=24)


async def conversation(told: str) -> ChatSession:
    """Tell, and talk until it has left the window."""
    session = model.session()
    for text in (told, *SMALL_TALK):
        await session.ainvoke(text)
    assert session.memory.ledger.evicted_count >= 2, "what was told is still visible"
    return session


async def ask(session: ChatSession, question: str, *, remember: bool) -> str:
    """The answer, on a fork, so that one question does not help another."""
    fork = session.fork()
    if not remember:
        fork.memory = emptied(fork.memory)
    return (await fork.ainvoke(question)).text


async def main() -> None:
    """Read everything, ask everything twice, and count."""
    sessions = await asyncio.gather(*(conversation(told) for told, _, _ in CASES))
    for remember, name in ((True, "with memory"), (False, "memory emptied")):
        answers = await asyncio.gather(
            *(ask(s, q, remember=remember) for s, (_, q, _) in zip(sessions, CASES, strict=True))
        )
        right = [says(answer, truth) for answer, (_, _, truth) in zip(answers, CASES, strict=True)]
        print(name)
        for good, answer, (_, question, _) in zip(right, answers, CASES, strict=True):
            print(f"  {'right' if good else 'wrong'}  {question:<34}{answer}")
        print(f"  {sum(right)} of {len(right)} right: {Share.of(right)} with its 95 % interval")


asyncio.run(main())
