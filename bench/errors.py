"""The one base class of every error that a user can cause."""

from __future__ import annotations


class BenchError(ValueError):
    """An error whose message says everything: it names the file or option, and the remedy.

    The command line shows the message without a traceback. Any other exception is a defect and keeps its traceback.
    Errors of plug-ins derive from this class too.
    """

    @property
    def problem(self) -> str:
        """The message as it was raised: a :class:`~bench.downloads.MissingFiles` keeps what is to be downloaded."""
        return self.args[0] if self.args and isinstance(self.args[0], str) else str(self)


class BenchWarning(UserWarning):
    """A warning that stops nothing. The command line shows its message alone."""
