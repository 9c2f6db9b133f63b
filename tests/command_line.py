"""The command line in processes forked from one that has imported torch already, which takes seconds.

They are not forked from the test itself: there every call is checked against its types, and typer hands over
contexts of another class than it asks to be named.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from groundup.cli.main import main
from processes import PATIENCE, fresh_context


@dataclass(frozen=True)
class Done:
    """How a command ended, named as `subprocess` does."""

    returncode: int
    stdout: str
    stderr: str


def groundup(*words, cwd: Path | None = None) -> Done:
    """`groundup WORDS`, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("stdout", "stderr")]
        process = fresh_context().Process(
            target=act, args=([str(word) for word in words], str(cwd or Path.cwd()), *paths)
        )
        process.start()
        process.join(PATIENCE)
        texts = [path.read_text() for path in paths]
    assert process.exitcode is not None
    return Done(process.exitcode, *texts)


def act(words, cwd, stdout, stderr) -> None:
    """What the process does."""
    for number, path in enumerate((stdout, stderr), start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(cwd)
    sys.argv = ["groundup", *words]
    torch.set_num_threads(1)
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
