"""Parameters of a call, each of its type and within what can be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from deltamem_agents.chat.errors import ChatRequestError
from deltamem_agents.runtime.sampling import Sampling

_FURTHEST = 1e10  # beyond, and below its inverse, scores are infinite or no numbers at all
_OWN = "leave it out for the model's own"


def read_sampling(values: Mapping[str, Any]) -> Sampling:
    """Read how tokens are chosen.

    Raises:
        ChatRequestError: a value is of another type or out of reach.
        ConfigError: a value breaks its rule.
    """
    temperature = number("temperature", values["temperature"])
    penalty = number("repetition_penalty", values["repetition_penalty"])
    for name, value in (("temperature", temperature), ("repetition_penalty", penalty)):
        if value > 0 and not 1 / _FURTHEST <= value <= _FURTHEST:
            raise ChatRequestError(
                f"{name} lies between {1 / _FURTHEST:g} and {_FURTHEST:g}",
                got=value,
                remedy="Pass temperature=0 for greedy decoding, or something around 1.",
            )
    seed = None if values["seed"] is None else integer("seed", values["seed"])
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise ChatRequestError(
            "seed has 64 bits", got=seed, remedy="Pass a smaller number, such as seed % 2**63."
        )
    limit = values["max_tokens"]
    return Sampling(
        temperature=temperature,
        top_p=number("top_p", values["top_p"]),
        top_k=min(integer("top_k", values["top_k"]), 2**31),
        repetition_penalty=penalty,
        seed=seed,
        max_tokens=None if limit is None else integer("max_tokens", limit),
    )


def number(name: str, value: Any) -> float:
    """Read a number.

    Raises:
        ChatRequestError: it is none, or not finite.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
    raise ChatRequestError(
        f"{name} is a finite number", got=value, remedy=f"Pass for example {name}=1.0, or {_OWN}."
    )


def integer(name: str, value: Any) -> int:
    """Read a whole number.

    Raises:
        ChatRequestError: it is none.
    """
    if not isinstance(value, bool) and isinstance(value, Integral):
        return int(value)
    raise ChatRequestError(
        f"{name} is a whole number", got=value, remedy=f"Pass for example {name}=100, or {_OWN}."
    )


def switch(name: str, value: Any) -> bool | None:
    """Read something that is on, off, or left open.

    Raises:
        ChatRequestError: it is none of them.
    """
    if value is None or isinstance(value, bool):
        return value
    raise ChatRequestError(
        f"{name} is True, False or None", got=value, remedy=f"Pass one of them, or {_OWN}."
    )


def check_text(*texts: str) -> None:
    """Refuse what no tokenizer, digest or store takes: halves of a UTF-16 pair on their own.

    Raises:
        ChatRequestError: a text has one.
    """
    for text in texts:
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ChatRequestError(
                "text is Unicode without lone surrogates",
                got=f"{text[error.start : error.end]!a} at character {error.start}",
                remedy="Read it with errors='replace', or text.encode(errors='replace').decode().",
            ) from error
