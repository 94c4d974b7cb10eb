"""How strongly each token of a conversation is written to the memory."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.errors import ConfigError

if TYPE_CHECKING:
    from deltamem_agents.core.state import MemoryState
    from deltamem_agents.runtime.engine import Engine
    from deltamem_agents.runtime.session import Feed

_TAG = re.compile(r"<\S+>")  # as <think>, which not every tokenizer calls special


@dataclass(frozen=True, eq=False)
class WriteTrace:
    """A conversation as the memory reads it, token by token; T tokens, L layers with memory.

    Attributes:
        texts: the text of each token; T of them.
        messages: for each token, the index of its message; -1 for the pinned prompt.
        roles: for each token, the role of its message.
        special: Bool[T]: whether it is one of the template's marks, not text.
        written: Bool[T]: whether it was written.
        beta: float32 [L, T]: the write gate, its mean over heads and rows; 0 where not written.
        keep: float32 [L, T]: what the state keeps at this token, likewise; 1 where not written.
        memory: the memory after the last token.
    """

    texts: tuple[str, ...]
    messages: tuple[int, ...]
    roles: tuple[str, ...]
    special: NDArray[np.bool_]
    written: NDArray[np.bool_]
    beta: NDArray[np.float32]
    keep: NDArray[np.float32]
    memory: MemoryState

    @property
    def strength(self) -> NDArray[np.float32]:
        """Mean write gate over the layers, float32 [T]."""
        mean: NDArray[np.float32] = self.beta.mean(axis=0)
        return mean

    def __len__(self) -> int:
        return len(self.texts)


def engine_of(model: Any) -> Engine:
    """Return the engine of a chat model, or the engine itself.

    Raises:
        ConfigError: it is neither.
    """
    engine = getattr(model, "engine", model)
    if not hasattr(engine, "template") or not hasattr(engine, "empty_state"):
        raise ConfigError(
            "write strengths are read with a ChatDeltaMem or its engine",
            got=type(model).__name__,
            remedy="Pass ChatDeltaMem(...).",
        )
    found: Engine = engine
    return found


def trace_writes(model: Any, messages: Any, *, tools: Sequence[Any] | None = None) -> WriteTrace:
    """Read a conversation into an empty memory and record the gates of each token.

    It is read as the model reads it in a thread: with its context window, and again from the
    boundary when turns leave. Where a token is read twice, the later reading counts, since it is
    the one that the memory holds.

    Args:
        model: a `ChatDeltaMem`, or its engine.
        messages: a conversation in any form that LangChain takes (a string, tuples of role and
            text, dicts, messages).
        tools: JSON schemas of the tools, which the pinned prompt shows.

    Raises:
        ConfigError: `model` is neither.
        MessageError, ContextWindowError: the model cannot be given these messages.
    """
    from langchain_core.messages import convert_to_messages

    from deltamem_agents.chat.messages import to_dicts
    from deltamem_agents.runtime.live import LiveSessions
    from deltamem_agents.runtime.turn import Request, Turn, read_turn

    engine = copy.copy(engine_of(model))
    engine.live = LiveSessions(0)  # this reading leaves no trace among the live sessions
    said = convert_to_messages([messages] if isinstance(messages, str) else messages)
    turn = Turn(engine, Request(engine.empty_state(), to_dicts(list(said)), tools))
    recorder = _Recorder(engine, turn)
    steps, logits = read_turn(turn), None
    try:
        while True:
            logits = recorder.run(next(steps) if logits is None else steps.send(logits))
    except StopIteration:
        pass
    assert turn.progress.state is not None
    return recorder.result(turn.progress.state)


class _Recorder:
    """Runs what a turn reads, and notes the gates at the place of each token."""

    def __init__(self, engine: Engine, turn: Any) -> None:
        self.engine, self.turn = engine, turn
        self.pinned, self.parts = turn.render(0, len(turn.items), follower=turn.follower())
        self.fixed = len(self.pinned) if self.pinned else 0
        sizes = [self.fixed, *(len(part) for part in self.parts)]
        self.starts = np.cumsum(sizes).tolist()  # where message i begins
        layers, total = engine.memory_shape[0], self.starts[-1]
        self.beta = np.zeros((layers, total), np.float32)
        self.keep = np.ones((layers, total), np.float32)
        self.written = np.zeros(total, bool)
        self.open = 0  # tokens of the running message in feeds before, where writes go by message

    def places(self, feed: Feed) -> NDArray[np.intp]:
        """Where in the whole conversation a feed's tokens stand; the prompt is always first."""
        length = int(feed.session.length)
        here = np.arange(length, length + len(feed.ids))
        gone = int(self.starts[self.turn.first]) - self.fixed
        return np.where(here < self.fixed, here, here + gone)

    def run(self, feed: Feed) -> Any:
        """Run the model on a feed and note its gates."""
        import torch

        from deltamem_agents.adapter import MemoryCall

        cache, device = feed.session.cache, self.engine.runner.device
        writes = torch.tensor([list(feed.writes)], device=device)
        call = MemoryCall(
            segment_ids=0 if self.engine.by_segment else None,
            write=writes if any(feed.writes) else False,
            closes=feed.closes,
            record=True,
        )
        places = self.places(feed)
        cache.records.clear()
        with torch.inference_mode():
            output = self.engine.model(
                input_ids=torch.tensor([list(feed.ids)], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                delta_mem=call,
            )
        if any(feed.writes):
            self._note(places, feed, cache.records)
        return output.logits[0, -1]

    def _note(self, places: NDArray[np.intp], feed: Feed, records: Sequence[Any]) -> None:
        here = np.array(feed.writes)
        self.written[places] |= here  # the prompt is read again without writing
        if self.engine.by_segment:
            places = np.concatenate([np.arange(places[0] - self.open, places[0]), places])
            self.open = 0 if feed.closes else len(places)
            here = self.written[places]
        for layer, record in enumerate(records):
            for target, gate in ((self.beta, record.beta), (self.keep, record.keep)):
                mean = gate[0].float().mean(dim=(-2, -1)).cpu().numpy()  # [T], or [1] of a message
                target[layer, places] = np.where(here, mean, target[layer, places])

    def result(self, memory: MemoryState) -> WriteTrace:
        """Everything that was noted, with the texts."""
        parts = ([self.pinned] if self.pinned else []) + self.parts
        first = -1 if self.pinned else 0
        tokenizer = self.engine.tokenizer
        special = _marks(tokenizer)
        ids = [token for part in parts for token in part.ids]
        return WriteTrace(
            texts=tuple(text for part in parts for text in _texts(tokenizer, part.ids)),
            messages=tuple(first + i for i, part in enumerate(parts) for _ in part.ids),
            roles=tuple(part.role for part in parts for _ in part.ids),
            special=np.array([token in special for token in ids], bool),
            written=self.written,
            beta=self.beta,
            keep=self.keep,
            memory=memory,
        )


def _marks(tokenizer: Any) -> set[int]:
    """The ids of what a template writes around texts; other added tokens are words."""
    added = tokenizer.added_tokens_decoder.items()
    return {
        *tokenizer.all_special_ids,
        *(token for token, kind in added if kind.special or _TAG.fullmatch(kind.content)),
    }


def _texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; a letter of several tokens belongs to the last of them."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        now = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if now.endswith("\ufffd") and end < len(ids):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            before = now
    return texts
