"""Progress for people: a live bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Reporter:
    """Shows stages and steps on standard error. `quiet` shows nothing (and is what every process but the first gets)."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None, line_seconds: float = 10.0) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True, highlight=False)
        self._line_seconds = line_seconds
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._total, self._last, self._started = "", 0, 0.0, time.monotonic()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Start (or replace) the bar of one loop."""
        self.end()
        self._label, self._total, self._last = label, total, time.monotonic()
        if self.quiet or not self.console.is_terminal:
            return
        columns = (
            TextColumn("  {task.description:<38.38}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._live = Progress(*columns, console=self.console, transient=True)
        self._live.start()
        self._task = self._live.add_task(label, total=total, completed=done, note="")

    def tick(self, done: int, losses: Mapping[str, float] | None = None) -> None:
        """Move the bar; off a terminal, print a line every few seconds."""
        if self.quiet:
            return
        note = "  ".join(f"{name} {value:.4g}" for name, value in (losses or {}).items())
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last > self._line_seconds:
            self._last = time.monotonic()
            self.say(f"  {self._label}: {done}/{self._total}  {note}")

    def end(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()
            self._live, self._task = None, None
