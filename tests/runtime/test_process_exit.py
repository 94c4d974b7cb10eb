"""A process that has used a model ends with status 0, also while its thread waits for work."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import torch
from deltamem_agents.runtime.scheduler import Job, Scheduler

def steps():
    torch.randn(64, 64) @ torch.randn(64, 64)
    return
    yield

import threading
ended = threading.Event()
scheduler = Scheduler(runner=None)
scheduler.submit(Job(steps(), lambda error: ended.set()))
assert ended.wait(10)
"""


def test_the_idle_thread_ends_before_the_interpreter() -> None:
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True, timeout=600
        )
        assert (ended.returncode, ended.stderr) == (0, "")
