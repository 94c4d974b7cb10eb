"""Whether the memory's own signals help the router: `python benchmarks/router_signals.py`.

Three signals of a question, read off the δ-mem state before the first token of the reply:

| signal | meaning |
|---|---|
| novelty | mean over the question's tokens, layers and heads of norm(v - S k) / norm(v) |
| norm | mean of norm(S q) / norm(q): how much the state has to say |
| margin | probability of the likeliest first token minus that of the second |

Conversations of the mixed set with another seed than the published ones. Each question is answered
in four ways: by the store's best fact, by the memory, by the memory with the facts at hand, and by
saying that it was not told. The routing's regression is fitted on which of them is right, with and
without the signals, cross-validated by conversation; what counts is the share of right answers of
the routes that it chooses for conversations that it has not seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.core.step import unpack
from deltamem_agents.evaluation.baselines.routed import NOT_TOLD, Routed
from deltamem_agents.evaluation.frame import Episode, Question, Reply
from deltamem_agents.evaluation.likelihood import _drive
from deltamem_agents.evaluation.subjects import MEMORIES, FromMemory, Reader
from deltamem_agents.evaluation.tasks.mixed import Mixed
from deltamem_agents.evaluation.tasks.recall import UNKNOWN
from deltamem_agents.evaluation.tasks.router_fit import Array, newton, softmax
from deltamem_agents.router.policy import ROUTES, inputs_of
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.turn import Request, Turn

SIGNALS = ("novelty", "norm", "margin")


@contextmanager
def watched(seen: dict[int, list[Any]]) -> Iterator[None]:
    """Notes novelty and norm of each token that a layer sees: layer -> [T, 2] a call."""
    plain = DeltaMemory._forward

    def forward(self: DeltaMemory, hidden: Any, context: Any, layer: int) -> Any:
        state = context.store.get(layer, hidden.shape[0], hidden.device)  # [B, H, R, R]
        q, k, v, *_ = unpack(self.project(hidden.float()), self.rule)  # [B, T, H, R]
        known = torch.einsum("bhij,bthj->bthi", state, k)
        said = torch.einsum("bhij,bthj->bthi", state, q)
        novelty = (v - known).norm(dim=-1) / v.norm(dim=-1).clamp_min(1e-6)
        norm = said.norm(dim=-1) / q.norm(dim=-1).clamp_min(1e-6)
        both = torch.stack([novelty.mean(-1), norm.mean(-1)], -1)[0]
        seen.setdefault(layer, []).append(both)
        return plain(self, hidden, context, layer)

    DeltaMemory._forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeltaMemory._forward = plain  # type: ignore[method-assign]


def signals(reader: Reader, episode: Episode, text: str) -> tuple[float, float, float]:
    """The signals of a question after an episode, in the order of `SIGNALS`."""
    memory, _ = reader.read(episode)
    asked = [*episode.told, {"role": "user", "content": text}]
    turn = Turn(reader.engine, Request(memory, asked))
    seen: dict[int, list[Any]] = {}
    found: list[float] = []

    def steps() -> Any:
        try:
            yield from turn.advance(generate=True)
            pinned, parts = turn.render(turn.first, len(turn.items), generate=True)
            prompt = parts.pop()
            logits = yield from turn.session.sync(pinned, parts, prompt)
            assert logits is not None
            high = torch.softmax(logits.float(), -1).topk(2).values
            length = len(prompt.ids)
            rows = [torch.cat(calls)[-length:].mean(0) for calls in seen.values()]
            found.extend(torch.stack(rows).mean(0).tolist())
            found.append(float(high[0] - high[1]))
        finally:
            turn.abandon()

    with watched(seen), torch.inference_mode():
        _drive(reader.engine, steps())
    return found[0], found[1], found[2]


def right(task: Mixed, held: Any, question: Question, text: str) -> float:
    """Whether an answer is right, as the mixed set scores it."""
    return task.score(held, question, Reply(text))["right"]


def gather(task: Mixed, reader: Reader) -> tuple[Array, Array, Array, list[str]]:
    """Inputs without signals, signals, right answers by route; and each question's episode."""
    memory = FromMemory("memory", "memory", reader, MEMORIES["memory"][1])
    both: Any = Routed("both", "both", memory)
    plain, extra, answered, groups = [], [], [], []
    for episode in task.episodes():
        with both.hold(episode, episode) as held:
            for question in episode.questions:
                decision = held.router.probe(question.text, held.scope)
                alone = right(task, held, question, held.memory.ask(question, task.max_tokens).text)
                asked = held.ask(question, task.max_tokens).text
                helped = right(task, held, question, asked) if decision.route == "both" else alone
                best = decision.best.value if decision.best is not None else ""
                told = not question.group.endswith(UNKNOWN)
                by = {
                    "exact": right(task, held, question, best) if told and best else 0.0,
                    "neural": alone,
                    "both": helped,
                    "abstain": right(task, held, question, NOT_TOLD),
                }
                plain.append(list(inputs_of(decision.features).values()))
                extra.append(signals(reader, episode, question.text))
                answered.append([by[route] for route in ROUTES])
                groups.append(episode.name)
    return np.asarray(plain), np.asarray(extra), np.asarray(answered), groups


def chosen(given: Array, answered: Array, groups: list[str], folds: int, penalty: float) -> Array:
    """Whether the route that is chosen for each question answers right, cross-validated."""
    names = sorted(set(groups))
    fold = np.asarray([names.index(name) % folds for name in groups])
    order = [ROUTES.index(route) for route in ("exact", "neural", "both", "abstain")]
    goal = np.zeros_like(answered)
    for row, rights in enumerate(answered):
        goal[row, next((place for place in order if rights[place]), ROUTES.index("neural"))] = 1.0
    result = np.zeros(len(given))
    for number in range(folds):
        held = fold == number
        mean, spread = given[~held].mean(0), given[~held].std(0)
        spread[spread == 0] = 1.0
        scaled = np.concatenate([(given - mean) / spread, np.ones((len(given), 1))], axis=1)
        weights = newton(scaled[~held], goal[~held], penalty)
        routes = softmax(scaled[held] @ weights).argmax(axis=1)
        result[held] = answered[held][np.arange(held.sum()), routes]
    return result


def interval(values: Array, groups: list[str], rounds: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, drawn by conversation."""
    names = sorted(set(groups))
    rows = [np.asarray([at for at, group in enumerate(groups) if group == n]) for n in names]
    draw = np.random.default_rng(0)
    means = []
    for _ in range(rounds):
        picked = np.concatenate([rows[n] for n in draw.integers(0, len(rows), len(rows))])
        means.append(values[picked].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=25, help="conversations of each setting")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--penalty", type=float, default=3.0)
    given = parser.parse_args()
    reader = Reader(load_engine(context_window=256))
    task = Mixed(reader, count=given.count, seed=given.seed)
    plain, extra, answered, groups = gather(task, reader)
    print(f"{len(plain)} questions of {len(set(groups))} conversations, seed {given.seed}")
    for place, route in enumerate(ROUTES):
        print(f"always {route}: {answered[:, place].mean():.3f}")
    print(f"the best of the four: {answered.max(axis=1).mean():.3f}")
    bare = chosen(plain, answered, groups, given.folds, given.penalty)
    print(f"fitted without signals: {bare.mean():.3f} {interval(bare, groups)}")
    sets = [*([n] for n in range(3)), [0, 1, 2]]
    for some in sets:
        more = np.concatenate([plain, extra[:, some]], axis=1)
        found = chosen(more, answered, groups, given.folds, given.penalty)
        low, high = interval(found - bare, groups)
        name = " + ".join(SIGNALS[n] for n in some)
        gain = (found - bare).mean()
        print(f"with {name}: {found.mean():.3f}, difference {gain:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
