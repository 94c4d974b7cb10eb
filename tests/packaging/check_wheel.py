"""The wheel, in an environment of its own and without the checkout, does the main job.

    python tests/packaging/check_wheel.py            # dependencies come from this environment
    python tests/packaging/check_wheel.py --fresh    # dependencies are installed anew (minutes)

Without `--fresh` the new environment sees this one's site-packages through a path file. Path files
inside a folder that was added that way are not read, so the checkout, which is installed here in
editable form, cannot be seen from there; the script checks that too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGEST_WHEEL = 30 * 2**20
NEEDED = (
    "deltamem_agents/py.typed",
    "deltamem_agents/builtin/backbone/model.safetensors",
    "deltamem_agents/builtin/backbone/tokenizer.json",
    "deltamem_agents/builtin/adapter/deltamem_adapter.safetensors",
    "deltamem_agents/cli/conversation.json",
    "deltamem_agents/runtime/templates/chatml.jinja",
    "deltamem_agents/training/lexicon.json",
    "deltamem_agents/training/everyday.json",
    "deltamem_agents/training/phrasings.json",
)
WHERE = (
    "import sys, deltamem_agents; print(deltamem_agents.__file__); print('torch' in sys.modules)"
)


class Wheel:
    """The wheel and the environment that it is tried in.

    Args:
        folder: of this run's own; nothing of the checkout is in it but a copy to build from.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.environment = folder / "environment"
        self.bin = self.environment / ("Scripts" if os.name == "nt" else "bin")
        self.file = Path()

    def run(self, *command: str | Path, status: int = 0) -> str:
        """Run a command in a folder that has nothing to do with the checkout."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
        done = subprocess.run(
            list(map(str, command)), cwd=self.elsewhere, check=False, text=True,
            env={**clean, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode != status:
            raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def build(self) -> None:
        """Build from a copy, so that nothing stale of the checkout gets in."""
        copy = self.folder / "source"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "deltamem_agents", copy / "deltamem_agents", ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy / name)
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
        self.run(*pip, "--wheel-dir", self.folder / "dist", copy)
        (self.file,) = (self.folder / "dist").glob("*.whl")

    def contents(self) -> None:
        """All data is in it, no tests are, and it is small."""
        with zipfile.ZipFile(self.file) as archive:
            names = set(archive.namelist())
        missing = [name for name in NEEDED if name not in names]
        assert not missing, f"the wheel lacks {missing}"
        assert not [name for name in names if name.startswith("tests")]
        size = self.file.stat().st_size
        assert size <= LARGEST_WHEEL, f"the wheel has {size} bytes"

    def install(self, fresh: bool) -> None:
        """Install into an empty environment."""
        venv.create(self.environment, with_pip=True, symlinks=os.name != "nt")
        pip = (self.bin / "python", "-m", "pip", "install", "--quiet")
        if fresh:
            limits = ("--constraint", ROOT / "constraints.txt")
            self.run(*pip, *limits, "torch")
            self.run(*pip, *limits, self.file)
            return
        self.run(*pip, "--no-deps", self.file)
        inside = self.run(
            self.bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
        ).strip()
        Path(inside, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def imports(self) -> None:
        """The installed package is used, not the checkout; a bare import is light."""
        file, torch = self.run(self.bin / "python", "-c", WHERE).split()
        assert Path(file).is_relative_to(self.environment.resolve()), file
        assert torch == "False"

    def requirements(self) -> None:
        """What the wheel says it needs is there, in versions it allows."""
        code = "import importlib.metadata as m; print('\\n'.join(m.requires('deltamem-agents')))"
        needed = [line for line in self.run(self.bin / "python", "-c", code).splitlines() if line]
        assert len([line for line in needed if "extra" not in line]) >= 10
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.bin / "python"), "-m", "pip", "check"], env=clean, cwd=self.elsewhere,
            check=False, text=True, capture_output=True,
        )  # fmt: skip
        broken = [line for line in done.stdout.splitlines() if line.startswith("deltamem-agents ")]
        assert not broken, broken

    def commands(self) -> None:
        """The command line is there and works on a database."""
        assert "deltamem-agents 0." in self.run(self.bin / "deltamem", "--version")
        assert "is ready" in self.run(self.bin / "deltamem", "db", "init", "some.db")
        assert "DatabaseNotFoundError" in self.run(
            self.bin / "deltamem", "db", "stats", "none.db", status=2
        )

    def demo(self) -> None:
        """The main job."""
        shown = self.run(self.bin / "deltamem", "demo", "--folder", self.elsewhere / "demo")
        print(shown)
        assert "The promise holds." in shown
        assert (self.elsewhere / "demo" / "memory.png").stat().st_size > 10_000


def main(arguments: Sequence[str]) -> int:
    """Run all checks; the number that failed."""
    results: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="deltamem-wheel-") as folder:
        wheel = Wheel(Path(folder).resolve())
        checks: list[tuple[str, Callable[[], None]]] = [
            ("builds", wheel.build),
            ("holds all data", wheel.contents),
            ("installs", lambda: wheel.install("--fresh" in arguments)),
            ("is what is imported", wheel.imports),
            ("finds its requirements", wheel.requirements),
            ("has its commands", wheel.commands),
            ("runs the demo", wheel.demo),
        ]
        for name, check in checks:
            try:
                check()
            except (AssertionError, OSError, ValueError) as error:
                print(f"FAILED the wheel {name}: {error}")
                results.append(False)
            else:
                print(f"ok     the wheel {name}")
                results.append(True)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return len(results) - sum(results)


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
