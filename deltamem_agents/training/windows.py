"""What an episode is made of: windows of tokens, what they write and what is learnt from them.

From window to window only the memory goes. A window *commits* if the memory after it goes on. One
that does not is a look aside: an answer in a window whose last turns are read again by the next
one, or a reply that later prompts render differently (a thought that is dropped).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deltamem_agents.errors import ConfigError

NOTHING = -100  # the label of a token from which nothing is learnt


@dataclass(frozen=True)
class EpisodeConfig:
    """How a conversation becomes an episode.

    Args:
        window: most visible tokens while it is read; `context_window` of `load_engine`, with the
            same default.
        low_water: as `load_engine`'s.
        visible: "turn": an answer sees its own turn and the memory (the paper's episode);
            "window": it sees what serving would show, and only what left the window is memory.
        questions: most answers that are learnt from, the last ones (see `Chat.answers`).
        thinking: the template's `enable_thinking`; None leaves it to the template.
        teacher: also lay out the whole conversation for a teacher that sees all of it.

    Raises:
        ConfigError: a value breaks its rule.
    """

    window: int | None = None
    low_water: int | None = None
    visible: Literal["turn", "window"] = "turn"
    questions: int = 4
    thinking: bool | None = None
    teacher: bool = False

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ConfigError(
                "questions is at least 1", got=self.questions, remedy="Pass 1 or more."
            )
        if self.visible not in ("turn", "window"):
            raise ConfigError(
                'visible is "turn" or "window"', got=self.visible, remedy='Leave it out for "turn".'
            )


@dataclass(frozen=True)
class Window:
    """What is seen together, token by token.

    Args:
        ids: token ids.
        writes: whether each is written.
        labels: the id that is to follow each, or `NOTHING`.
        weights: weight of each label.
        answers: for each label the index of its message, else -1.
        ends: where each message ends.
        commits: whether the memory after it goes on.
    """

    ids: tuple[int, ...]
    writes: tuple[bool, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    answers: tuple[int, ...]
    ends: tuple[int, ...]
    commits: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def asks(self) -> bool:
        """Whether something is learnt from it."""
        return any(label != NOTHING for label in self.labels)


@dataclass(frozen=True)
class Episode:
    """A conversation ready for training.

    Args:
        windows: in reading order.
        whole: for a teacher: the same answers, the whole conversation in view.
        name: where it comes from.
    """

    windows: tuple[Window, ...]
    whole: tuple[Window, ...] = ()
    name: str = ""
