"""One adapter in one layer: its parameters, and how reads become corrections.

Letters: B batch, T tokens, H state heads, R rank, d hidden width, S = R H, M segments. Everything
here is float32, whatever the backbone's dtype: in bfloat16 the reads are off by up to 0.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.adapter.backbones import Site
from deltamem_agents.adapter.call import CallContext
from deltamem_agents.adapter.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.adapter.segments import add_sums, segment_sums
from deltamem_agents.adapter.store import Undo, WriteRecord
from deltamem_agents.core.scan import delta_scan

NORM_EPS = 1e-6
Gates = tuple[Tensor, Tensor, Tensor]


class DeltaMemory(nn.Module):
    """Parameters of δ-mem in one attention layer; named as in the released adapters.

    Args:
        config: what the adapter computes.
        site: the attention module that it corrects; only read, for shapes and initial values.
    """

    def __init__(self, config: DeltaMemConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.sizes = {name: site.ports[name].width for name in config.corrections}
        width, hidden = config.width, site.hidden
        empty = torch.empty
        self.memory_q_proj = nn.Parameter(empty(width, hidden))
        self.memory_k_proj = nn.Parameter(empty(width, hidden))
        self.memory_v_proj = nn.Parameter(empty(width, hidden))
        self.beta_proj = nn.Parameter(empty(config.gates, hidden))
        self.beta_bias = nn.Parameter(empty(config.gates))
        if not config.couple_lambda:
            self.lambda_proj = nn.Parameter(empty(config.gates, hidden))
            self.lambda_bias = nn.Parameter(empty(config.gates))
        for name, size in self.sizes.items():
            self.register_parameter(f"delta_{name}_proj", nn.Parameter(empty(size, width)))
        if config.o_rmsnorm and "o" in self.sizes:
            self.delta_o_rmsnorm_weight = nn.Parameter(empty(self.sizes["o"]))
        if config.trainable_scale:
            count = len(CORRECTIONS) if config.scale_per == "head" else 1
            self.delta_scale_raw = nn.Parameter(empty(count))
        self.float()
        self._initialise(site)

    @torch.no_grad()
    def _initialise(self, site: Site) -> None:
        for weight in (self.memory_q_proj, self.memory_k_proj, self.memory_v_proj):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.beta_proj.zero_()
        self.beta_bias.fill_(self.config.beta_bias)
        if not self.config.couple_lambda:
            self.lambda_proj.zero_()
            self.lambda_bias.fill_(-self.config.beta_bias)
        for name in self.sizes:
            self._initialise_output(self.output(name), site, name)
        if hasattr(self, "delta_o_rmsnorm_weight"):
            self.delta_o_rmsnorm_weight.fill_(1.0)
        if self.config.trainable_scale:
            share = self.config.scale_init / self.config.scale_max
            share = min(max(share, 1e-4), 1 - 1e-4)
            self.delta_scale_raw.fill_(math.log(share / (1 - share)))

    def _initialise_output(self, weight: Tensor, site: Site, name: str) -> None:
        config = self.config
        if config.init == "random":
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            weight.mul_(config.init_scale)
            return
        weight.zero_()
        if config.init != "zero":
            base = site.weight(name)
            columns = config.rank if config.init == "base_slice" else config.init_width
            columns = min(columns, config.rank, base.shape[1])
            part = F.normalize(base[:, :columns].float(), dim=0, eps=NORM_EPS)
            weight[:, :columns] = (part * config.init_scale).to(weight.device)

    def output(self, name: str) -> nn.Parameter:
        """The projection [out, S] behind one correction."""
        weight: nn.Parameter = self.get_parameter(f"delta_{name}_proj")
        return weight

    def forward(self, hidden: Tensor, context: CallContext, layer: int) -> dict[str, Tensor]:
        """Read, write, and turn the reads into corrections (paper eqs. 4-12).

        Args:
            hidden: input of the attention module, [B, T, d].
            context: the call; its store takes the new state.
            layer: index of the decoder layer.

        Returns:
            for each correction its float32 [B, T, out].
        """
        with torch.autocast(hidden.device.type, enabled=False):
            reads = self._read_and_write(hidden.float(), context, layer)
            return self.corrections(reads)

    def _read_and_write(self, x: Tensor, context: CallContext, layer: int) -> Tensor:
        before = context.initial.get(layer)
        if before is None:
            before = context.store.get(layer, x.shape[0], x.device)
            context.initial[layer] = before
        q, k, v, beta, keep = self.project(x)
        if not context.write or context.segment_ids is not None:
            reads = torch.einsum("bhij,bthj->bthi", before, q)
            if context.token_mask is not None:
                reads = reads * context.token_mask[:, :, None, None]
            if context.segment_ids is not None:
                self._write_segments(x, before, context, layer)
            else:
                self._settle(context, layer, before, before, x.shape[1])
            return reads
        gates = self._gates(beta, keep, context.write_mask)
        reads, after = delta_scan(q, k, v, *gates, before, context.token_mask)
        undo = None
        if context.store.recording_past and not context.sealed:
            mask = context.token_mask

            def replay(n: int) -> tuple[Tensor, None]:
                first = [part[:, :n].contiguous() for part in (q, k, v, *gates)]
                return _state_after(first, before, None if mask is None else mask[:, :n]), None

            undo = Undo(x.shape[1], before, None, replay)
        if context.record and not context.sealed:
            context.store.records.append(WriteRecord(layer, beta, keep, _written(beta, context)))
        if not context.sealed:
            context.store.put(layer, after, undo)
        return reads

    def _settle(
        self, context: CallContext, layer: int, before: Tensor, after: Tensor, length: int
    ) -> None:
        """Keep a state that this call did not change, so that the memory knows its batch."""
        if context.sealed:
            return
        sums = context.store.sums.get(layer)
        undo = None
        if context.store.recording_past:
            undo = Undo(length, before, sums, lambda _: (before, sums))
        context.store.put(layer, after, undo)

    def _write_segments(self, x: Tensor, before: Tensor, context: CallContext, layer: int) -> None:
        store, ids = context.store, context.segment_ids
        assert ids is not None
        open_sums = store.sums.get(layer)

        def write(n: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
            sums = add_sums(open_sums, segment_sums(x[:, :n], ids[:, :n]))
            if not context.closes:
                return before, sums
            return self.write_means(sums, before, context, layer), None

        after, sums = write(x.shape[1])
        if context.sealed:
            return
        undo = Undo(x.shape[1], before, open_sums, write) if store.recording_past else None
        store.put(layer, after, undo)
        if sums is None:
            store.sums.pop(layer, None)
        else:
            store.sums[layer] = sums

    def write_means(
        self,
        sums: tuple[Tensor, Tensor],
        before: Tensor,
        context: CallContext | None,
        layer: int,
    ) -> Tensor:
        """Write one mean a segment (eqs. 14-15), in the order of the segments' numbers.

        Args:
            sums: hidden states summed by segment [B, M, d], and their count [B, M]; a segment
                without tokens is not written.
            before: state [B, H, R, R].
            context: the call, for its records.
            layer: index of the decoder layer.
        """
        total, count = sums
        if total.shape[1] == 0:
            return before
        present = count > 0
        q, k, v, beta, keep = self.project(total / count.clamp_min(1)[..., None])
        after: Tensor = delta_scan(q, k, v, *self._gates(beta, keep, None), before, present)[1]
        if context is not None and context.record and not context.sealed:
            context.store.records.append(WriteRecord(layer, beta, keep, present))
        return after

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Memory queries, keys, values and gates of hidden states (eqs. 4-5).

        Args:
            x: float32 [B, T, d].

        Returns:
            q, k, v, beta, keep, each [B, T, H, R].
        """
        config = self.config
        heads, width = config.heads, config.width
        y = F.linear(x, self._in_weight())
        qk = _split(y[..., : 2 * width], 2 * heads)
        if config.normalize_qk:
            qk = F.normalize(torch.tanh(qk), dim=-1, eps=NORM_EPS)
        q, k = qk[..., :heads, :], qk[..., heads:, :]
        v = _split(y[..., 2 * width : 3 * width], heads)
        gates = torch.sigmoid(y[..., 3 * width :] + self._gate_bias())
        beta = self._rows(gates[..., : config.gates])
        if config.update == "no_lambda":
            keep = torch.ones_like(beta)
        elif config.couple_lambda:
            keep = 1 - beta
        else:
            keep = self._rows(gates[..., config.gates :])
        return q, k, v, beta, keep

    def _rows(self, gates: Tensor) -> Tensor:
        """[B, T, gates] as one gate a row of each state, [B, T, H, R]."""
        by_head = _split(gates, self.config.heads)
        return by_head.expand(*by_head.shape[:-1], self.config.rank)

    def _gates(self, beta: Tensor, keep: Tensor, write_mask: Tensor | None) -> Gates:
        erase = keep * beta if self.config.update == "lambda_outside" else beta
        write = beta
        if write_mask is not None:  # a token that does not write leaves the state as it is
            here = write_mask[:, :, None, None]
            keep = torch.where(here, keep, 1.0)
            erase = torch.where(here, erase, 0.0)
            write = torch.where(here, write, 0.0)
        return keep, erase, write

    def _in_weight(self) -> Tensor:
        parts = [self.memory_q_proj, self.memory_k_proj, self.memory_v_proj, self.beta_proj]
        if not self.config.couple_lambda:
            parts.append(self.lambda_proj)
        return torch.cat([part.float() for part in parts])

    def _gate_bias(self) -> Tensor:
        if self.config.couple_lambda:
            return self.beta_bias.float()
        return torch.cat([self.beta_bias.float(), self.lambda_bias.float()])

    def corrections(self, reads: Tensor) -> dict[str, Tensor]:
        """Corrections of the projections (eqs. 7-9).

        Args:
            reads: float32 [B, T, H, R].
        """
        flat = reads.flatten(-2)
        weight = torch.cat([self.output(name).float() for name in self.sizes])
        packed = F.linear(flat, weight) * (self.config.alpha / self.config.rank)
        parts = dict(
            zip(self.sizes, torch.split(packed, list(self.sizes.values()), -1), strict=True)
        )
        if self.config.trainable_scale:
            factors = torch.sigmoid(self.delta_scale_raw.float()) * self.config.scale_max
            by_head = self.config.scale_per == "head"
            parts = {
                name: part * factors[CORRECTIONS.index(name) if by_head else 0]
                for name, part in parts.items()
            }
        if hasattr(self, "delta_o_rmsnorm_weight"):
            parts["o"] = F.rms_norm(
                parts["o"],
                (parts["o"].shape[-1],),
                self.delta_o_rmsnorm_weight.float(),
                self.config.o_rmsnorm_eps,
            )
        return parts


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads R] as [B, T, heads, R]."""
    return x.view(*x.shape[:-1], heads, -1)


def _state_after(parts: list[Tensor], state: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v, keep, erase, write = parts
    return delta_scan(q, k, v, keep, erase, write, state, mask)[1]


def _written(beta: Tensor, context: CallContext) -> Tensor:
    written = torch.ones(beta.shape[:2], dtype=torch.bool, device=beta.device)
    for mask in (context.token_mask, context.write_mask):
        if mask is not None:
            written = written & mask
    return written
