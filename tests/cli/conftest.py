"""A tiny real model on disk, for commands that need one and not its skill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`backbone/` and `adapter/` of a model with random weights."""
    from deltamem_agents.testing import save_tiny

    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_folder, copy)
    return copy
