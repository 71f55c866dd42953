"""The one base class of every error that a user can cause."""

from __future__ import annotations


class BenchError(ValueError):
    """An error whose message says all: it names the file or option, and the remedy.

    The command line shows the message without a traceback. Any other exception is a defect and keeps its
    traceback. A plug-in's own errors derive from this class too.
    """


class BenchWarning(UserWarning):
    """Something that a user should know and that stops nothing; the command line shows its message alone."""
