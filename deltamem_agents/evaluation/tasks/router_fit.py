"""Fits the router's weights: `python -m deltamem_agents.evaluation.tasks.router_fit`.

A softmax regression with an L2 penalty on the features of generated questions, "dev" phrasings
only, by Newton's method; then one temperature on threads of their own, so that the probabilities
say how often they are right. The phrasings fall into folds, and each fold is read by readers that
were fitted on the others: the weights are to learn how far the readers can be trusted on words that
they have not seen. Takes two minutes on one core and gives the same file for the same seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deltamem_agents.evaluation.tasks.router import Outcome, evaluate_router
from deltamem_agents.evaluation.tasks.router_asking_fit import filled
from deltamem_agents.evaluation.tasks.router_reading_fit import fit as fit_readers
from deltamem_agents.evaluation.tasks.router_world import RouterWorld, Split, lists
from deltamem_agents.router.features import Features, features_of
from deltamem_agents.router.policy import ROUTES, inputs_of, undecided
from deltamem_agents.router.reading import models_of, on_trial

TARGET = {
    "exact": "exact",
    "revised": "exact",
    "mixed": "both",
    "absent": "abstain",
    "foreign": "abstain",
    "diffuse": "neural",
}
UNUSED = ("cosine",)  # the weights are for keyword search; with an embedder cosine breaks ties only
Array = np.ndarray[Any, np.dtype[np.float64]]


def fit(
    seed: int = 0, threads: int = 80, penalty: float = 0.3, folds: str = "0123"
) -> dict[str, Any]:
    """Fits and calibrates.

    Args:
        seed: of the threads.
        threads: for the weights; a third as many more for the temperature.
        penalty: of the squared weights.
        folds: whose phrasings; at least two.

    Returns:
        What `weights.json` holds.
    """
    given, wanted, held, truth = _crossed(seed, threads, folds)
    weights = newton(given, wanted, penalty)
    temperature = min(
        np.geomspace(0.25, 4.0, 81), key=lambda t: _loss(held @ weights / float(t), truth)
    )
    names = list(inputs_of(Features()))
    chances = softmax(held @ weights / float(temperature))
    sure = chances.max(axis=1)
    right = chances.argmax(axis=1) == truth.argmax(axis=1)
    return {
        "format": 1,
        "temperature": round(float(temperature), 4),
        "weights": {
            route: {name: round(float(w), 4) for name, w in zip(names, column, strict=True)}
            for route, column in zip(ROUTES, weights.T, strict=True)
        },
        "fitted": {
            "seed": seed,
            "questions": len(given),
            "accuracy on other threads": round(float(right.mean()), 4),
            "expected calibration error": round(_calibration_error(sure, right), 4),
        },
    }


def _crossed(seed: int, threads: int, folds: str) -> tuple[Array, Array, Array, Array]:
    """Inputs and routes for the weights, then for the temperature; each fold read by the others."""
    parts: list[tuple[Array, Array, Array, Array]] = []
    count = threads // len(folds)
    for fold in folds:
        with on_trial(models_of(fit_readers(seed, 4, split=folds.replace(fold, "")))):
            more = _data(seed + 1, max(count // 3, 1), fold)
            parts.append((*_data(seed, count, fold), *more))
    first, second, third, fourth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, third, fourth


def _data(seed: int, threads: int, split: Split) -> tuple[Array, Array]:
    report = evaluate_router(seed=seed, split=split, threads=threads, classifier=undecided())
    outcomes = report.outcomes
    told = [(outcome.decision.features, _target(outcome)) for outcome in outcomes]
    told += [(features_of(text, ()), target) for text, target in _unknown(seed, split, threads)]
    rows = [list(_inputs(found).values()) for found, _ in told]
    goals = [[float(route == target) for route in ROUTES] for _, target in told]
    return np.asarray(rows), np.asarray(goals)


def _unknown(seed: int, split: Split, threads: int) -> Iterator[tuple[str, str]]:
    """Texts on things of which nothing was told: remarks, and what is to be written with them."""
    world = RouterWorld(seed, split)
    for name, target in (("unstated", "neural"), ("mixed", "abstain")):
        known = lists(name, split)
        for number in range(2 * threads):
            yield filled(world, known[number % len(known)]), target


def _inputs(given: Features) -> dict[str, float]:
    found = {**asdict(given), **dict.fromkeys(UNUSED, 0.0)}
    return inputs_of(Features(**found))


def _target(outcome: Outcome) -> str:
    """Where the best found fact is not the truth, answering by it would be wrong."""
    target = TARGET[outcome.query.kind]
    best = outcome.best.value if outcome.best is not None else None
    return "both" if target == "exact" and best != outcome.query.truth else target


def newton(given: Array, wanted: Array, penalty: float) -> Array:
    """Fits a softmax regression: inputs [N, I], routes [N, R] -> weights [I, R]."""
    inputs, routes = given.shape[1], wanted.shape[1]
    weights = np.zeros((inputs, routes))
    for _ in range(30):
        chances = softmax(given @ weights)
        slope = given.T @ (chances - wanted) + penalty * weights
        curve = np.zeros((inputs, routes, inputs, routes))
        for a in range(routes):
            for b in range(routes):
                share = chances[:, a] * (float(a == b) - chances[:, b])
                curve[:, a, :, b] = given.T @ (given * share[:, None])
        flat = curve.reshape(inputs * routes, -1) + penalty * np.eye(inputs * routes)
        step = np.linalg.solve(flat, slope.ravel()).reshape(inputs, routes)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def softmax(scores: Array) -> Array:
    """Shares by row."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _loss(scores: Array, wanted: Array) -> float:
    return float(-np.log(np.maximum(softmax(scores)[wanted > 0], 1e-12)).mean())


def _calibration_error(sure: Array, right: Array, bins: int = 10) -> float:
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        abs(float(sure[place == b].mean()) - float(right[place == b].mean())) * (place == b).mean()
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))


def main() -> None:
    """Writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="deltamem_agents/router/weights.json"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=80)
    given = parser.parse_args()
    fitted = fit(given.seed, given.threads)
    given.out.write_text(json.dumps(fitted, indent=1) + "\n", "utf-8")
    print(json.dumps(fitted["fitted"], indent=1))


if __name__ == "__main__":
    main()
