"""What is in the air in this thread while a model runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deltamem_agents.adapter.corrections import Correction

if TYPE_CHECKING:
    from deltamem_agents.adapter.call import CallContext, MemoryCall
    from deltamem_agents.adapter.generation import Generation


class _Flight(threading.local):
    """Set and cleared by those who stand in place of `generate` and of the forwards.

    Attributes:
        generation: the `generate` that is running.
        given: what the running forward of the whole model was told.
        flown: decoder calls of that forward which have run; they land when all of it has. None
            where the decoder was called by itself.
        call: of the running decoder, for families whose layers do not pass keywords on. Dropped
            when the forward ends, as it would hold the autograd graph.
        corrections: of the running attention. Attention modules do not nest, so one slot is enough.
    """

    def __init__(self) -> None:  # once in each thread; a compiler asks what is there before a call
        self.generation: Generation | None = None
        self.given: MemoryCall | None = None
        self.flown: list[CallContext] | None = None
        self.call: CallContext | None = None
        self.corrections: Mapping[str, Correction] | None = None


FLIGHT = _Flight()
