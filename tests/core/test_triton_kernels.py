"""The CUDA kernels: under Triton's interpreter here, on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = Path(__file__).with_name("triton_checks.py")
ROOT = CHECKS.parents[2]


def run(device: str, **environment: str) -> str:
    """In a process of its own: the interpreter is chosen when triton is imported."""
    done = subprocess.run(
        [sys.executable, str(CHECKS), device],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_kernels_agree_with_the_reference_under_the_interpreter() -> None:
    pytest.importorskip("triton", reason="the interpreter is part of triton")
    told = run("cpu", TRITON_INTERPRET="1")
    assert told.count("agrees") == 5
    assert "step 12 rules agree" in told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_agree_with_the_reference_on_a_gpu() -> None:
    told = run("cuda")
    assert told.count("agrees") == 5
    assert "step 12 rules agree" in told


@pytest.mark.long
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """To machine code of an H100: what the interpreter forgives, the compiler does not."""
    pytest.importorskip("triton")
    told = run("compile")
    assert told.count("compiled") == 7
