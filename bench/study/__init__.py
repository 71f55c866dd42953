"""The human preference study: from stored edits to votes.

::

    run folders --build.build--> Design --StudyStore.create--> a study
    invitation --StudyStore.redeem--> a rater --next_trial, vote, ...--> votes --StudyStore.votes--> analysis

- The design: ``types``, ``arrange``, ``design``, ``build``.
- The store: ``store.StudyStore`` is the only access to the database. Its parts are ``studies``, ``registration`` and
  ``trials``. They use ``queries``, ``database`` and the tables of ``models``, which ``migrations`` creates.
- ``images.ImageServer`` is the only source of images. ``security`` has tokens and the password, ``settings`` the texts
  and terms of a study, ``words`` those of the pages in each language.
- ``app`` has the web pages, ``votes`` the analysis, ``exchange`` files of votes.
- ``cli`` has the commands. ``serving``, ``results`` and ``forecast`` do their work.

The pages need only the store and the image server. The values that these return do not reveal which method made an
image.
"""

from __future__ import annotations

from bench.errors import BenchError


class StudyError(BenchError):
    """A study that cannot be made, opened or continued. The message names the cause and the remedy.

    A rater reads a text of the study's language, which names no file and no method: that of ``word``, or of the class
    (``words.Words.error``). ``public`` is the text for the administrator's pages.
    """

    public = "Something went wrong on our side. Please tell the person who invited you, and try again later."
    # Key of the rater's text below `error`. Empty: the name of the class.
    word = ""

    def __init__(self, message: str, public: str | None = None, *, word: str = "") -> None:
        super().__init__(message)
        if public is not None:
            self.public = public
        if word:
            self.word = word
