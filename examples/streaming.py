"""Streaming: replies as they grow; a stream that is broken off changes nothing.

Run: python examples/streaming.py
"""

from deltamem_agents import ChatDeltaMem

session = ChatDeltaMem().session()
for said in ("Remember that my name is Liam.", "Tell me a joke."):
    print("you:  ", said)
    print("model: ", end="")
    for chunk in session.stream(said):
        print(chunk.text, end="|", flush=True)
    print()

before = session.memory
for chunk in session.stream("Tell me a joke."):
    print("broken off after", repr(chunk.text))
    break
print("the memory is as it was before:", session.memory == before)
print("messages:", len(session.messages))
