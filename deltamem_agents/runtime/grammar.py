"""Grammars that decoding must follow: tool calls, JSON schemas, and free text around them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NoReturn

import torch

from deltamem_agents.errors import MessageError
from deltamem_agents.runtime.matching import AfterOpening, Banned, Closers, Matcher, Thought
from deltamem_agents.runtime.schemas import property_names, strict

_OPEN, _CLOSE, _THINK, _THOUGHT = "<tool_call>", "</tool_call>", "<think>", "</think>"
_KEPT = 64  # compiled grammars


@dataclass(frozen=True)
class Rules:
    """What a reply may be.

    Args:
        tools: JSON schemas of the tools that may be called.
        calls: "free": text, and calls where the model wants them; "only": a call and nothing else;
            "never": no call.
        schema: a JSON schema that the content follows, or None.
        parallel: whether several calls may follow each other.
        thought: "free": a thought may come first; "open": one has been opened; "none".
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    calls: str = "free"
    schema: Mapping[str, Any] | None = None
    parallel: bool = True
    thought: Literal["none", "free", "open"] = "none"

    @property
    def constrains(self) -> bool:
        """Whether a reply follows them from its first token on."""
        return self.calls == "only" or self.schema is not None


class Grammar:
    """Makes a matcher for each reply that follows the same rules.

    Args:
        ready: whether it is compiled.
        prepare: compiles it, which takes long for large vocabularies.
        make: makes a matcher; prepares what is not ready.
    """

    def __init__(
        self,
        ready: Callable[[], bool],
        prepare: Callable[[], Any],
        make: Callable[[], Matcher],
    ) -> None:
        self._ready, self.prepare, self._make = ready, prepare, make

    @property
    def ready(self) -> bool:
        """Whether a matcher can be made without a wait."""
        return self._ready()

    def __call__(self) -> Matcher:
        """Make a matcher for one reply."""
        return self._make()


class Grammars:
    """Compiles rules for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        end_tokens: ids that end a reply.
    """

    def __init__(self, tokenizer: Any, end_tokens: frozenset[int]) -> None:
        self._tokenizer, self._end_tokens = tokenizer, sorted(end_tokens)
        self._compiled: OrderedDict[str, Any] = OrderedDict()  # tools stay the same for many calls
        self._lock = threading.Lock()

    @cached_property
    def _wrapped(self) -> Any:
        # Slow for large vocabularies (more than 10 s at 151,000), so made once and when needed.
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._tokenizer, eos_token=self._end_tokens)

    def compile(self, rules: Rules) -> Grammar | None:
        """Describe the replies that keep to rules; None where everything is allowed.

        What is returned raises a MessageError when it is prepared, if a schema has something that
        decoding cannot enforce, or cannot be met.
        """
        opening = self._id(_OPEN)
        if rules.calls == "never":
            if rules.schema is None:
                if opening is None:
                    return None
                banned = Banned(opening, len(self._tokenizer))
                return Grammar(lambda: True, lambda: None, lambda: banned)
        elif rules.calls == "free" and rules.schema is None:
            if not rules.tools or opening is None or self._id(_CLOSE) is None:
                return None
            return self._grammar(rules, opening)
        return self._grammar(rules, None)

    def _grammar(self, rules: Rules, opening: int | None) -> Grammar:
        """The grammar of whole replies, or of what follows the mark that opens a call."""
        text, reserve = self._lark(rules, text=opening is not None), self._reserve(rules)
        thought = Thought(self._id(_THINK), self._id(_THOUGHT), rules.thought == "open")

        def prepare() -> Any:
            return self._compile(text, rules)

        def make() -> Matcher:
            inner, size = prepare().deep_copy(), self._wrapped.vocab_size
            if opening is not None:
                return AfterOpening(Matcher(inner, size, self._closers, reserve), opening)
            return Matcher(inner, size, self._closers, reserve, replace(thought))

        return Grammar(lambda: text in self._compiled, prepare, make)

    def _reserve(self, rules: Rules) -> int:
        """Estimate the tokens that the shortest JSON of a schema takes."""
        shapes = [tool["function"].get("parameters") for tool in rules.tools]
        names = [list(property_names(shape)) for shape in (*shapes, rules.schema)]
        texts = [json.dumps(dict.fromkeys(found, ""), ensure_ascii=False) for found in names]
        sizes = [len(self._tokenizer(text)["input_ids"]) for text in texts]
        # A few more, since names need not come in their longest tokens.
        return 12 + max(size + 3 * len(n) for size, n in zip(sizes, names, strict=True))

    @cached_property
    def _closers(self) -> Closers:
        tokens = self._tokenizer.convert_ids_to_tokens(list(range(len(self._tokenizer))))
        # The quotation mark before brackets: inside a string those are only more text.
        kinds = (set('"'), set('"}]'), set('",:[{}] \u0120\u2581'))
        masks = [
            torch.tensor([bool(token) and set(token) <= kind for token in tokens]) for kind in kinds
        ]
        lengths = torch.tensor([len((token or "").strip("-")) for token in tokens])  # no mere sign
        return Closers(masks, lengths, self._end_tokens)

    def _compile(self, grammar: str, rules: Rules) -> Any:
        """Compile a grammar into a matcher that is only copied.

        Raises:
            MessageError: a schema has something that decoding cannot enforce, or cannot be met.
        """
        from llguidance import LLMatcher

        with self._lock:
            if (known := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return known
            if wrong := self._wrong(grammar):
                self._refuse(wrong, rules)
            _ = self._closers
            compiled = self._compiled[grammar] = LLMatcher(self._wrapped, grammar, log_level=0)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return compiled

    def _wrong(self, grammar: str) -> str:
        """What a grammar cannot be compiled for; empty if it can."""
        from llguidance import LLMatcher

        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, self._wrapped)
        return str(messages[0].splitlines()[0]) if failed else ""

    def _refuse(self, wrong: str, rules: Rules) -> NoReturn:
        for tool in rules.tools if rules.calls != "never" else ():
            alone = Rules(tools=(tool,), calls="only")
            if found := self._wrong(self._lark(alone, text=False)):
                raise MessageError(
                    "the schema of a tool's arguments can be enforced while decoding",
                    got=f"{tool['function']['name']}: {found}",
                    remedy="Simplify that argument's type, or take a string and read it.",
                )
        raise MessageError(
            "a schema can be enforced while decoding",
            got=wrong,
            remedy="Simplify the schema, or use method='json_mode'.",
        )

    def _lark(self, rules: Rules, *, text: bool) -> str:
        """Write the grammar; with `text`, only what follows an opening mark that was seen."""
        opening, closing = self._mark(_OPEN), self._mark(_CLOSE)
        lines = [r"%llguidance {}"]
        choices = []
        for number, tool in enumerate(rules.tools if rules.calls != "never" else ()):
            function = tool["function"]
            name = json.dumps(function["name"], ensure_ascii=False)
            head = json.dumps(f'{{"name": {name}, "arguments": ', ensure_ascii=False)
            schema = strict(
                function.get("parameters") or {"type": "object", "properties": {}}, lenient=True
            )
            lines.append(f"arguments_{number}: %json {schema}")
            choices.append(f'{head} arguments_{number} "}}"')
        starts = []
        if choices:
            lines.append(f"body: {' | '.join(choices)}")
            if text:
                more = f' ("\\n"? {opening} "\\n" body "\\n" {closing})*' if rules.parallel else ""
                starts.append(f'"\\n" body "\\n" {closing}{more}')
            else:
                more = f' ("\\n" {opening} "\\n" body "\\n" {closing})*' if rules.parallel else ""
                starts.append(f'{opening} "\\n" body "\\n" {closing}{more}')
        if rules.schema is not None:
            lines.append(f"content: %json {strict(rules.schema)}")
            starts.append("content")
        start = f"({' | '.join(starts)})"
        if rules.thought != "none" and not text:
            rest = f"/(.|\\n)*/ {self._mark(_THOUGHT)} /\\n*/"
            start = (
                f"{rest} {start}"
                if rules.thought == "open"
                else (f"({self._mark(_THINK)} {rest})? {start}")
            )
        return "\n".join([*lines[:1], f"start: {start}", *lines[1:]])

    def _mark(self, text: str) -> str:
        token = self._id(text)
        return json.dumps(text) if token is None else f"<[{token}]>"

    def _id(self, text: str) -> int | None:
        ids: Sequence[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 else None
