"""One decode step of the memory on a CPU, in one native call.

At one token a layer the arithmetic is nothing and the dispatch of a dozen torch operations is
everything, so what lies between the two matrix products (squashing, norms, gates, read, write) is
one compiled function, called through ctypes with raw addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from deltamem_agents.adapter.config import DeltaMemConfig

NativeStep = Callable[[int, int, int, int, int, int, int, int, float], None]

# Bits of the last argument of a step; step_kernel reads them.
NORMALIZE, RANKWISE, COUPLED, KEEP_ALL, LAMBDA_OUTSIDE = 1, 2, 4, 8, 16


@cache
def native_step() -> NativeStep | None:
    """The compiled step, or None where Numba is missing.

    It takes four addresses of contiguous float32 arrays: y [B, 3 S + gates], the projections and
    gate logits with their bias, which it uses up; the state before [B, H, R, R]; the reads [B, S]
    and the state after, which it fills; then B, H, R, the option bits of the configuration and the
    factor on the reads. Other threads may run meanwhile.
    """
    if find_spec("numba") is None:
        return None
    from deltamem_agents.adapter.step_kernel import compile_step

    compiled: NativeStep = compile_step()
    return compiled


def options(config: DeltaMemConfig) -> int:
    """The option bits of a configuration."""
    flags = (
        (NORMALIZE, config.normalize_qk),
        (RANKWISE, config.rankwise_gates),
        (COUPLED, config.couple_lambda),
        (KEEP_ALL, config.update == "no_lambda"),
        (LAMBDA_OUTSIDE, config.update == "lambda_outside"),
    )
    return sum(bit for bit, on in flags if on)
