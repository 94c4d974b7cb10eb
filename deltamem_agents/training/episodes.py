"""Conversations cut into windows exactly as serving cuts them: what is seen, written and learnt.

Where turns leave, how messages are rendered and which tokens write is decided by the same functions
that serve the model (`runtime/template.py`, `runtime/window.py`).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from deltamem_agents.errors import BoundaryError, ContextWindowError
from deltamem_agents.runtime.limits import low_water_of, window_of
from deltamem_agents.runtime.template import ChatTemplate, RenderedMessage
from deltamem_agents.runtime.window import Cut, Item, plan_cuts
from deltamem_agents.training.chats import Chat
from deltamem_agents.training.windows import NOTHING, Episode, EpisodeConfig, Window


class Planner:
    """Makes episodes.

    Args:
        template: renders conversations, and says what writes.
        config: see `EpisodeConfig`.
        positions: most tokens the model can see at once.
        ends: ids that end a reply.

    Raises:
        ConfigError: the window does not fit the model.
    """

    def __init__(
        self, template: ChatTemplate, config: EpisodeConfig, *, positions: int, ends: frozenset[int]
    ) -> None:
        self.template, self.config = template, config
        self.window = window_of(config.window, positions)
        self.low_water = low_water_of(config.low_water, self.window)
        self.positions, self.ends = positions, ends

    def plan(self, chat: Chat) -> Episode:
        """Cut a conversation into windows.

        Raises:
            ContextWindowError: a turn does not fit the window.
            BoundaryError: the template does not show where a reply begins.
        """
        return _Cutter(self, chat).episode()


class _Cutter:
    """Cuts one conversation; indices are those of its messages without the system prompt."""

    def __init__(self, planner: Planner, chat: Chat) -> None:
        self.planner, self.chat, self.config = planner, chat, planner.config
        self.targets = chat.answers(self.config.questions)
        self.done: set[int] = set()
        self.count = max(self.targets) + 1
        self.items = [Item(entry, "") for entry in chat.messages[: self.count]]

    def episode(self) -> Episode:
        windows: list[Window] = []
        pinned, _ = self.render(0, 1)
        if pinned is not None:  # written once, before the first window
            windows.append(self.lay(None, [pinned], 0, ()))
        first = 0
        for cut in self.cuts():
            windows += self.window(first, cut.at, cut.start)
            first = cut.start
        windows += self.window(first, self.count, self.count)
        whole = tuple(self.whole()) if self.config.teacher else ()
        return Episode(tuple(windows), whole, self.chat.name)

    def render(
        self, first: int, end: int, *, generate: bool = False, followed: bool = False
    ) -> tuple[RenderedMessage | None, list[RenderedMessage]]:
        """The pinned prompt and some messages, as the model sees them.

        With `followed`, as it sees them once the next turn is there.
        """
        entries = list(self.chat.messages[first:end])
        if followed:
            entries.append({"role": "user", "content": ""})
        if self.chat.system is not None:
            entries.insert(0, self.chat.system)
        parts = self.planner.template.render(
            entries, self.chat.tools, thinking=self.config.thinking, generate=generate
        )
        pinned = parts.pop(0) if parts and parts[0].role == "system" else None
        return pinned, parts[:-1] if followed else parts

    def cuts(self) -> list[Cut]:
        """When turns leave: where serving would make room, and before an answered turn."""
        starts = [0]
        if self.config.visible == "turn":
            starts += sorted({self.turn_of(i) for i in self.targets} - {0})
        cuts: list[Cut] = []
        for start, end in zip(starts, [*starts[1:], self.count], strict=True):
            cuts += [Cut(start, start)] * (start > 0)
            cuts += self.room(start, end)
        return cuts

    def room(self, start: int, end: int) -> list[Cut]:
        """The cuts that serving makes among some messages."""

        def measure(first: int, last: int, generate: bool) -> tuple[int, list[int]]:
            pinned, parts = self.render(start + first, start + last, generate=generate)
            fixed = len(pinned) if pinned else 0
            if generate:
                fixed += len(parts.pop())
            return fixed, [len(part) for part in parts]

        window = self.planner.window
        try:
            found = plan_cuts(
                self.items[start:end], 0, measure, window=window,
                low_water=self.planner.low_water, generate=False,
            )  # fmt: skip
        except ContextWindowError as error:
            raise ContextWindowError(
                f"a turn and the system prompt fit a window of {window} tokens",
                got=f"{self.chat.name}: {error.got}",
                remedy="Raise the window, or leave the conversation out.",
            ) from error
        return [Cut(start + cut.at, start + cut.start) for cut in found]

    def turn_of(self, index: int) -> int:
        """Where the turn of a message begins."""
        while index and not self.items[index].opens_turn:
            index -= 1
        return index

    def window(self, first: int, end: int, stays: int) -> list[Window]:
        """The window over messages [first, end), of which those before `stays` go on.

        Returns:
            looks aside for the answers that the committing window cannot hold, then that window.
        """
        pinned, parts = self.render(first, end, followed=stays == end < self.count)
        waiting = {i for i in self.targets if first <= i < end} - self.done
        self.done |= waiting  # the next window shows the last of them again, without its context
        inline = {
            i for i in waiting if i < stays and parts[i - first].ids == self.generated(first, i).ids
        }
        aside = self.aside(first, waiting - inline)
        if stays == first:
            return aside
        return [*aside, self.lay(pinned, parts[: stays - first], first, inline)]

    def aside(self, first: int, waiting: set[int]) -> list[Window]:
        """Windows from `first` that show each of some answers as it is generated."""
        found: list[Window] = []
        while waiting:
            last = max(waiting)
            pinned, parts = self.render(first, last + 1)
            held = {i for i in waiting if parts[i - first].ids == self.generated(first, i).ids}
            found.insert(0, replace(self.lay(pinned, parts, first, held), commits=False))
            waiting = waiting - held
        return found

    def whole(self) -> list[Window]:
        """All answers with everything before them in view, as far back as the model can see."""
        found: list[Window] = []
        waiting = set(self.targets)
        while waiting:
            first = self.farthest(max(waiting) + 1)
            held = {i for i in waiting if i >= first}
            found = [*self.aside(first, held), *found]
            waiting -= held
        return found

    def farthest(self, end: int) -> int:
        """The first turn from which on messages before `end` fit the model's positions."""
        pinned, parts = self.render(0, end)
        total = (len(pinned) if pinned else 0) + sum(map(len, parts))
        first = 0
        for index, part in enumerate(parts):
            if self.items[index].opens_turn:
                first = index
                if total <= self.planner.positions:
                    break
            total -= len(part)
        return first

    def generated(self, first: int, index: int) -> RenderedMessage:
        """A reply as it stands while it is generated."""
        return self.render(first, index + 1)[1][-1]

    def answer_span(self, first: int, index: int, message: RenderedMessage) -> range:
        """The places of a reply's own tokens, with the one that ends it."""
        prompt = self.render(first, index, generate=True)[1][-1].ids
        if message.ids[: len(prompt)] != prompt:
            raise BoundaryError(
                "a reply begins with what the template puts before a generated one",
                got=f"{self.chat.name}, message {index}",
                remedy="Pass thinking=False, or reasoning_content with the reply.",
            )
        if len(message) == len(prompt):
            raise BoundaryError(
                "a reply has tokens of its own",
                got=f"{self.chat.name}, message {index}",
                remedy="Check the template: it should end replies with a token that stops them.",
            )
        end = len(message)
        for place in range(len(prompt), end):
            if message.ids[place] in self.planner.ends:
                end = place + 1
                break
        return range(len(prompt), end)

    def lay(
        self,
        pinned: RenderedMessage | None,
        parts: Sequence[RenderedMessage],
        first: int,
        held: Container[int],
    ) -> Window:
        """Join messages to a window; the pinned prompt is only read."""
        shown = list(parts)
        if pinned is not None:
            shown.insert(0, replace(pinned, writes=(False,) * len(pinned)))
        ids = tuple(token for part in shown for token in part.ids)
        labels, weights, answers = [NOTHING] * len(ids), [0.0] * len(ids), [-1] * len(ids)
        ends: list[int] = []
        for number, part in enumerate(shown, first - (pinned is not None)):
            begin = ends[-1] if ends else 0
            ends.append(begin + len(part))
            if number in held:
                for place in self.answer_span(first, number, part):
                    before = begin + place - 1
                    labels[before], answers[before] = part.ids[place], number
                    weights[before] = self.targets[number]
        if len(ids) > self.planner.positions:
            raise ContextWindowError(
                f"a window and its reply have at most the model's {self.planner.positions} tokens",
                got=f"{self.chat.name}: {len(ids)} tokens",
                remedy="Lower the window, or shorten the reply.",
            )
        writes = tuple(flag for part in shown for flag in part.writes)
        return Window(ids, writes, tuple(labels), tuple(weights), tuple(answers), tuple(ends))
