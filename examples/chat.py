"""A conversation that remembers, without LangGraph: save it, load it, go on.

Run: python examples/chat.py
"""

from tempfile import TemporaryDirectory

from deltamem_agents import ChatDeltaMem
from deltamem_agents.chat import ChatSession

model = ChatDeltaMem(context_window=128)  # at most 128 tokens are visible; the rest is memory
session = model.session()
for text in (
    "Remember that my sister's instrument is cello.",
    "The train was late again this morning.",
    "The kitchen smelled odd all day.",
    "The library was quiet today.",
    "My keyboard needed cleaning.",
    "The weather kept me awake last night.",
    "The bridge was on the news yesterday.",
    "My backpack cost too much.",
):
    print("you:  ", text)
    print("model:", session.invoke(text).text)

with TemporaryDirectory() as folder:
    session.save(folder)
    later = ChatSession.load(model, folder)  # in another process, say

gone = later.memory.ledger.evicted_count
print(f"{gone} messages have left the window; the memory has {later.memory.nbytes} bytes")
print("you:   What is my sister's instrument?")
print("model:", later.invoke("What is my sister's instrument?").text)
