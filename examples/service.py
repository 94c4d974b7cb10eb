"""A service with many users: FastAPI, one model for all, a memory for each.

Calls that come at the same time are answered side by side by one model. Each user is a thread, and
talks to no other. Needs `pip install fastapi httpx uvicorn`.

Run: python examples/service.py                (three users at once, without a network or a file)
     uvicorn --app-dir examples service:app    (a server; keeps service.db, or DATABASE_URL's)
"""

import asyncio
import os
from collections import defaultdict
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from langchain.agents import create_agent
from pydantic import BaseModel

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver, ThreadMemory

TOKENS = {"token-a": "alice", "token-b": "bob", "token-c": "carol"}  # take your own sign-in


@asynccontextmanager
async def lifespan(app):
    """One saver and one agent for the life of the service."""
    async with SQLAlchemySaver(app.state.database) as saver:
        app.state.agent = create_agent(
            ChatDeltaMem(), tools=[], middleware=[DeltaMemMiddleware()], checkpointer=saver
        )
        yield


app = FastAPI(lifespan=lifespan)
app.state.database = os.environ.get("DATABASE_URL") or "sqlite:///service.db"
turns = defaultdict(asyncio.Lock)  # a user's messages are answered one after another


class Message(BaseModel):
    """What a user says."""

    text: str


def thread_of(authorization: Annotated[str, Header()]) -> dict:
    """The user's thread. It comes from the sign-in, never from what the request says."""
    user = TOKENS.get(authorization.removeprefix("Bearer "))
    if user is None:
        raise HTTPException(401, "unknown token")
    return {"configurable": {"thread_id": user}}


Thread = Annotated[dict, Depends(thread_of)]


@app.post("/messages")
async def say(message: Message, thread: Thread) -> Message:
    """Answer the user's agent."""
    async with turns[thread["configurable"]["thread_id"]]:
        result = await app.state.agent.ainvoke({"messages": [("user", message.text)]}, thread)
    return Message(text=result["messages"][-1].text)


@app.get("/memory")
async def memory(thread: Thread) -> dict:
    """What the user's memory is like: numbers, no text."""
    state = await ThreadMemory(app.state.agent, thread).amemory()
    return state.describe() if state else {}


@app.delete("/memory")
async def forget(words: Annotated[str, Query(min_length=3)], thread: Thread) -> dict:
    """Forget every turn in which these words were said; no words would be in every turn."""
    async with turns[thread["configurable"]["thread_id"]]:
        gone = await ThreadMemory(app.state.agent, thread).aforget(lambda m: words in m.text)
    return {"messages": len(gone.message_ids)}


async def main() -> None:
    """Three users at once, in this process."""
    users = {user: {"Authorization": f"Bearer {token}"} for token, user in TOKENS.items()}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):

        async def tell(user, text):
            reply = await client.post("/messages", json={"text": text}, headers=users[user])
            return f"{user:<7}{text:<42}{reply.json()['text']}"

        cities = {"alice": "Oslo", "bob": "Lisbon", "carol": "Vienna"}
        told = [tell(user, f"Remember that my home city is {cities[user]}.") for user in users]
        print(*await asyncio.gather(*told), sep="\n")
        asked = [tell(user, "What is my home city?") for user in users]
        print(*await asyncio.gather(*asked), sep="\n")

        gone = await client.delete("/memory", params={"words": "Lisbon"}, headers=users["bob"])
        print("bob    forgets:", gone.json())
        print(await tell("bob", "What is my home city?"))
        stranger = await client.get("/memory", headers={"Authorization": "Bearer none"})
        print("stranger:", stranger.status_code, stranger.json()["detail"])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        app.state.database = os.environ.get("DATABASE_URL") or f"sqlite:///{folder}/service.db"
        asyncio.run(main())
