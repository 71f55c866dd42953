"""The human preference study: from stored edits to votes that can be trusted.

::

    run folders --design.build--> Design --StudyStore.create--> a study
    invitation --StudyStore.redeem--> a rater --next_trial, vote, ...--> votes --votes()--> analysis

``types``, ``arrange``, ``design``, ``settings``, ``power``, ``tokens`` and ``passwords`` are pure;
``store`` alone talks to the database (its tables are in ``models``, their history in ``migrations``);
``pictures`` alone hands out images. A screen needs ``store.StudyStore`` and ``pictures.Pictures`` and
nothing else; what they return holds nothing that tells which method made an image.
"""

from __future__ import annotations

from bench.errors import BenchError


class StudyError(BenchError):
    """A study that cannot be made, opened or gone on with. The message names the cause and the remedy.

    ``public`` is what a rater may read of it: it names no file and no method.
    """

    public = "Something went wrong on our side. Please tell the person who invited you, and try again later."

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        if public is not None:
            self.public = public
