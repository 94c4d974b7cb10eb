"""How hard the conversations are, and when they become harder.

A curriculum by time fails: if the memory has not learnt to hold two facts, eight teach nothing.
So a level is left only when its questions are answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem_agents.training.instructions import Instruction, Instructor, Tool
from deltamem_agents.training.rows import Rows, Tokeniser
from deltamem_agents.training.subjects import Subject
from deltamem_agents.training.world import Turn, World


@dataclass(frozen=True)
class Level:
    """One difficulty.

    Args:
        facts: fewest and most subjects told in a conversation.
        chats: most chat turns among them.
        questions: most questions asked at the end.
        tail: most chat turns between what was told and the questions, in a third of the
            conversations.
    """

    facts: tuple[int, int]
    chats: int
    questions: int
    tail: int = 0


LEVELS = (
    Level((1, 2), 1, 3),
    Level((1, 3), 3, 4),
    Level((1, 4), 5, 5, tail=10),
    Level((1, 6), 8, 6, tail=16),
    Level((2, 8), 10, 8, tail=24),
    Level((2, 12), 12, 10, tail=32),
    Level((3, 16), 12, 12, tail=40),
)
DRILLED = 3  # questions in a task of a drill


class Curriculum:
    """Draws batches at the current level and moves up when a running accuracy passes a mark.

    Args:
        world: where conversations come from.
        tokeniser: makes rows of them.
        tokens: tokens in a batch, about.
        promote: the running accuracy of answers at which the level is left.
        level: where to start, from 0.
        patience: least number of batches on a level.
        alike: see `World.history`.
        instructed: share of the conversations that have a system prompt.
        unknown: see `World.questions`.
        updates: see `World.history`.
        thorough: see `Instructor`.
    """

    def __init__(
        self,
        world: World,
        tokeniser: Tokeniser,
        *,
        tokens: int = 4000,
        promote: float = 0.8,
        level: int = 0,
        patience: int = 40,
        alike: float = 0.4,
        instructed: float = 0.0,
        unknown: float = 0.25,
        updates: float = 0.15,
        thorough: bool = False,
    ) -> None:
        self.world, self.tokeniser, self.tokens = world, tokeniser, tokens
        self.promote, self.level, self.patience = promote, level, patience
        self.alike, self.instructed = alike, instructed
        self.unknown, self.updates = unknown, updates
        self.instructor = Instructor(
            world.random, world.split, thorough=thorough, unheard=world.unheard
        )
        self.since = 0
        self.accuracy = 0.0

    def batch(self, *, memory: bool) -> Rows:
        """Draw a batch; without memory each conversation is one block, all of it visible."""
        chosen = self._drawn(lambda: self._conversation(memory))
        choose = self.world.random.choice
        blocks = [choose((1, 1, 1, 2, 3, 5)) if memory else len(turns) for turns in chosen]
        return self.tokeniser.rows(chosen, blocks)

    def drill(self) -> Rows:
        """Draw a batch of small tasks under system prompts, each alone with its prompt.

        In a task something is told, then it, or something else, or a tool is asked for. So a
        sentence or a value is to be copied every fifty tokens or less, from near, where a whole
        conversation asks for it once in hundreds.
        """
        chosen = self._drawn(self._tasks)
        return self.tokeniser.rows(chosen, [1 + DRILLED] * len(chosen))

    def _tasks(self) -> list[Turn | Instruction]:
        random, world = self.world.random, self.world
        # Prompts that list tools are long, so few of them do.
        instruction = self.instructor.instruction(random.choice((0, 0, 0, 0, 0, 1, 1, 2)))
        turns: list[Turn | Instruction] = [instruction]
        for _ in range(random.randint(1, 2)):
            told = [(s, world.value(s)) for s in world.draw_subjects(random.choice((1, 1, 2)))]
            turns.append(world.facts(told))
            turns += [self._asked(instruction, told) for _ in range(DRILLED)]
        return turns

    def _asked(self, instruction: Instruction, told: Sequence[tuple[Subject, str]]) -> Turn:
        random, world = self.world.random, self.world
        if instruction.tools and random.random() < 0.65:
            return self._requested(instruction, random.choice(instruction.tools))
        question = world.question(*random.choice(told))
        if random.random() < 0.5:
            question = world.question(world.unknown([s for s, _ in told]), None)
        return instruction.obeyed(question)

    def _requested(self, instruction: Instruction, tool: Tool) -> Turn:
        return self.instructor.turn(tool, alone=len(instruction.tools) == 1)

    def _drawn(
        self, draw: Callable[[], list[Turn | Instruction]]
    ) -> list[list[Turn | Instruction]]:
        """Conversations of a batch, of like length, so that little of it is padding."""
        random = self.world.random
        pool: list[tuple[float, list[Turn | Instruction]]] = []
        while sum(size for size, _ in pool) < 6 * self.tokens:
            turns = draw()
            pool.append((_length(turns), turns))
        pool.sort(key=lambda entry: entry[0])
        start, total, chosen = random.randrange(len(pool)), 0.0, []
        while pool and total < self.tokens:
            size, turns = pool.pop(min(start, len(pool) - 1))
            chosen.append(turns)
            total += size
        return chosen

    def _conversation(self, memory: bool) -> list[Turn | Instruction]:
        level, random = LEVELS[self.level], self.world.random
        low, high = level.facts
        count = random.randint(low, high if memory else max(high, 3))
        turns, truth = self.world.history(
            count, random.randint(0, level.chats), alike=self.alike, updates=self.updates
        )
        if memory and level.tail and random.random() < 0.33:
            turns += [self.world.chat() for _ in range(random.randint(2, level.tail))]
        asked = min(count + 1, level.questions)
        asking = list(itertools.islice(self.world.questions(truth, self.unknown), asked))
        if random.random() >= self.instructed:
            return [*turns, *asking]
        instruction = self.instructor.instruction(random.choice((0, 0, 1, 2)))
        for tool in instruction.tools[:1] * random.choice((1, 2)):
            asking.insert(random.randint(0, len(asking)), self._requested(instruction, tool))
        return [instruction, *turns, *map(instruction.obeyed, asking)]

    def report(self, accuracy: float | None) -> bool:
        """Take a batch's accuracy of answers; True if the level has just been left."""
        self.since += 1
        if accuracy is None:
            return False
        self.accuracy += 0.05 * (accuracy - self.accuracy)
        last = self.level == len(LEVELS) - 1
        if last or self.since < self.patience or self.accuracy < self.promote:
            return False
        self.level, self.since, self.accuracy = self.level + 1, 0, 0.5 * self.promote
        return True

    def state(self) -> dict[str, Any]:
        """What is needed to go on exactly here, as JSON values."""
        version, numbers, gauss = self.world.random.getstate()
        return {
            "level": self.level, "since": self.since, "accuracy": self.accuracy,
            "random": [version, list(numbers), gauss],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.level, self.since = state["level"], state["since"]
        self.accuracy = state["accuracy"]
        version, numbers, gauss = state["random"]
        self.world.random.setstate((version, tuple(numbers), gauss))


def _length(turns: Sequence[Turn | Instruction]) -> float:
    """Tokens of a conversation, about: four characters a token and the template's own."""
    return sum(
        sum(len(m.get("content", "")) / 4.5 + 6 for m in turn.messages())
        + (90 + 50 * len(turn.tools) if isinstance(turn, Instruction) and turn.tools else 0)
        for turn in turns
    )
