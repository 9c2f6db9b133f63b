"""What commands share: results on stdout, everything else on stderr."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""The option of every command that prints a result."""


def shown(text: str) -> str:
    """The text as one line that a terminal only shows: what would steer it, or cannot be written, is escaped.

    Names of files and categories come from elsewhere.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # A file name that is not Unicode has halves of surrogate pairs; JSON has an escape for them.
    typer.echo(text.encode("utf-8", "backslashreplace").decode())


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of a result on stdout."""
    for line in lines:
        typer.echo(shown(line))


@contextmanager
def counting(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give a function to tell how many are done, and of how many; it shows a bar on stderr.

    Where there is no terminal, or `NO_COLOR` is set, it prints a line now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from groundup.engine.progress import LINE_SECONDS

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shows_bar = console.is_terminal and not quiet and "NO_COLOR" not in os.environ
    last_line = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not shows_bar) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            """Show it."""
            nonlocal last_line
            bar.update(task, completed=done, total=total)
            if not quiet and not shows_bar and time.monotonic() - last_line >= LINE_SECONDS:
                last_line = time.monotonic()
                note(f"{what}: {done} of {total}")

        yield report


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    typer.echo(shown(text), err=True)
