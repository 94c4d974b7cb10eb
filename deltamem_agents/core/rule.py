"""One step of the delta rule, as the paper writes it: the specification of everything faster.

Letters: B batch, H state heads, R rank. State S is [B, H, R, R]; row i of S predicts value i.
"""

from __future__ import annotations

from torch import Tensor


def read(state: Tensor, query: Tensor) -> Tensor:
    """Read the memory: r = S q (equation 6; and equation 1, the prediction, with a key).

    Args:
        state: [B, H, R, R].
        query: [B, H, R].

    Returns:
        [B, H, R].
    """
    return (state @ query.unsqueeze(-1)).squeeze(-1)


def update(
    state: Tensor, key: Tensor, value: Tensor, keep: Tensor, erase: Tensor, write: Tensor
) -> Tensor:
    """Write one association (equation 12, with a gate of its own for each of its three terms).

    Row i becomes `keep_i s_i - erase_i (s_i . k) k + write_i v_i k`. The paper's coupled rule is
    keep = 1 - beta, erase = write = beta.

    Args:
        state: [B, H, R, R].
        key: [B, H, R].
        value: [B, H, R], one entry a row, as the gates.
        keep: [B, H, R].
        erase: [B, H, R].
        write: [B, H, R].

    Returns:
        The state after the write, [B, H, R, R]; the one given is left alone.
    """
    change = write * value - erase * read(state, key)
    return keep.unsqueeze(-1) * state + change.unsqueeze(-1) * key.unsqueeze(-2)
