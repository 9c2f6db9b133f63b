"""The command line called in the test's own process: one of its own takes seconds to import torch."""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from groundup.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended, named as `subprocess` does."""

    returncode: int
    stdout: str
    stderr: str


def groundup(*words, cwd: Path | None = None) -> Done:
    """`groundup WORDS`, as in a process of its own."""
    out, err, status = io.StringIO(), io.StringIO(), None
    with (
        contextlib.chdir(cwd or os.curdir),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", ["groundup", *map(str, words)]),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())
