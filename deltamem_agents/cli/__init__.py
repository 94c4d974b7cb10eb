"""The command line: `deltamem`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave the process with its exit status."""
    import sys

    from deltamem_agents.cli.app import run

    sys.exit(run(sys.argv[1:]))
