"""Run by the kill tests: works on a database and writes down what was acknowledged.

    python kill_worker.py

Each line on stdin, `URL WHAT SEED FILE`, starts one worker (a fork, which spares it the imports);
its process id is printed. WHAT is puts, prunes, copies, together (threads that share commits) or
migrations. Each line of FILE is a promise: it was written after the operation returned.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from deltamem_agents.checkpoint import SQLAlchemySaver


def say(*words: Any) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one line whole, from any thread


def value_of(checkpoint_id: str, channel: str) -> str:
    """What a channel of a checkpoint holds; the reader knows it too."""
    return f"{channel} of {checkpoint_id} " * (40 if channel != "short" else 1)


def put(saver: SQLAlchemySaver, place: Any) -> Any:
    made = empty_checkpoint()
    made["id"] = str(uuid6())
    names = ("short", "long", "longer")
    made["channel_values"] = {name: value_of(made["id"], name) for name in names}
    made["channel_versions"] = dict.fromkeys(names, made["id"])
    return saver.put(place, made, {"source": "loop", "step": 0}, made["channel_versions"])


def steps(saver: SQLAlchemySaver, thread: str) -> Iterator[str]:
    """Checkpoints with their writes, without end; the ids."""
    place: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    for step in count():
        place = put(saver, place)
        checkpoint_id = place["configurable"]["checkpoint_id"]
        say("put", thread, checkpoint_id)
        saver.put_writes(place, [("a", 1), ("b", "w" * 600), ("c", 3)], f"task{step}")
        say("writes", thread, checkpoint_id)
        yield checkpoint_id


def main(url: str, what: str, seed: int) -> None:
    dice = random.Random(seed)
    if what == "migrations":
        say("start")
        with SQLAlchemySaver(url, prefix=f"p{seed}_") as saver:
            put(saver, {"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
            say("migrated")
        return
    with SQLAlchemySaver(url) as saver:
        saver.setup()
        say("start")
        if what == "together":
            names = [f"t{seed}-{number}" for number in range(4)]
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(lambda name: deque(steps(saver, name), maxlen=0), names))
        for step, checkpoint_id in enumerate(steps(saver, f"t{seed}")):
            if what == "prunes" and dice.random() < 0.3:
                say("pruning", f"t{seed}")
                saver.prune([f"t{seed}"])
                say("pruned", f"t{seed}", checkpoint_id)
            if what == "copies" and dice.random() < 0.3:
                name = f"t{seed}-copy{step}"
                saver.copy_thread(f"t{seed}", name)
                say("copied", name, checkpoint_id)


def serve() -> None:
    """Fork one worker a line, until stdin ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        url, what, seed, file = line.split()
        process = os.fork()
        if process == 0:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            try:
                main(url, what, int(seed))
            finally:
                os._exit(0)
        say(process)


if __name__ == "__main__":
    serve()
