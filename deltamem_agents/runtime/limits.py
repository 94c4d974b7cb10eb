"""How many tokens a model can see, and how many of them are served as the window."""

from __future__ import annotations

from typing import Any

from deltamem_agents.errors import ConfigError

_WIDEST_WINDOW = 32768


def positions_of(model: Any) -> int:
    """How many tokens a model can see at once."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if positions := getattr(config, name, None):
            return int(positions)
    return _WIDEST_WINDOW


def window_of(window: int | None, positions: int) -> int:
    """The window that is served where `window` was asked for, in tokens.

    Raises:
        ConfigError: it leaves no room for a reply.
    """
    if window is None:
        return min(positions // 2, _WIDEST_WINDOW)
    if not 1 <= window < positions:
        raise ConfigError(
            f"context_window is at least 1 and below the model's {positions} positions",
            got=window,
            remedy="Leave room for the reply.",
        )
    return window


def low_water_of(low_water: int | None, window: int) -> int:
    """The low-water mark that is served where `low_water` was asked for, in tokens.

    Raises:
        ConfigError: it is not within the window.
    """
    if low_water is None:
        return window // 2
    if not 0 <= low_water <= window:
        raise ConfigError(
            f"low_water is between 0 and context_window={window}",
            got=low_water,
            remedy="Leave it out for half.",
        )
    return low_water
