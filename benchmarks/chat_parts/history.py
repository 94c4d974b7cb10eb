"""Time to the first token of a follow-up turn, by the length of the history."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from chat_parts.models import WINDOW, plain
from chat_parts.timing import best
from transformers import DynamicCache

from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.history import read_history
from deltamem_agents.runtime.sampling import Sampler

RESULTS = Path(__file__).parents[1] / "results"


class _EnoughError(Exception):
    """The first token is there."""


def first_token(engine: Engine, state: Any, talk: list[dict[str, Any]]) -> None:
    """Answer up to the choice of the first token; the live session stays as it was."""

    def choose(*_: Any) -> int:
        raise _EnoughError

    kept, Sampler.choose = Sampler.choose, choose  # type: ignore[method-assign]
    try:
        list(engine.generate(state, talk))
    except _EnoughError:
        return
    finally:
        Sampler.choose = kept  # type: ignore[method-assign]
    raise AssertionError("no token was chosen")


def lived(engine: Engine, talk: list[dict[str, Any]], window: int) -> Any:
    """A memory whose window is full of the newest turns, with a live session; see above."""
    visible, size = 0, 0
    while visible < len(talk):
        size += engine.count_tokens(talk[len(talk) - visible - 2 :][:2], generate=False)
        if size > window - 64:  # the question and its generation prompt fit too
            break
        visible += 2
    gone = talk[: len(talk) - visible]
    read = engine.read(None, talk[len(gone) :])
    session = engine.live.take(read)
    assert session is not None
    session.history = read_history(talk)[1]
    ledger = replace(
        read.ledger, evicted=session.history.rolled[len(gone)], evicted_count=len(gone)
    )
    state = replace(read, ledger=ledger)
    engine.live.put(state, session)
    return state


def filled(model: Any, length: int) -> DynamicCache:
    """A plain cache of a length."""
    config = model.config
    shape = (1, config.num_key_value_heads, length, config.head_dim)
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(shape), torch.randn(shape), layer)
    return cache


def follow_ups(engine: Engine, name: str, longest: int, rounds: int) -> list[dict[str, float]]:
    """Time to the first token of a follow-up turn, both sides live."""
    model, points, window = plain(engine), [], WINDOW[name]
    filler = "The harbour was quiet and the boats came home one by one before the rain. "
    pair = [
        {"role": "user", "content": filler * (4 if name == "builtin" else 1)},
        {"role": "assistant", "content": "I see."},
    ]
    size = engine.count_tokens(pair, generate=False)
    question = {"role": "user", "content": "What did I say last?"}
    ids = [t for p in engine.template.render([question], generate=True) for t in p.ids]
    tokens = torch.tensor([ids])
    print(f"\n{name}, window of {window}, question of {len(ids)} tokens; milliseconds\n\n"
          "| tokens of history | engine, clock | engine, processor | plain, clock "
          "| plain, processor | clock ratio | processor ratio |\n|---|---|---|---|---|---|---|",
          flush=True)  # fmt: skip
    length = 1024
    while length <= longest:
        talk = [dict(message) for _ in range(length // size) for message in pair]
        state, cache = lived(engine, talk, window), filled(model, length)
        follow_up = [*talk, question]

        @torch.inference_mode()
        def theirs(cache: DynamicCache = cache) -> None:
            out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            int(out.logits[0, -1].argmax())
            cache.crop(-len(ids))

        one, other = best(rounds, lambda s=state, t=follow_up: first_token(engine, s, t), theirs)
        clock = {"engine by the clock": one.wall, "plain by the clock": other.wall}
        points.append({"tokens": length, "engine": one.cpu, "plain": other.cpu, **clock})
        seconds = (one.wall, one.cpu, other.wall, other.cpu)
        cells = [f"{length:,}", *(f"{1e3 * each:.1f}" for each in seconds)]
        cells += [f"{other.wall / one.wall:.2f}", f"{other.cpu / one.cpu:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        length *= 2
        del state, cache, theirs  # the next ones are twice as large
    return points


def keep(name: str, points: list[dict[str, float]]) -> None:
    """Keep a curve and draw all that are there."""
    from matplotlib.figure import Figure

    file = RESULTS / "chat_history.json"
    curves = json.loads(file.read_text()) if file.exists() else {}
    curves[name] = points
    file.write_text(json.dumps(curves, indent=1) + "\n")
    figure = Figure(figsize=(5.5 * len(curves), 4), layout="constrained")
    for axes, (title, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0],
                                    sorted(curves.items()), strict=True):  # fmt: skip
        for side, style in (("engine", "o-"), ("plain", "s--")):
            axes.plot([p["tokens"] for p in curve], [p[side] * 1e3 for p in curve], style,
                      label={"engine": "engine, window full", "plain": "plain, whole history"}[side])  # fmt: skip  # noqa: E501
        axes.set(
            title=title,
            xlabel="tokens of history",
            ylabel="ms of processor time to the first token",
            ylim=0,
        )
        axes.set_xscale("log", base=2)
        axes.legend()
    figure.savefig(RESULTS / "chat_history.png", dpi=110)
