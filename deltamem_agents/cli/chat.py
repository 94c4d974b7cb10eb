"""`deltamem chat`: talk to an agent whose memory stays in a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape

from deltamem_agents.cli.console import console, open_model, open_saver
from deltamem_agents.errors import ConfigError, DeltaMemError, StateError

if TYPE_CHECKING:
    from langchain_core.messages import HumanMessage
    from langchain_core.runnables import RunnableConfig

    from deltamem_agents.chat.model import ChatDeltaMem
    from deltamem_agents.checkpoint import SQLAlchemySaver

HELP = """  /memory        what the memory is now
  /forget TEXT   forget every turn in which TEXT was said
  /reset         forget the whole conversation
  /exit, /quit   leave; the next chat goes on here
  /help          this list"""


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
    saver = open_saver(database, make=True)  # connects below: a model that fails makes no file
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    _check_sampling(sampling)
    loaded = open_model(model=model, adapter=adapter, context_window=window, **sampling)
    _check_window(loaded, window)
    with saver:
        talk = Talk(_agent(loaded, saver, router), saver, thread, out)
        _check_memory(talk, loaded)
        out.print(_greeting(database, thread, built_in=model is None), markup=False)
        while (text := _heard(out)) is not None:
            try:
                if not talk.turn(text.strip()):
                    return
            except DeltaMemError as error:
                out.print(_told(error))


def _greeting(database: str, thread: str, *, built_in: bool) -> str:
    """Where the conversation is kept; and what can be said, where the model knows so little."""
    lines = [f"Thread {thread!r} in {database}. Type /help for the commands."]
    if built_in:
        lines.append(
            'The built-in model is for trying: it understands sentences such as "Remember that my '
            'boss\'s home city is Lisbon." and "What is my boss\'s home city?", and little else.'
        )
    return "\n".join(lines)


def _told(error: DeltaMemError) -> str:
    return f"[red]{type(error).__name__}:[/red] {escape(str(error))}"


def _check_sampling(options: dict[str, Any]) -> None:
    """Refuse what no turn could be answered with.

    Raises:
        ConfigError: an option breaks its rule.
    """
    from deltamem_agents.runtime.sampling import Sampling

    Sampling(**options)


def _check_window(model: ChatDeltaMem, window: int | None) -> None:
    """Refuse a window that not even the shortest message fits.

    Raises:
        ConfigError: so it is.
    """
    from langchain_core.messages import HumanMessage

    least = model.get_num_tokens_from_messages([HumanMessage(".")])
    if window is not None and window < least:
        raise ConfigError(
            f"the window holds the shortest message, which has {least} tokens with its template",
            got=window,
            remedy=f"Give --window {16 * least} or more, so that sentences fit; or leave it out.",
        )


def _check_memory(talk: Talk, model: ChatDeltaMem) -> None:
    """Refuse a thread's name that cannot be one, and a memory that another model wrote.

    Raises:
        IdentifierError: the name.
        StateError: the memory.
    """
    memory, made_by = talk.saver.memory_at(talk.config), model.engine.fingerprint
    if memory is not None and memory.fingerprint != made_by:
        raise StateError(
            "a thread goes on with the model that wrote its memory",
            got=f"a memory of {memory.fingerprint[:12]}, a model of {made_by[:12]}",
            remedy="Give the --model and --adapter of before, or begin another --thread.",
        )


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
        if command in ("/exit", "/quit"):
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
        """Answer, token by token; a turn that fails or is broken off leaves nothing behind."""
        from langchain_core.messages import HumanMessage

        message = HumanMessage(text, id=str(uuid4()))
        try:
            self._answer(message)
        except DeltaMemError as error:
            self.out.print(f"\n{_told(error)}")
            self._take_back(message)
        except BaseException:  # such as Ctrl-C
            self.out.print()
            self._take_back(message)
            raise

    def _answer(self, message: HumanMessage) -> None:
        from langchain_core.messages import AIMessage

        self.out.print("[bold]agent>[/bold] ", end="")
        reply = None
        for part, _ in self.agent.stream(
            {"messages": [message]}, self.config, stream_mode="messages"
        ):
            if isinstance(part, AIMessage):
                self.out.print(part.text, end="", markup=False, soft_wrap=True)
                reply = part
        self.out.print()
        for source in reply.response_metadata.get("citations", ()) if reply else ():
            fact = f"  fact {source['fact_id'][:8]}: {source['value']}"
            self.out.print(fact, style="dim", markup=False)

    def _take_back(self, message: HumanMessage) -> None:
        """Forget a message without an answer, and the facts that were read from it.

        A graph stores what it is given before it runs; left there, the next turn would have two
        messages of the user in a row.
        """
        from deltamem_agents.graph.operators import ThreadMemory

        try:
            ThreadMemory(self.agent, self.config).forget(lambda one: one.id == message.id)
        except DeltaMemError:  # what failed the turn may fail this too
            self.out.print("This message may still be in the thread, without an answer.")
        else:
            self.out.print("This turn was taken back: nothing of it is in the thread.")

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
