"""ChatDeltaMem, the chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool

from deltamem_agents.chat.batching import BatchedChat
from deltamem_agents.chat.binding import ChatBinding
from deltamem_agents.chat.calls import Call, prepare
from deltamem_agents.chat.configurable import Configurable
from deltamem_agents.chat.errors import as_langchain
from deltamem_agents.chat.messages import Chunks, to_dicts, to_last_chunk, to_message
from deltamem_agents.chat.structured import structured
from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.chat.values import check_text
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import StateError
from deltamem_agents.runtime.answer import Final
from deltamem_agents.runtime.slot import MemorySlot

if TYPE_CHECKING:
    from deltamem_agents.chat.conversation import ChatSession


class ChatDeltaMem(Configurable, BatchedChat):
    """A local causal LM with a δ-mem, as a LangChain chat model.

    Without a memory bound to it (`with_memory`, or DeltaMemMiddleware in a graph), each call starts
    from an empty one and forgets it afterwards.
    """

    # Memory

    def with_memory(self, slot: MemorySlot) -> Self:
        """Bind one call's memory to this model.

        Args:
            slot: `before` is the memory the call starts from; `after` is set when it has ended.

        Returns:
            A copy that shares the engine and never answers from LangChain's cache. It keeps the
            memory as `bind_tools`, `with_config` or `configurable_fields` wrap it, and a model with
            tools or a config bound to it, or with configurable fields or alternatives, has this
            method too. Call it before `with_structured_output`, `with_retry` and `with_fallbacks`,
            not after.
        """
        return self.model_copy(update={"slot": slot, "cache": False})

    def session(self, memory: MemoryState | None = None) -> ChatSession:
        """Start a conversation that keeps its own memory, without LangGraph."""
        from deltamem_agents.chat.conversation import ChatSession

        return ChatSession(self, memory)

    def warm_up(self) -> Self:
        """Compile the kernels and touch the weights, so that the first call is no slower."""
        from langchain_core.messages import HumanMessage

        self.model_copy(update={"cache": False}).invoke([HumanMessage(".")], max_tokens=2)
        return self

    def bind(self, **kwargs: Any) -> ChatBinding:  # type: ignore[override]
        """Bind parameters of calls."""
        return ChatBinding(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> ChatBinding:
        """Bind a config."""
        merged = cast("RunnableConfig", {**(config or {}), **kwargs})
        return ChatBinding(bound=self, kwargs={}, config=merged)

    # Calls

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchain():
            call = self._call(messages, stop, kwargs, pieces=False)
            with closing(self.engine.generate(*call.arguments, **call.keywords)) as events:
                finals = [event for event in events if isinstance(event, Final)]
        return self._result(call, finals[-1])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchain():
            call = self._call(messages, stop, kwargs, pieces=False)
            async with aclosing(self.engine.agenerate(*call.arguments, **call.keywords)) as events:
                finals = [event async for event in events if isinstance(event, Final)]
        return self._result(call, finals[-1])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with as_langchain():
            call = self._call(messages, stop, kwargs, pieces=True)
            chunks = Chunks(blocks=self.output_version == "v1")
            with closing(self.engine.generate(*call.arguments, **call.keywords)) as events:
                for event in events:
                    chunk = self._chunk(call, chunks, event)
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with as_langchain():
            call = self._call(messages, stop, kwargs, pieces=True)
            chunks = Chunks(blocks=self.output_version == "v1")
            async with aclosing(self.engine.agenerate(*call.arguments, **call.keywords)) as events:
                async for event in events:
                    chunk = self._chunk(call, chunks, event)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _call(
        self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any], *, pieces: bool
    ) -> Call:
        slot = self.slot
        if slot is not None and slot.after is not None:
            raise StateError(
                "a slot serves one call", got=slot, remedy="Make a MemorySlot for each call."
            )
        return prepare(self, slot, messages, stop, kwargs, pieces=pieces)

    def _result(self, call: Call, final: Final) -> ChatResult:
        if call.slot is not None:
            call.slot.fill(final.state)
        message = to_message(final, self.engine.name)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, call: Call, chunks: Chunks, event: Any) -> ChatGenerationChunk:
        if not isinstance(event, Final):
            return ChatGenerationChunk(message=chunks.of(event))
        if call.slot is not None:
            call.slot.fill(event.state)
        info = {"finish_reason": event.finish_reason}
        last = to_last_chunk(event, self.engine.name)
        return ChatGenerationChunk(message=last, generation_info=info)

    # Counting

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, without a template."""
        check_text(text)
        ids: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the tokens of a prompt with tools, template and generation prompt."""
        with as_langchain():
            return self.engine.count_tokens(
                to_dicts(list(messages)), tools=tool_schemas(tools or ()), thinking=self.thinking
            )

    # Tools and schemas

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the model tools.

        Args:
            tools: functions, pydantic classes, TypedDicts, BaseTools, or JSON schemas.
            tool_choice: "auto" or None lets the model decide; "any", "required" or True makes it
                call one; "none" forbids it; a tool's name (or {"type": "function", "function":
                {"name"}}, {"type": "tool", "name"}) makes it call that one.
            **kwargs: for calls: `parallel_tool_calls`, `response_format`, temperature, ...

        Raises:
            ChatRequestError: a tool cannot be described, or the choice names none of them.
        """
        from deltamem_agents.chat.tools import resolve_choice

        schemas = tool_schemas(tools)
        resolve_choice(tool_choice, schemas)  # refuse an unknown name now, not at the first call
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=schemas, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Make replies follow a schema, which decoding then enforces.

        A reply that `max_tokens` would cut is closed early, so that it still parses, with values
        shorter than meant: a warning is logged, and the raw message's finish_reason is "length".
        A call that is cut cannot be run, and what cannot be closed in time is no JSON: invoking
        then raises a ChatReplyError (LangChain's OutputParserException), or with include_raw it is
        the "parsing_error".

        Args:
            schema: a pydantic class, a TypedDict, or a JSON schema; for "function_calling" one of
                objects, with a title.
            include_raw: return {"raw", "parsed", "parsing_error"}.
            method: "json_schema", "function_calling" or "json_mode" (any JSON object).
            strict: accepted; decoding is strict in every case but json_mode.
            **kwargs: for calls; `tools` may be among them. Where the model calls one, the result
                is None; with include_raw the call is in "raw".

        Raises:
            ChatRequestError: the schema cannot be used, or the method is unknown.
        """
        runnable: Runnable[LanguageModelInput, Any] = structured(
            self, schema, include_raw=include_raw, method=method, **kwargs
        )
        return runnable
