"""`deltamem chat`: talk to an agent whose memory stays in a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deltamem_agents.cli.console import console, open_model, open_saver
from deltamem_agents.errors import DeltaMemError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from deltamem_agents.checkpoint import SQLAlchemySaver

HELP = """  /memory        what the memory is now
  /forget TEXT   forget every turn in which TEXT was said
  /reset         forget the whole conversation
  /exit          leave; the next chat goes on here"""


def chat(
    database: Annotated[str, typer.Option("--db", help="URL, or a SQLite file.")] = "deltamem.db",
    thread: Annotated[str, typer.Option(help="The conversation's name.")] = "chat",
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the built-in one without.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder or hub name.")] = None,
    window: Annotated[int | None, typer.Option(help="Visible tokens.")] = None,
    router: Annotated[bool, typer.Option(help="Exact questions go to the fact store.")] = False,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a reply.")] = 256,
) -> None:
    """Talk; end the process whenever you like, and go on later."""
    out = console()
    loaded = open_model(
        model=model,
        adapter=adapter,
        context_window=window,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    with open_saver(database, make=True) as saver:
        talk = Talk(_agent(loaded, saver, router), saver, thread, out)
        where = f"Thread {thread!r} in {database}."
        out.print(f"{where} Type /help for the commands.", markup=False)
        while (text := _heard(out)) is not None:
            try:
                if not talk.turn(text.strip()):
                    return
            except DeltaMemError as error:
                out.print(f"[red]{type(error).__name__}:[/red] {escape(str(error))}")


def _agent(model: Any, saver: SQLAlchemySaver, router: bool) -> Any:
    from langchain.agents import create_agent

    from deltamem_agents.graph.middleware import DeltaMemMiddleware
    from deltamem_agents.router import FactStore, HybridRouter

    routes = HybridRouter(FactStore(saver)) if router else None
    memory = DeltaMemMiddleware(router=routes)
    return create_agent(model, tools=[], middleware=[memory], checkpointer=saver)


def _heard(out: Console) -> str | None:
    """The next line; None at the end of the input."""
    try:
        return out.input("[bold]you>[/bold] ")
    except EOFError:
        return None


@dataclass(frozen=True)
class Talk:
    """One conversation at the terminal.

    Args:
        agent: with a memory and a checkpointer.
        saver: the checkpointer.
        thread: the thread's id.
        out: where it is shown.
    """

    agent: Any
    saver: SQLAlchemySaver
    thread: str
    out: Console

    @property
    def config(self) -> RunnableConfig:
        """Names the thread."""
        return {"configurable": {"thread_id": self.thread}}

    def turn(self, text: str) -> bool:
        """One line of the user; False to leave."""
        command, _, rest = text.partition(" ")
        if command == "/exit":
            return False
        if command == "/help":
            self.out.print(HELP)
        elif command == "/memory":
            self.show()
        elif command == "/forget":
            self.forget(rest.strip())
        elif command == "/reset":
            self.saver.delete_thread(self.thread)
            self.out.print("Everything of this conversation is gone.")
        elif command.startswith("/"):
            self.out.print(f"There is no command {escape(command)}.\n{HELP}")
        elif text:
            self.say(text)
        return True

    def say(self, text: str) -> None:
        """Answer, token by token."""
        from langchain_core.messages import AIMessage, HumanMessage

        self.out.print("[bold]agent>[/bold] ", end="")
        said = {"messages": [HumanMessage(text)]}
        reply = None
        for part, _ in self.agent.stream(said, self.config, stream_mode="messages"):
            if isinstance(part, AIMessage):
                self.out.print(part.text, end="", markup=False, soft_wrap=True)
                reply = part
        self.out.print()
        for source in reply.response_metadata.get("citations", ()) if reply else ():
            fact = f"  fact {source['fact_id'][:8]}: {source['value']}"
            self.out.print(fact, style="dim", markup=False)

    def show(self) -> None:
        """Tell what the memory is."""
        memory = self.saver.memory_at(self.config)
        if memory is None:
            self.out.print("Nothing has been said yet.")
            return
        ledger = memory.ledger
        self.out.print(
            f"{memory.tokens_written} tokens read into {memory.nbytes} bytes, norm "
            f"{memory.norm:.2f}; {len(ledger.visible)} messages visible, "
            f"{ledger.evicted_count} only in the memory"
        )

    def forget(self, text: str) -> None:
        """Forget the turns in which a text was said."""
        from deltamem_agents.graph.operators import ThreadMemory

        if not text:
            self.out.print("Say what to forget: /forget TEXT")
            return
        thread = ThreadMemory(self.agent, self.config)
        wanted = text.casefold()
        report = thread.forget(lambda message: wanted in str(message.text).casefold())
        count = len(report.message_ids)
        if not count:
            self.out.print(f"No message says {text!r}; nothing was changed.")
            return
        gone = "1 message is" if count == 1 else f"{count} messages are"
        self.out.print(f"{gone} gone; the memory was rebuilt without what was said there.")
