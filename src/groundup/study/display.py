"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

import os
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from groundup.study.status import COLUMNS, StatusRow, StudyStatus

REFRESH_SECONDS = 2.0
"""How often the table is read anew."""
LINE_SECONDS = 60.0
"""Seconds between plain lines about runs under way."""
MARGIN_LINES = 6
"""Lines of a terminal that the table leaves free for its frame and summary."""
STYLES = {"running": "bold", "done": "green", "failed": "bold red", "missing": "dim"}
"""Of states on a terminal."""
ORDER = ("running", "failed", "partial", "missing", "done")
"""What is left out last where a terminal is too small for all runs."""


class Display:
    """Shows a study on stderr. A context manager."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        """Say nothing but failures where `quiet`."""
        self._console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        if self._console.is_terminal and not quiet and "NO_COLOR" not in os.environ:
            self._live = Live(console=self._console, auto_refresh=False)
        self._shown_at = -LINE_SECONDS
        self.every = REFRESH_SECONDS if self._live is not None else LINE_SECONDS
        """Seconds between two calls of `show` that are worth making."""

    def __enter__(self) -> "Display":
        """Begin."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table on the terminal."""
        if self._live is not None:
            self._live.stop()

    @property
    def is_due(self) -> bool:
        """Whether the study is to be shown again."""
        return time.monotonic() - self._shown_at >= self.every

    def show(self, status: StudyStatus) -> None:
        """Show the study as it stands."""
        self._shown_at = time.monotonic()
        if self._live is not None:
            self._live.update(self.table(status), refresh=True)
        elif not self._quiet:
            for row in status.rows:
                if row.state == "running":
                    self.note("  ".join(cell for cell in row.cells() if cell))
            self.note(status.summary())

    def note(self, text: str, *, always: bool = False) -> None:
        """Say that something happened; names are the user's, so nothing in them is markup."""
        if not self._quiet or always:
            self._console.print(Text("".join(c if c.isprintable() else "?" for c in text)), soft_wrap=True)

    def table(self, status: StudyStatus) -> Table:
        """The study as a table that fits the terminal."""
        room = max(1, self._console.height - MARGIN_LINES)
        left_out = 0
        rows = list(status.rows)
        if len(rows) > room:
            kept = sorted(rows, key=lambda row: ORDER.index(row.state))[:room]
            left_out = len(rows) - len(kept)
            rows = [row for row in rows if row in kept]
        table = Table(*COLUMNS, caption=self.caption(status, left_out), caption_justify="left")
        for row in rows:
            table.add_row(*map(Text, self.cells(row)), style=STYLES.get(row.state, ""))
        return table

    def cells(self, row: StatusRow) -> tuple[str, ...]:
        """The row's text, the fault in place of the score."""
        *rest, score = row.cells()
        return (*rest, score if row.message is None else row.message[:60])

    def caption(self, status: StudyStatus, left_out: int) -> Text:
        """What stands below the table."""
        more = f" ({left_out} runs are not shown)" if left_out else ""
        return Text(status.summary() + more)
