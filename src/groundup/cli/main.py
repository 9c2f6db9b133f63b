"""The command line: parse, call, print, exit.

Nothing heavy is imported before a command needs it, so that `groundup --help` answers at once.
"""

import os
import sys
from typing import Annotated, NoReturn

import typer

from groundup import __version__
from groundup.allocator import keep_freed_memory
from groundup.cli import compare_command, data_commands, run_commands, study_commands
from groundup.cli.terminal import note
from groundup.errors import EXIT_INTERRUPTED, GroundupError, UsageError

UsageMistake: type[typer.BadParameter] = typer.BadParameter.__bases__[0]
"""What typer raises when words on the command line do not fit; it has no public name in all versions."""

app = typer.Typer(
    name="groundup",
    help="Train object detectors from the ground up and from pre-trained weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SHARED_COMMANDS = ("train", "evaluate")
"""Commands that several processes carry out together under torchrun."""
for command in (
    run_commands.recipes,
    run_commands.config,
    run_commands.train,
    run_commands.evaluate,
    run_commands.predict,
    compare_command.compare,
    run_commands.demo,
):
    app.command()(command)
app.add_typer(data_commands.app, name="data")
app.add_typer(study_commands.app, name="study")


def print_version(wanted: bool) -> None:
    """Print the version and leave, if asked."""
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def groundup(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has done the work
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a mistake.")] = False,
) -> None:
    """Train object detectors from the ground up and from pre-trained weights."""
    if debug:
        os.environ["GROUNDUP_DEBUG"] = "1"
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in SHARED_COMMANDS:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: several processes share "
            f"{' and '.join(SHARED_COMMANDS)} only; start `groundup {context.invoked_subcommand}` once, "
            "without torchrun (--processes, where there is one, carries out several trainings at a time)"
        )


def main() -> None:
    """Run the command line; a user's mistake is one line and its exit status, never a traceback."""
    keep_freed_memory()
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        note("groundup: interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except UsageMistake as error:
        message = error.format_message()
        if "\n" in message:  # no words at all: typer's message is the help
            typer.echo(message, err=True)
        else:
            note(f"groundup: {message} (see `groundup --help`)")
        sys.exit(UsageError.exit_code)
    except GroundupError as error:
        if os.environ.get("GROUNDUP_DEBUG"):
            raise
        if not error.is_told:
            note(f"groundup: {error}")
        leave(error.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


def leave(status: int) -> NoReturn:
    """Exit with the status, also beside threads that torch has left of a process group that broke.

    Interpreter and libraries would be taken down under them, which ends in SIGABRT instead of the status.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
