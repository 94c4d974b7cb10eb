"""The demo's first process: an agent is told things, and ends."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deltamem_agents.cli.console import open_model, open_saver, progress
from deltamem_agents.cli.demo_script import THREAD, WINDOW, load_script


def talk(database: Path, out: Console) -> None:
    """Hold the conversation of the script with a new agent on a SQLite file."""
    from langchain.agents import create_agent
    from langchain_core.messages import HumanMessage
    from langchain_core.runnables import RunnableConfig

    from deltamem_agents.graph.middleware import DeltaMemMiddleware

    script = load_script()
    out.print(f"[bold]Process 1[/bold] (pid {os.getpid()}) makes an agent on {database.name}")
    model = open_model(context_window=WINDOW)
    told = {fact.turn for fact in script.facts}
    with open_saver(str(database), make=True) as saver:
        agent = create_agent(model, tools=[], middleware=[DeltaMemMiddleware()], checkpointer=saver)
        config: RunnableConfig = {"configurable": {"thread_id": THREAD}}
        with progress(out) as bar:
            task = bar.add_task("talking", total=len(script.turns))
            for number, text in enumerate(script.turns):
                state = agent.invoke({"messages": [HumanMessage(text)]}, config)
                if number in told:
                    bar.console.print(f"  user:  {text}")
                    answer = escape(state["messages"][-1].text)
                    bar.console.print(f"  agent: [cyan]{answer}[/cyan]")
                bar.advance(task)
        memory = saver.memory_at(config)
    assert memory is not None
    out.print(
        f"  {len(script.turns)} turns; {len(memory.ledger.visible)} of "
        f"{2 * len(script.turns)} messages are still visible; "
        f"the memory has read {memory.tokens_written} tokens and has {memory.nbytes} bytes\n"
        "  process 1 ends"
    )
