"""The study's store: the one door to its database. Threads share one; processes open one each.

A screen needs, in this order::

    store = StudyStore.open("runs/studies.db")          # or postgresql://user@host/name
    entry = store.redeem(token)                         # or enter(study), or resume(session)
    store.consent(entry.rater)
    while (trial := store.next_trial(entry.rater)) is not None:
        bundle = pictures.bundle(entry.rater, trial.id) # bench.study.pictures.Pictures(store)
        store.vote(entry.rater, trial.id, answer, reaction_ms)
    store.completion(entry.rater)

Everything that these return is blind: of methods it holds no name, no digest and no order of names.

How trials are handed out. Each sheet of the design is some rater's; a rater works through it, and each trial
is held for whom it is shown to for ``lease_seconds``. What a rater leaves behind goes to others once the hold
has run out: to a new rater as their sheet, or to one whose own sheet has been used up. A vote on a trial that
has gone to someone else in the meantime still counts, since it was given. ``next_trial`` and ``vote`` may be
repeated at will, from two tabs too: they give the same trial until it is answered, and the first answer stays.

Time is the database server's (SQLite: this process's, which setting the clock does not move). Where it jumps
all the same, holds end early or late by less than their length; nothing that is stored depends on it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, null, select, update

from bench.files import UnsafeName, safe_part
from bench.registry import did_you_mean
from bench.study import StudyError, queries, security
from bench.study.database import SLACK, Clock, Database, within
from bench.study.design import Design
from bench.study.handout import Handout, Loaded, Void
from bench.study.interface import (
    SESSION_DAYS,
    VOTE_COLUMNS,
    Answer,
    Completion,
    Entry,
    NotFinished,
    OpenTrial,
    Progress,
    RaterRecord,
    Shown,
    State,
    Stored,
    Study,
    StudyClosed,
    StudyFull,
    StudyStatus,
    UnknownRater,
    UnknownStudy,
    VoteRefused,
    Withdrawn,
)
from bench.study.models import (
    HUMAN,
    RATER_KINDS,
    SIMULATED,
    AttemptRow,
    HoldRow,
    InvitationRow,
    IssueRow,
    RaterRow,
    StudyRow,
    TrialRow,
    VoteRow,
)
from bench.study.settings import StudySettings
from bench.study.votes.quality import RaterQuality, quality

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = [
    "VOTE_COLUMNS",
    "Answer",
    "Completion",
    "Entry",
    "NotFinished",
    "OpenTrial",
    "Progress",
    "RaterQuality",
    "RaterRecord",
    "Shown",
    "Stored",
    "Study",
    "StudyClosed",
    "StudyFull",
    "StudyStatus",
    "StudyStore",
    "UnknownRater",
    "UnknownStudy",
    "VoteRefused",
    "Withdrawn",
]

Row: TypeAlias = Any
"""A row of a query; its attributes are the query's columns."""
USED = (
    "This link has been used already. Go on in the browser in which you began, "
    "or with the personal link that you were given there."
)


class StudyStore:
    """Open one with :meth:`open`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._cache: dict[str, Loaded] = {}
        self._handout = Handout(database, self._load)
        self._insert = queries.Writes(is_sqlite=database.is_sqlite).insert

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        create: bool = True,
        patience: float = 20.0,
        clock: Clock | None = None,
    ) -> StudyStore:
        """The store at the path of a SQLite file or at a PostgreSQL URL; see :meth:`Database.open`."""
        return cls(Database.open(target, create=create, patience=patience, clock=clock))

    def __enter__(self) -> StudyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def name(self) -> str:
        """The file or the URL, without a password."""
        return self._db.name

    # Studies

    def create(
        self,
        name: str,
        design: Design,
        settings: StudySettings = StudySettings(),  # noqa: B008
        *,
        admin_password: str | None = None,
    ) -> Study:
        """Stores a study. Raises :class:`StudyError` for a name that is taken or unsafe, or wrong settings."""
        try:
            safe_part(name, "study name")
        except UnsafeName as error:
            raise StudyError(str(error)) from None
        settings.check()
        admin_hash = None if admin_password is None else security.hash_password(admin_password)
        secret = security.new_secret()

        def work(connection: Connection) -> None:
            found = connection.execute(
                select(StudyRow.secret).where(StudyRow.name == name)
            ).scalar_one_or_none()
            if found == secret:
                return  # Stored by an attempt whose answer was lost.
            if found is not None:
                raise StudyError(f"{self.name}: there is a study {name!r} already. Give another name.")
            study_id = connection.execute(
                insert(StudyRow)
                .values(
                    name=name,
                    digest=design.digest,
                    design=design.to_json(),
                    settings=settings.to_json(),
                    secret=secret,
                    admin_hash=admin_hash,
                    created_at=self._db.now(connection),
                )
                .returning(StudyRow.id)
            ).scalar_one()
            connection.execute(
                insert(TrialRow),
                [
                    {
                        "study_id": study_id,
                        "name": trial.id,
                        "public": security.opaque(secret, "trial", trial.id, size=12),
                        "role": trial.role,
                        "kind": trial.kind,
                        "question": trial.question,
                        "case_key": trial.case,
                        "unit": hashlib.sha256(trial.unit.encode()).hexdigest(),
                        "candidates": list(trial.candidates),
                        "sheet": trial.sheet,
                        "position": trial.position,
                        "repeat_of": trial.repeat_of,
                        "expected": trial.expected,
                    }
                    for trial in design.trials
                ],
            )

        self._db.write(work)
        return self.study(name)

    def studies(self) -> list[str]:
        """The names, in the order in which they were created."""
        return self._db.read(lambda c: list(c.scalars(select(StudyRow.name).order_by(StudyRow.id))))

    def study(self, name: str) -> Study:
        """Raises :class:`UnknownStudy`, or ``DesignError`` where the stored design was tampered with."""
        return self._load(name).study

    def _load(self, name: str, connection: Connection | None = None) -> Loaded:
        if name in self._cache:
            return self._cache[name]
        query = select(
            StudyRow.id, StudyRow.design, StudyRow.settings, StudyRow.secret, StudyRow.created_at
        ).where(StudyRow.name == name)

        def work(connection: Connection) -> Row | None:
            return connection.execute(query).one_or_none()

        row = self._db.read(work) if connection is None else work(connection)
        if row is None:
            known = self.studies()
            raise UnknownStudy(
                f"{self.name}: there is no study {name!r}.{did_you_mean(name, known)} "
                f"There is: {', '.join(known) or 'none'}.",
                public=StudyClosed.public,
            )
        study = Study(
            name, Design.from_json(row.design), StudySettings.from_json(row.settings), row.created_at
        )
        loaded = self._cache[name] = Loaded(row.id, study, row.secret)
        return loaded

    def close_study(self, name: str) -> None:
        """No new raters and no new trials from now on. Answers to trials that are open still count."""
        loaded = self._load(name)
        self._db.write(
            lambda c: c.execute(
                update(StudyRow)
                .where(StudyRow.id == loaded.id, StudyRow.closed_at.is_(None))
                .values(closed_at=self._db.now(c))
            )
        )

    # Coming in

    def invite(self, study: str, count: int = 1, *, days: float | None = 30, note: str = "") -> list[str]:
        """``count`` signed invitations, each good for one rater and ``days`` days (None: for ever)."""
        if not 1 <= count <= 10_000:
            raise StudyError(f"--count {count}: expected 1 to 10000 invitations.")
        if days is not None and not 0 < days <= 3650:
            raise StudyError(f"--days {days}: expected more than 0 and at most 3650.")
        if len(note) > 255:
            raise StudyError(f"--note: {len(note)} characters; at most 255 are kept.")
        loaded = self._load(study)
        nonces = [security.new_id() for _ in range(count)]

        def work(connection: Connection) -> datetime | None:
            now = self._db.now(connection)
            expires = None if days is None else now + timedelta(days=days)
            connection.execute(
                self._insert(InvitationRow).on_conflict_do_nothing(index_elements=["nonce"]),
                [
                    {
                        "study_id": loaded.id,
                        "nonce": nonce,
                        "note": note,
                        "created_at": now,
                        "expires_at": expires,
                    }
                    for nonce in nonces
                ],
            )
            return expires

        expires = self._db.write(work)
        return [security.sign(loaded.secret, "invitation", study, nonce, expires) for nonce in nonces]

    def redeem(
        self,
        token: str,
        session: str | None = None,
        *,
        external: str = "",
        recruited: Mapping[str, str] | None = None,
    ) -> Entry:
        """Takes up an invitation: a new rater; or the same one, where ``session`` is the one it gave, or
        ``external`` the name under which a recruiting service sent them. ``recruited``: as for :meth:`register`.

        Raises ``security.TokenForged``, ``TokenExpired`` or ``TokenUsed`` (another rater took it up: whoever
        it was goes on with their session; or this one takes part already, by another invitation),
        :class:`Withdrawn`, :class:`StudyFull` (the invitation stays good) and :class:`StudyClosed`.
        """
        _check_recruited(external, recruited)
        loaded, nonce = self._verified_invitation(token)
        public = security.new_id()

        def work(connection: Connection) -> tuple[str, str | None]:
            found = self._invitation(connection, loaded, nonce, lock=True)
            if found.public is not None:
                return str(found.public), found.external
            self._lock_study(connection, loaded)
            self._check_new(connection, loaded, external)
            rater_id = self._register(connection, loaded, public, HUMAN, external or None, recruited)
            connection.execute(
                update(InvitationRow)
                .where(InvitationRow.id == found.id, InvitationRow.rater_id.is_(None))
                .values(rater_id=rater_id)
            )
            return public, None

        bound, theirs = self._db.write(work)
        same = bound == public or (bool(external) and external == theirs)
        if not same and (session is None or self._session_rater(session, loaded) != bound):
            raise security.TokenUsed(USED)
        return self._entry(loaded, bound)

    def check_invitation(
        self, token: str, *, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> None:
        """Raises what :meth:`redeem` would raise of the link itself; takes nothing up."""
        _check_recruited(external, recruited)
        loaded, nonce = self._verified_invitation(token)

        def work(connection: Connection) -> None:
            row = self._invitation(connection, loaded, nonce)
            if row.public is None:
                self._check_new(connection, loaded, external)
            elif not external or external != row.external:
                raise security.TokenUsed(USED)

        self._db.read(work)

    def _check_new(self, connection: Connection, loaded: Loaded, external: str) -> None:
        """Raises ``security.TokenUsed`` where whom a recruiting service calls ``external`` takes part already."""
        if external and self._by_external(connection, loaded, HUMAN, external) is not None:
            raise security.TokenUsed(
                "You take part in this study already. Go on in the browser in which you began, or with the "
                "personal link that you were given there."
            )

    def _verified_invitation(self, token: str) -> tuple[Loaded, str]:
        """The study of an invitation, and its nonce. Raises ``security.TokenForged`` or ``TokenExpired``."""
        loaded = self._verified_study(token)
        now = self._db.read(self._db.now)
        return loaded, security.verify(token, loaded.secret, "invitation", now).subject

    def _invitation(self, connection: Connection, loaded: Loaded, nonce: str, *, lock: bool = False) -> Row:
        """The invitation and the rater who took it up.

        Raises ``security.TokenForged`` where there is no such invitation, and :class:`Withdrawn`.
        """
        query = (
            select(InvitationRow.id, RaterRow.public, RaterRow.external, RaterRow.withdrawn_at)
            .join(RaterRow, RaterRow.id == InvitationRow.rater_id, isouter=True)
            .where(InvitationRow.nonce == nonce, InvitationRow.study_id == loaded.id)
        )
        row = connection.execute(query.with_for_update(of=InvitationRow) if lock else query).one_or_none()
        if row is None:
            raise security.TokenForged("This link is not valid: the study does not know it.")
        if row.withdrawn_at is not None:
            raise Withdrawn(f"{self.name}: rater {row.public!r} has withdrawn.")
        return row

    def enter(self, study: str, external: str = "", recruited: Mapping[str, str] | None = None) -> Entry:
        """Open registration. ``external`` is what a recruiting service calls the rater, who goes on under it.

        Raises :class:`StudyClosed` where the study takes invited raters only, and :class:`StudyFull`.
        """
        loaded = self._load(study)
        if not loaded.study.settings.open_registration:
            raise StudyClosed(
                f"study {study}: takes invited raters only. Create it with open registration, or invite.",
                public="This study is open to invited people only. Use the link that you were sent.",
            )
        return self.register(study, external=external, recruited=recruited)

    def resume(self, session: str) -> Entry:
        """The rater of a session token. Raises ``security.TokenError`` or :class:`UnknownRater`.

        A session ends ``SESSION_DAYS`` after the rater's last answer (``TokenExpired``).
        """
        loaded = self._verified_study(session)
        rater = self._session_rater(session, loaded)
        if rater is None:
            raise security.TokenForged(
                "This link is not valid: it was altered or was not made by this study."
            )
        # Raises for a rater who is not there.
        seen, now = self._db.read(lambda c: (self._handout.rater(c, rater).seen_at, self._db.now(c)))
        if now - seen > timedelta(days=SESSION_DAYS):
            raise security.TokenExpired(
                f"This link ended, because it was not used for {SESSION_DAYS} days. Ask the person who sent it "
                "for a new one."
            )
        return self._entry(loaded, rater)

    def register(
        self,
        study: str,
        *,
        kind: str = HUMAN,
        external: str = "",
        recruited: Mapping[str, str] | None = None,
    ) -> Entry:
        """A new rater without any question asked: for ``enter``, simulations and tests.

        With an ``external`` name that is known, its rater. ``recruited``: all that a recruiting service put
        into the link, by parameter; of a known rater, the latest is kept. Raises :class:`StudyFull`,
        :class:`StudyClosed`.
        """
        if kind not in RATER_KINDS:
            raise StudyError(f"raters of kind {kind!r}: expected one of {', '.join(RATER_KINDS)}.")
        _check_recruited(external, recruited)
        loaded = self._load(study)
        public = security.new_id()

        def work(connection: Connection) -> str:
            self._lock_study(connection, loaded)
            rater = connection.execute(
                select(RaterRow.public).where(RaterRow.public == public)
            ).scalar_one_or_none()
            if rater is not None:
                return str(rater)  # Registered by an attempt whose answer was lost.
            rater = self._by_external(connection, loaded, kind, external) if external else None
            if rater is None:
                self._register(connection, loaded, public, kind, external or None, recruited)
                return public
            if recruited:
                connection.execute(
                    update(RaterRow).where(RaterRow.public == rater).values(recruited=dict(recruited))
                )
            return rater

        return self._entry(loaded, self._db.write(work))

    def consent(self, rater: str) -> None:
        """The rater has agreed to take part; the first time counts."""
        self._db.write(
            lambda c: c.execute(
                update(RaterRow)
                .where(RaterRow.public == rater, RaterRow.consented_at.is_(None))
                .values(consented_at=self._db.now(c))
            )
        )

    def _verified_study(self, token: str) -> Loaded:
        """The study that a token names; its signature is still to be verified."""
        name = security.study_of(token)
        try:
            return self._load(name)
        except UnknownStudy:
            raise security.TokenForged(
                "This link is not valid: it was altered or was not made by this study."
            ) from None

    def _session_rater(self, session: str, loaded: Loaded) -> str | None:
        try:
            claims = security.verify(session, loaded.secret, "session", self._db.read(self._db.now))
        except security.TokenError:
            return None
        return claims.subject if claims.study == loaded.study.name else None

    def _entry(self, loaded: Loaded, rater: str) -> Entry:
        name = loaded.study.name
        return Entry(rater, security.sign(loaded.secret, "session", name, rater), name)

    def _lock_study(self, connection: Connection, loaded: Loaded) -> datetime | None:
        """Registrations of one study wait for each other; returns when it was closed."""
        return connection.execute(
            select(StudyRow.closed_at).where(StudyRow.id == loaded.id).with_for_update()
        ).scalar_one()

    def _by_external(self, connection: Connection, loaded: Loaded, kind: str, external: str) -> str | None:
        """The rater whom a recruiting service calls ``external``."""
        return connection.execute(
            select(RaterRow.public).where(
                RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.external == external
            )
        ).scalar_one_or_none()

    def _register(
        self,
        connection: Connection,
        loaded: Loaded,
        public: str,
        kind: str,
        external: str | None,
        recruited: Mapping[str, str] | None,
    ) -> int:
        name = loaded.study.name
        if self._lock_study(connection, loaded) is not None:
            raise StudyClosed(f"study {name} is closed.")
        now = self._db.now(connection)
        number = connection.execute(
            select(func.count())
            .select_from(RaterRow)
            .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind)
        ).scalar_one()
        sheet = self._handout.free_sheet(connection, loaded, kind, now)
        if sheet is None:
            raise StudyFull(
                f"study {name}: every open trial is with a rater. Wait until their leases run out, or create "
                "a study for more raters."
            )
        return connection.execute(
            insert(RaterRow)
            .values(
                study_id=loaded.id,
                public=public,
                kind=kind,
                number=number,
                external=external,
                recruited=dict(recruited) if recruited else None,
                sheet=sheet,
                created_at=now,
                seen_at=now,
            )
            .returning(RaterRow.id)
        ).scalar_one()

    # Handing out trials

    def next_trial(self, rater: str, void: Void = frozenset()) -> OpenTrial | None:
        """The rater's open trial, or the next; None when the rater has finished.

        ``void`` names trials that cannot be shown at the moment: another is drawn in place of each. A rater
        has finished early where all that is left is with others or void. Raises :class:`UnknownRater`,
        :class:`StudyClosed`, and :class:`StudyFull` where not even a first trial is left.
        """
        found = self._db.read(lambda c: self._handout.still_open(c, rater, void))
        if found is None:
            # Lost, it would be drawn again; and a vote on it takes it to the disk.
            found = self._db.write(lambda c: self._handout.draw(c, rater, void), durable=False)
        return found

    def upcoming(self, rater: str, void: Void = frozenset()) -> tuple[str, Shown] | None:
        """The id of the trial that ``next_trial`` will most likely give after the open one, and the trial.

        For the server, to prepare pictures. Nothing is drawn or held, so that another may come all the same.
        """
        row = self._db.read(lambda c: self._handout.upcoming(c, rater, void))
        if row is None:
            return None
        loaded = self._load(self._db.read(lambda c: self._handout.rater(c, rater)).study)
        return row.public, Shown(loaded.study, loaded.study.design.trial_by_id[row.name], loaded.secret)

    def vote(
        self,
        rater: str,
        trial: str,
        answer: Answer,
        reaction_ms: int | None = None,
        *,
        details: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> Stored:
        """Stores an answer to a trial that was shown to the rater: on disk when this returns.

        ``answer`` is a position in the order shown, from 0, or ``"tie"``; ``reaction_ms`` is the browser's
        measure: without one, or with one that no clock gives, the server's counts, from when the trial was
        handed out; ``details`` is a small mapping of plain values. May be repeated: the first answer stays,
        and is returned. Raises :class:`VoteRefused`, :class:`UnknownRater`, and ``DatabaseError`` when it
        could not be stored: then ask again.
        """
        return self._handout.vote(rater, trial, answer, reaction_ms, details)

    def shown(self, rater: str, trial: str) -> Shown:
        """A trial that was shown to the rater, unblinded: for ``pictures`` and simulations, never a browser.

        Raises :class:`VoteRefused` for a trial that was not.
        """
        return self._handout.shown(rater, trial)

    def progress(self, rater: str) -> Progress:
        """How far the rater is. Raises :class:`UnknownRater`."""

        def work(connection: Connection) -> tuple[Row, Counter[str]]:
            me = self._handout.rater(connection, rater)
            return me, self._handout.done(connection, me.id)

        me, counts = self._db.read(work)
        options = self._load(me.study).study.design.options
        done = sum(counts.values()) - counts["practice"]
        return Progress(
            done, options.trials, counts["practice"], options.practice, _state(me, counts, options.practice)
        )

    def completion(self, rater: str) -> Completion:
        """The code that shows that the rater took part: to the end, or until the study was closed.

        Raises :class:`NotFinished` for a rater who has trials left in an open study, or who never answered one.
        """

        def work(connection: Connection) -> tuple[Row, Counter[str]]:
            me = self._handout.rater(connection, rater)
            return me, self._handout.done(connection, me.id)

        me, counts = self._db.read(work)
        if me.finished_at is None and (me.closed_at is None or not counts.total()):
            raise NotFinished(f"rater {rater}: has trials left.")
        loaded = self._load(me.study)
        settings = loaded.study.settings
        code = _code(loaded, rater)
        if settings.return_url is None:
            return Completion(code, None)
        return Completion(
            code,
            settings.return_url.format(code=quote(code, safe=""), rater=quote(me.external or "", safe="")),
        )

    # Settling and withdrawing

    def raters(self, study: str, kind: str = HUMAN) -> list[RaterRecord]:
        """Every rater of one study, in order of arrival, also those who have withdrawn."""
        loaded = self._load(study)
        options = loaded.study.design.options

        def work(connection: Connection) -> tuple[Sequence[Row], Sequence[Row]]:
            raters = connection.execute(
                select(RaterRow)
                .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind)
                .order_by(RaterRow.number)
            ).all()
            counts = connection.execute(
                select(VoteRow.rater_id, TrialRow.role, func.count().label("votes"))
                .join(TrialRow, TrialRow.id == VoteRow.trial_id)
                .where(VoteRow.study_id == loaded.id, VoteRow.kind == kind)
                .group_by(VoteRow.rater_id, TrialRow.role)
            ).all()
            return raters, counts

        rows, counts = self._db.read(work)
        done: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for count in counts:
            done[count.rater_id][count.role] = count.votes
        return [
            RaterRecord(
                rater=row.public,
                number=row.number,
                external=row.external,
                recruited=row.recruited or {},
                state="withdrawn" if row.withdrawn_at else _state(row, done[row.id], options.practice),
                answers=done[row.id].total() - done[row.id]["practice"],
                total=options.trials,
                code=_code(loaded, row.public),
                created_at=row.created_at,
                consented_at=row.consented_at,
                seen_at=row.seen_at,
                finished_at=row.finished_at,
                withdrawn_at=row.withdrawn_at,
            )
            for row in rows
        ]

    def find_raters(self, study: str, who: str) -> list[RaterRecord]:
        """The people whom ``who`` may mean: a rater's id (or its first 8 characters), what a recruiting service
        calls them or their session there, a completion code of their own, or a personal link.
        """
        loaded = self._load(study)
        given = who.strip()
        session = self._session_rater(given.rpartition("session=")[2].partition("&")[0], loaded)

        def meant(record: RaterRecord) -> bool:
            return (
                record.rater in (given, session)
                or (len(given) >= 8 and record.rater.startswith(given))
                or given in (record.external, *record.recruited.values())
                or hmac.compare_digest(
                    _own_code(loaded.secret, record.rater).encode(), given.upper().encode()
                )
            )

        return [record for record in self.raters(study) if given and meant(record)]

    def withdraw(self, rater: str) -> int:
        """Deletes a rater's votes, and what a recruiting service called them; returns how many votes there were.

        The trials go to other raters. The rater's link is good no more. May be repeated.
        """

        def work(connection: Connection) -> int:
            row = connection.execute(
                select(RaterRow.id).where(RaterRow.public == rater).with_for_update()
            ).one_or_none()
            if row is None:
                raise UnknownRater(f"{self.name}: there is no rater {rater[:40]!r}.")
            # First: a trigger refuses to delete the votes of a rater who has not withdrawn.
            connection.execute(
                update(RaterRow)
                .where(RaterRow.id == row.id, RaterRow.withdrawn_at.is_(None))
                .values(withdrawn_at=self._db.now(connection))
            )
            connection.execute(
                update(RaterRow)
                .where(RaterRow.id == row.id)
                .values(external=None, recruited=null(), sheet=None)
            )
            connection.execute(delete(HoldRow).where(HoldRow.rater_id == row.id))
            connection.execute(delete(IssueRow).where(IssueRow.rater_id == row.id))
            return int(connection.execute(delete(VoteRow).where(VoteRow.rater_id == row.id)).rowcount)

        return self._db.write(work)

    # For the administrator and the analysis

    def votes(self, study_id: str | None = None, kind: str = HUMAN) -> pd.DataFrame:
        """Every vote of one study (None: of all) by raters of one kind; columns ``VOTE_COLUMNS``.

        In the order in which they were stored. ``kind`` is ``human`` or ``simulated``: the two never come
        in one frame. ``server_time`` is aware UTC.
        """
        import pandas as pd

        from bench.study.votes.analysis import Exclusion

        if kind not in RATER_KINDS:
            raise StudyError(f"votes of kind {kind!r}: expected one of {', '.join(RATER_KINDS)}.")
        names = self.studies() if study_id is None else [study_id]
        loaded = {entry.id: entry for entry in map(self._load, names)}
        rows = self._db.read(
            lambda c: c.execute(
                select(
                    VoteRow.study_id,
                    RaterRow.public.label("rater"),
                    TrialRow.name,
                    VoteRow.answer,
                    VoteRow.reaction_ms,
                    VoteRow.server_time,
                )
                .join(RaterRow, RaterRow.id == VoteRow.rater_id)
                .join(TrialRow, TrialRow.id == VoteRow.trial_id)
                .where(VoteRow.kind == kind, VoteRow.study_id.in_(list(loaded)))
                .order_by(VoteRow.id)
            ).all()
        )
        rules = {
            number: Exclusion(**entry.study.settings.exclusion).to_json() for number, entry in loaded.items()
        }
        records = []
        for row in rows:
            study = loaded[row.study_id].study
            trial = study.design.trial_by_id[row.name]
            of = study.design.case_by_key[trial.case]
            records.append(
                (
                    study.name,
                    row.rater,
                    trial.id,
                    trial.question,
                    of.protocol,
                    of.case,
                    of.source_id,
                    of.category,
                    trial.kind,
                    trial.candidates,
                    row.answer,
                    trial.role,
                    trial.repeat_of,
                    trial.expected if trial.role == "attention" else None,
                    row.reaction_ms,
                    row.server_time,
                    kind,
                    rules[row.study_id],
                )
            )
        frame = pd.DataFrame.from_records(records, columns=list(VOTE_COLUMNS))
        frame["reaction_ms"] = frame["reaction_ms"].astype("int64")
        frame["server_time"] = pd.to_datetime(frame["server_time"], utc=True)
        for column in ("repeat_of", "expected"):
            # None, not NaN, where there is none.
            frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
        return frame

    def quality(self, study: str, kind: str = HUMAN) -> list[RaterQuality]:
        """One entry per rater, in order of arrival."""
        loaded = self._load(study)

        def work(connection: Connection) -> tuple[Sequence[Row], Sequence[Row]]:
            raters = connection.execute(
                select(RaterRow.id, RaterRow.public, RaterRow.number, RaterRow.external, RaterRow.finished_at)
                .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.withdrawn_at.is_(None))
                .order_by(RaterRow.number)
            ).all()
            votes = connection.execute(
                select(
                    VoteRow.rater_id,
                    TrialRow.name,
                    VoteRow.answer,
                    VoteRow.reaction_ms,
                    VoteRow.server_time,
                )
                .join(TrialRow, TrialRow.id == VoteRow.trial_id)
                .where(VoteRow.study_id == loaded.id, VoteRow.kind == kind)
                .order_by(VoteRow.id)
            ).all()
            return raters, votes

        raters, votes = self._db.read(work)
        grouped: defaultdict[int, list[Row]] = defaultdict(list)
        for vote in votes:
            grouped[vote.rater_id].append(vote)
        return [quality(loaded.study.design, rater, grouped[rater.id]) for rater in raters]

    def status(self, study: str, kind: str = HUMAN) -> StudyStatus:
        """Counts of a study, as of now."""
        loaded = self._load(study)

        def work(connection: Connection) -> StudyStatus:
            now = self._db.now(connection)

            def count(of: type[Any], *where: ColumnElement[bool]) -> int:
                query = select(func.count()).select_from(of).where(*where)
                return int(connection.execute(query, {"kind": kind}).scalar_one())

            trials = (TrialRow.study_id == loaded.id, TrialRow.role == "trial")
            held = exists().where(
                HoldRow.trial_id == TrialRow.id,
                HoldRow.kind == kind,
                HoldRow.until > now,
                HoldRow.until <= now + loaded.lease + SLACK,
            )
            invitations = InvitationRow.study_id == loaded.id
            everyone = connection.execute(
                select(RaterRow.seen_at, RaterRow.finished_at, RaterRow.withdrawn_at).where(
                    RaterRow.study_id == loaded.id, RaterRow.kind == kind
                )
            ).all()
            raters = [row for row in everyone if row.withdrawn_at is None]
            closed_at = connection.execute(
                select(StudyRow.closed_at).where(StudyRow.id == loaded.id)
            ).scalar_one()
            here = [row for row in raters if row.finished_at is None]
            return StudyStatus(
                wanted=count(TrialRow, *trials),
                answered=count(TrialRow, *trials, queries.answered()),
                held=count(TrialRow, *trials, ~queries.answered(), held),
                raters=len(raters),
                active=sum(within(row.seen_at, now, loaded.lease) for row in here),
                finished=len(raters) - len(here),
                votes=count(VoteRow, VoteRow.study_id == loaded.id, VoteRow.kind == kind),
                invitations=count(InvitationRow, invitations),
                taken_up=count(InvitationRow, invitations, InvitationRow.rater_id.is_not(None)),
                simulated_votes=count(VoteRow, VoteRow.study_id == loaded.id, VoteRow.kind == SIMULATED),
                withdrawn=len(everyone) - len(raters),
                closed=closed_at is not None,
            )

        return self._db.read(work)

    def set_address(self, study: str, address: str) -> None:
        """Notes where a study is served, such as ``http://localhost:8501``."""
        if len(address) > 255:
            raise StudyError(
                f"the address {address[:40]}... has more than 255 characters. Give a shorter one."
            )
        loaded = self._load(study)
        self._db.write(
            lambda c: c.execute(update(StudyRow).where(StudyRow.id == loaded.id).values(address=address))
        )

    def address(self, study: str) -> str | None:
        """Where a study was last served; None before that."""
        loaded = self._load(study)
        return self._db.read(
            lambda c: c.execute(select(StudyRow.address).where(StudyRow.id == loaded.id)).scalar_one()
        )

    def set_admin_password(self, study: str, password: str) -> None:
        """Raises ``security.PasswordError`` for a short one."""
        loaded = self._load(study)
        stored = security.hash_password(password)
        self._db.write(
            lambda c: c.execute(update(StudyRow).where(StudyRow.id == loaded.id).values(admin_hash=stored))
        )

    def check_admin(
        self,
        study: str,
        password: str,
        client: str = "",
        limit: security.AttemptLimit = security.AttemptLimit(),  # noqa: B008
    ) -> None:
        """Returns for the right password. Raises ``security.PasswordError`` for a wrong one, and
        ``TooManyAttempts``, without looking at it, after too many wrong ones of this ``client`` (its address)
        or of all. The count is in the database, so restarting the app does not reset it; a guess is counted
        before it is checked, so guessing in parallel does not help.
        """
        loaded = self._load(study)
        who = hashlib.sha256(client.encode("utf-8", "surrogatepass")).hexdigest()

        def attempt(connection: Connection) -> tuple[str | None, int, int | None]:
            # Locked: of guesses in parallel, each sees the ones before it.
            stored = connection.execute(
                select(StudyRow.admin_hash).where(StudyRow.id == loaded.id).with_for_update()
            ).scalar_one()
            now = self._db.now(connection)
            rows = connection.execute(
                select(AttemptRow.client, AttemptRow.at).where(
                    AttemptRow.study_id == loaded.id, AttemptRow.at > now - limit.window
                )
            ).all()
            wait = max(
                limit.wait([row.at for row in rows if row.client == who], now, limit.per_client),
                limit.wait([row.at for row in rows], now, limit.overall),
            )
            if wait or stored is None:
                return stored, wait, None
            number = connection.execute(
                insert(AttemptRow).values(study_id=loaded.id, client=who, at=now).returning(AttemptRow.id)
            ).scalar_one()
            return stored, 0, number

        stored, wait, number = self._db.write(attempt)
        if stored is None:
            raise security.PasswordError("No password is set: run_bench.py study password sets one.")
        if wait:
            raise security.TooManyAttempts(wait)
        if not security.matches(password, stored):
            raise security.PasswordError("Wrong password.")
        # It was no wrong guess after all.
        self._db.write(lambda c: c.execute(delete(AttemptRow).where(AttemptRow.id == number)))


def _state(rater: Row, done: Counter[str], practice: int) -> State:
    """Where a rater is; ``done``: their votes by role."""
    if rater.finished_at is not None:
        return "finished"
    if rater.consented_at is None:
        return "consent"
    return "practice" if done["practice"] < practice else "trials"


def _check_recruited(external: str, recruited: Mapping[str, str] | None) -> None:
    """Raises :class:`StudyError` for names that have no place in the database."""
    for name, value in {"external name": external, **(recruited or {})}.items():
        if len(value) > 255 or "\x00" in value:
            raise StudyError(f"the rater's {name[:40]} has more than 255 characters. Shorten it.")


def _code(loaded: Loaded, rater: str) -> str:
    """The completion code that the rater gets."""
    return loaded.study.settings.completion_code or _own_code(loaded.secret, rater)


def _own_code(secret: str, rater: str) -> str:
    """Ten letters and digits that only the study can make; neither 0 nor 1 is among them."""
    digest = bytes.fromhex(security.opaque(secret, "completion", rater))
    return base64.b32encode(digest)[:10].decode()
