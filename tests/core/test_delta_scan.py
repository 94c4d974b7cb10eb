"""Every fast form of the scan against the slow truth: reads, final state, seven gradients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltamem_agents.core.reference import delta_scan_reference
from deltamem_agents.core.scan import delta_scan
from deltamem_agents.core.scan_chunked import scan_chunked
from deltamem_agents.errors import StateError

Scan = Callable[..., tuple[Tensor, Tensor]]
NAMES = ("reads", "state", "of q", "of k", "of v", "of keep", "of erase", "of write", "of state")
FORMS = {"door": delta_scan, "chunked": scan_chunked}


def inputs(
    batch: int, tokens: int, heads: int = 1, rank: int = 8, gates: str = "spread", seed: int = 0
) -> list[Tensor]:
    """q, k, v, keep, erase, write and the state before, float32.

    Args:
        gates: "init" as a fresh adapter has them (about .18), "spread" over (0, 1), "shut" (all
            write gates 0, all kept), "open" (nothing kept), "extreme" (exactly 0, exactly 1 and
            the smallest steps beside them, drawn for each gate by itself).
    """
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, tokens, heads, rank)

    def normal() -> Tensor:
        return torch.randn(shape, generator=draw)

    q, k = (torch.nn.functional.normalize(normal().tanh(), dim=-1) for _ in range(2))
    if gates == "extreme":
        ends = torch.tensor([0.0, 1e-38, 1e-7, 0.5, 1 - 6e-8, 1.0])
        three = [ends[torch.randint(6, shape, generator=draw)] for _ in range(3)]
    else:
        beta = {
            "init": torch.sigmoid(normal() * 0.3 - 1.5),
            "spread": torch.sigmoid(normal() * 3),
            "shut": torch.zeros(shape),
            "open": torch.ones(shape),
        }[gates]
        three = [1 - beta, beta, beta.clone()]
    return [q, k, normal(), *three, torch.randn(batch, heads, rank, rank, generator=draw)]


def random_mask(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)) > 0.3


def run(scan: Scan, values: list[Tensor], mask: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """Outputs, and gradients of a random linear function of both outputs."""
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in values]
    reads, state = scan(*leaves, mask)
    draw = torch.Generator().manual_seed(99)
    loss = (reads * torch.randn(reads.shape, generator=draw).to(dtype)).sum()
    loss = loss + (state * torch.randn(state.shape, generator=draw).to(dtype)).sum()
    loss.backward()
    return [reads.detach(), state.detach(), *(_gradient(x) for x in leaves)]


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def assert_equal_to_reference(scan: Scan, values: list[Tensor], mask: Tensor | None) -> None:
    truth = run(delta_scan_reference, values, mask, torch.float64)
    found = run(scan, values, mask, torch.float32)
    assert len(found) == len(truth) == len(NAMES)
    for name, want, got in zip(NAMES, truth, found, strict=True):
        size = float(want.abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(
            got.double(),
            want,
            rtol=0,
            atol=1e-5 * max(1.0, size),
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("gates", ["init", "spread", "shut", "open", "extreme"])
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_the_reference_for_all_gates(form: str, gates: str, masked: bool) -> None:
    mask = random_mask(2, 150) if masked else None
    assert_equal_to_reference(FORMS[form], inputs(2, 150, 2, gates=gates), mask)


@pytest.mark.parametrize("tokens", [0, 1, 2, 15, 16, 17, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_the_reference_at_odd_lengths(form: str, tokens: int) -> None:
    assert_equal_to_reference(FORMS[form], inputs(1, tokens), None)
    assert_equal_to_reference(FORMS[form], inputs(1, tokens, seed=1), random_mask(1, tokens))


@pytest.mark.parametrize(
    ("form", "rank"),
    [("door", 1), ("door", 3), ("door", 16), ("chunked", 1), ("chunked", 5), ("chunked", 20)],
)
def test_equal_to_the_reference_at_other_ranks(form: str, rank: int) -> None:
    assert_equal_to_reference(FORMS[form], inputs(2, 70, 3, rank), random_mask(2, 70))


@pytest.mark.parametrize("scan", [delta_scan_reference, scan_chunked])
def test_the_truth_itself_passes_gradcheck(scan: Scan) -> None:
    values = [x.double().requires_grad_() for x in inputs(2, 5, 2, 3, gates="spread")]
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    assert torch.autograd.gradcheck(lambda *x: scan(*x, mask), values)


def test_chunked_in_fp64_is_exact_where_keep_is_exactly_zero() -> None:
    values = inputs(1, 200, gates="extreme", seed=3)
    truth = run(delta_scan_reference, values, None, torch.float64)
    found = run(scan_chunked, values, None, torch.float64)
    for want, got in zip(truth, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    gates=st.sampled_from(["init", "spread", "extreme"]),
    masked=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_whole_equals_its_parts(
    form: str, lengths: list[int], gates: str, masked: bool, seed: int
) -> None:
    scan, total = FORMS[form], sum(lengths)
    *sequence, state = inputs(2, total, 2, 4, gates, seed)
    mask = random_mask(2, total, seed) if masked else None
    reads, after = scan(*sequence, state, mask)
    start, parts = 0, []
    for length in lengths:
        span = slice(start, start + length)
        piece = None if mask is None else mask[:, span]
        part, state = scan(*(x[:, span] for x in sequence), state, piece)
        parts.append(part)
        start += length
    torch.testing.assert_close(torch.cat(parts, 1), reads, rtol=0, atol=2e-5)
    torch.testing.assert_close(state, after, rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_masked_token_does_nothing_whatever_it_holds(form: str) -> None:
    scan, mask = FORMS[form], random_mask(2, 70)
    *sequence, state = inputs(2, 70, 2)
    reads, after = scan(*sequence, state, mask)
    assert (reads[~mask] == 0).all()
    spoiled = [x.masked_fill(~mask[:, :, None, None], float("nan")) for x in sequence]
    leaves = [x.requires_grad_() for x in (*spoiled, state.clone())]
    reads_again, after_again = scan(*leaves, mask)
    assert torch.equal(reads_again, reads)
    assert torch.equal(after_again, after)
    (reads_again.sum() + after_again.sum()).backward()
    for leaf in leaves[:-1]:
        assert leaf.grad is not None
        assert (leaf.grad[~mask] == 0).all()
        assert leaf.grad[mask].isfinite().all()
    kept_reads, kept_after = scan(*(x[:1, mask[0]] for x in sequence), state[:1])
    torch.testing.assert_close(kept_reads[0], reads[0, mask[0]], rtol=0, atol=1e-5)
    torch.testing.assert_close(kept_after, after[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_batch_and_heads_are_alone(form: str) -> None:
    scan = FORMS[form]
    *sequence, state = inputs(3, 40, 2)
    reads, after = scan(*sequence, state)
    for row in range(3):
        for head in range(2):
            one = [x[row : row + 1, :, head : head + 1] for x in sequence]
            r, s = scan(*one, state[row : row + 1, head : head + 1])
            torch.testing.assert_close(r[0, :, 0], reads[row, :, head], rtol=0, atol=1e-5)
            torch.testing.assert_close(s[0, 0], after[row, head], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_packed_documents_start_anew_where_keep_and_erase_are_zero(form: str) -> None:
    """keep = erase = 0 at a document's last token empties the memory but for that write."""
    scan = FORMS[form]
    *sequence, state = inputs(1, 100)
    for gate in (3, 4, 5):
        sequence[gate][:, 59] = 0.0
    reads, after = scan(*sequence, state)
    alone = scan(*(x[:, 60:] for x in sequence), torch.zeros_like(state))
    torch.testing.assert_close(reads[:, 60:], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(after, alone[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_slices_of_one_projection_and_expanded_gates_are_read_as_they_lie(form: str) -> None:
    scan = FORMS[form]
    packed = torch.randn(2, 33, 3 * 2 * 8)
    q, k, v = (part.unflatten(-1, (2, 8)) for part in packed.split(16, -1))
    beta = torch.rand(2, 33, 2, 1).expand(-1, -1, -1, 8)
    before = torch.randn(2, 8, 2, 8).transpose(1, 2)
    strided = [q * 0.3, k * 0.3, v, 1 - beta, beta, beta, before]
    strided[0], strided[1] = q, k / 8
    assert not q.is_contiguous()
    plain = [x.contiguous() for x in strided]
    for one, other in zip(
        run(scan, strided, None, torch.float32), run(scan, plain, None, torch.float32), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nothing_given_is_changed_and_nothing_returned_is_shared() -> None:
    values = inputs(1, 10)
    copies = [x.clone() for x in values]
    reads, after = delta_scan(*values)
    after.fill_(7.0)
    reads.fill_(7.0)
    assert all(torch.equal(x, y) for x, y in zip(values, copies, strict=True))
    empty = [x[:, :0] for x in values[:-1]]
    _, same = delta_scan(*empty, values[-1])
    same.fill_(7.0)
    assert torch.equal(values[-1], copies[-1])


def test_not_a_number_goes_through_and_stays_in_its_row() -> None:
    *sequence, state = inputs(2, 20)
    sequence[2][1, 5, 0, 3] = float("nan")
    reads, after = delta_scan(*sequence, state)
    assert reads[0].isfinite().all()
    assert reads[1, :6].isfinite().all()
    assert reads[1, 6:, 0, 3].isnan().all()
    assert after[1, 0, 3].isnan().all()


def test_threads_agree_with_one_thread() -> None:
    jobs = [inputs(1, 300 + i, 2, seed=i) for i in range(12)]
    alone = [run(delta_scan, job, None, torch.float32) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: run(delta_scan, job, None, torch.float32), jobs))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_inference_stores_no_history() -> None:
    from deltamem_agents.core import scan_cpu

    values = inputs(1, 640)
    with torch.no_grad():
        kept = scan_cpu._forward(tuple(values), None, checkpoints=False)[2]
    assert kept.numel() == 0
    reads, _ = delta_scan(*(x.requires_grad_() for x in values))
    saved = sum(x.numel() for x in reads.grad_fn.saved_tensors if x is not None)  # type: ignore[union-attr]
    assert saved == 6 * 640 * 8 + (640 // 64) * 64


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: [x[0][:, :4], *x[1:]],
        lambda x: [*x[:3], x[3][..., :1], *x[4:]],
        lambda x: [*x[:6], x[6][:1]],
        lambda x: [*x[:6], x[6][:, :, :4]],
        lambda x: [*x[:6], x[6][:, :1]],
        lambda x: [y[:, 0] for y in x],
        lambda x: [x[0].double(), *x[1:]],
        lambda x: [*x[:6], x[6].bfloat16()],
        lambda x: [*x[:5], x[5].to("meta"), x[6]],
    ],
)
def test_what_does_not_fit_is_refused(spoil: Callable[[list[Tensor]], list[Tensor]]) -> None:
    with pytest.raises(StateError):
        delta_scan(*spoil(inputs(2, 6, 2)))


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 6), torch.ones(1, 6) > 0, torch.ones(2, 5) > 0, torch.ones(2, 6, 1) > 0]
)
def test_a_mask_is_bool_and_fits(mask: Tensor) -> None:
    with pytest.raises(StateError, match="mask"):
        delta_scan(*inputs(2, 6, 2), mask)


def test_ranks_too_large_to_unroll_go_through_plain_torch() -> None:
    values = inputs(1, 10, rank=70)
    want = delta_scan_reference(*values)
    torch.testing.assert_close(delta_scan(*values), want, rtol=1e-5, atol=1e-5)


def test_a_compiler_sees_one_graph() -> None:
    values = inputs(2, 40)
    compiled = torch.compile(delta_scan, fullgraph=True, backend="eager")
    want = delta_scan(*values, random_mask(2, 40))
    torch.testing.assert_close(compiled(*values, random_mask(2, 40)), want, rtol=0, atol=1e-5)


def test_without_numba_the_door_opens_to_plain_torch() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch\n"
        "from deltamem_agents.core.scan import delta_scan\n"
        "x = [torch.full((1, 20, 1, 4), .5)] * 6\n"
        "reads, state = delta_scan(*x, torch.zeros(1, 1, 4, 4))\n"
        "print(float(reads[0, -1, 0, 0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = [torch.full((1, 20, 1, 4), 0.5)] * 6
    reads, _ = delta_scan(*x, torch.zeros(1, 1, 4, 4))
    assert float(done.stdout) == pytest.approx(float(reads[0, -1, 0, 0]), abs=1e-6)


def test_without_a_folder_for_its_cache_numba_still_compiles() -> None:
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numba.core.caching, torch\n"
        "from deltamem_agents.core.scan import delta_scan\n"
        "from deltamem_agents.core.step import StepRule, memory_step\n"
        "reads, _ = delta_scan(*[torch.ones(1, 2, 1, 2) / 2] * 6, torch.zeros(1, 1, 2, 2))\n"
        "step, _ = memory_step(torch.ones(1, 8), torch.ones(1, 1, 2, 2), StepRule(1, 2, 2))\n"
        "print(float(reads[0, 1, 0, 0]), step.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.125 ")
