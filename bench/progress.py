"""Progress of long-running work: the interface of progress bars, and an implementation that shows nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One progress bar at a time. ``advance`` and ``note`` may be called from another thread than ``start``."""

    def start(self, total: int, label: str) -> None:
        """Begins a new bar of ``total`` steps, and ends the previous one."""
        ...

    def advance(self, steps: int = 1) -> None: ...

    def note(self, message: str) -> None:
        """Shows a message that the user should read, such as a failed edit or a halved batch."""
        ...

    def stop(self) -> None:
        """Ends the bar, at the end of all work or after an error."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, total: int, label: str) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def note(self, message: str) -> None: ...

    def stop(self) -> None: ...
