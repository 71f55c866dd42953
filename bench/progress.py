"""How long-running work tells how far it is: a protocol that screens implement, and the silent one."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One bar at a time. ``advance`` and ``note`` may be called from another thread than ``start``."""

    def start(self, total: int, label: str) -> None:
        """A new piece of work of ``total`` steps begins; it ends the one before."""
        ...

    def advance(self, steps: int = 1) -> None: ...

    def note(self, message: str) -> None:
        """Something that the user should read: a failed edit, a halved batch."""
        ...

    def stop(self) -> None:
        """All work is over, or has been given up."""
        ...


class Silent:
    """A :class:`Progress` that shows nothing."""

    def start(self, total: int, label: str) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def note(self, message: str) -> None: ...

    def stop(self) -> None: ...
