"""What commands share: results on stdout, everything else on stderr."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""The option of every command that prints a result."""


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_lines(lines: Any) -> None:
    """Print lines of a result on stdout."""
    for line in lines:
        typer.echo(line)


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    typer.echo(text, err=True)
