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

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select, update

from bench.files import UnsafeName, safe_part
from bench.registry import did_you_mean
from bench.study import StudyError, passwords, queries, tokens
from bench.study.database import SLACK, Clock, Database, within
from bench.study.design import Design
from bench.study.handout import Handout, Loaded, Void
from bench.study.interface import (
    VOTE_COLUMNS,
    Answer,
    Completion,
    Entry,
    NotFinished,
    OpenTrial,
    Progress,
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
)
from bench.study.models import (
    HUMAN,
    RATER_KINDS,
    SIMULATED,
    AttemptRow,
    HoldRow,
    InvitationRow,
    RaterRow,
    StudyRow,
    TrialRow,
    VoteRow,
)
from bench.study.quality import RaterQuality, quality
from bench.study.settings import StudySettings

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
        admin_hash = None if admin_password is None else passwords.hash_password(admin_password)
        secret = tokens.new_secret()

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
                        "public": tokens.opaque(secret, "trial", trial.id, size=12),
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

    def _load(self, name: str) -> Loaded:
        if name in self._cache:
            return self._cache[name]
        row = self._db.read(
            lambda c: c.execute(
                select(
                    StudyRow.id, StudyRow.design, StudyRow.settings, StudyRow.secret, StudyRow.created_at
                ).where(StudyRow.name == name)
            ).one_or_none()
        )
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
        nonces = [tokens.new_id() for _ in range(count)]

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
        return [tokens.sign(loaded.secret, "invitation", study, nonce, expires) for nonce in nonces]

    def redeem(self, token: str, session: str | None = None) -> Entry:
        """Takes up an invitation: a new rater; or the same one, where ``session`` is the one it gave.

        Raises ``tokens.TokenForged``, ``TokenExpired`` or ``TokenUsed`` (another rater took it up: whoever
        it was goes on with their session), :class:`StudyFull` (the invitation stays good) and
        :class:`StudyClosed`.
        """
        loaded, nonce = self._verified_invitation(token)
        public = tokens.new_id()

        def work(connection: Connection) -> str:
            found = self._invitation(connection, loaded, nonce, lock=True)
            if found.public is not None:
                return str(found.public)
            rater_id = self._register(connection, loaded, public, HUMAN, None)
            connection.execute(
                update(InvitationRow)
                .where(InvitationRow.id == found.id, InvitationRow.rater_id.is_(None))
                .values(rater_id=rater_id)
            )
            return public

        bound = self._db.write(work)
        if bound != public and (session is None or self._session_rater(session, loaded) != bound):
            raise tokens.TokenUsed(USED)
        return self._entry(loaded, bound)

    def check_invitation(self, token: str) -> None:
        """Raises what :meth:`redeem` would raise of the link itself; takes nothing up."""
        loaded, nonce = self._verified_invitation(token)
        if self._db.read(lambda c: self._invitation(c, loaded, nonce)).public is not None:
            raise tokens.TokenUsed(USED)

    def _verified_invitation(self, token: str) -> tuple[Loaded, str]:
        """The study of an invitation, and its nonce. Raises ``tokens.TokenForged`` or ``TokenExpired``."""
        loaded = self._verified_study(token)
        now = self._db.read(self._db.now)
        return loaded, tokens.verify(token, loaded.secret, "invitation", now).subject

    def _invitation(self, connection: Connection, loaded: Loaded, nonce: str, *, lock: bool = False) -> Row:
        """The invitation and the rater who took it up. Raises ``tokens.TokenForged`` where there is none."""
        query = (
            select(InvitationRow.id, RaterRow.public)
            .join(RaterRow, RaterRow.id == InvitationRow.rater_id, isouter=True)
            .where(InvitationRow.nonce == nonce, InvitationRow.study_id == loaded.id)
        )
        row = connection.execute(query.with_for_update(of=InvitationRow) if lock else query).one_or_none()
        if row is None:
            raise tokens.TokenForged("This link is not valid: the study does not know it.")
        return row

    def enter(self, study: str, external: str = "") -> Entry:
        """Open registration. ``external`` is what a recruiting service calls the rater, who goes on under it.

        Raises :class:`StudyClosed` where the study takes invited raters only, and :class:`StudyFull`.
        """
        loaded = self._load(study)
        if not loaded.study.settings.open_registration:
            raise StudyClosed(
                f"study {study}: takes invited raters only. Create it with open registration, or invite.",
                public="This study is open to invited people only. Use the link that you were sent.",
            )
        return self.register(study, external=external)

    def resume(self, session: str) -> Entry:
        """The rater of a session token. Raises ``tokens.TokenError`` or :class:`UnknownRater`."""
        loaded = self._verified_study(session)
        rater = self._session_rater(session, loaded)
        if rater is None:
            raise tokens.TokenForged("This link is not valid: it was altered or was not made by this study.")
        self.progress(rater)  # raises for a rater who is not there
        return self._entry(loaded, rater)

    def register(self, study: str, *, kind: str = HUMAN, external: str = "") -> Entry:
        """A new rater without any question asked: for ``enter``, simulations and tests.

        With an ``external`` name that is known, its rater. Raises :class:`StudyFull`, :class:`StudyClosed`.
        """
        if kind not in RATER_KINDS:
            raise StudyError(f"raters of kind {kind!r}: expected one of {', '.join(RATER_KINDS)}.")
        if len(external) > 255 or "\x00" in external:
            raise StudyError("the rater's external name has more than 255 characters. Shorten it.")
        loaded = self._load(study)
        public = tokens.new_id()

        def work(connection: Connection) -> str:
            self._lock_study(connection, loaded)
            same = RaterRow.public == public
            if external:
                same = or_(
                    same,
                    and_(
                        RaterRow.study_id == loaded.id,
                        RaterRow.kind == kind,
                        RaterRow.external == external,
                    ),
                )
            known = connection.execute(select(RaterRow.public).where(same)).scalar_one_or_none()
            if known is not None:
                return str(known)
            self._register(connection, loaded, public, kind, external or None)
            return public

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
        name = tokens.study_of(token)
        try:
            return self._load(name)
        except UnknownStudy:
            raise tokens.TokenForged(
                "This link is not valid: it was altered or was not made by this study."
            ) from None

    def _session_rater(self, session: str, loaded: Loaded) -> str | None:
        try:
            claims = tokens.verify(session, loaded.secret, "session", self._db.read(self._db.now))
        except tokens.TokenError:
            return None
        return claims.subject if claims.study == loaded.study.name else None

    def _entry(self, loaded: Loaded, rater: str) -> Entry:
        name = loaded.study.name
        return Entry(rater, tokens.sign(loaded.secret, "session", name, rater), name)

    def _lock_study(self, connection: Connection, loaded: Loaded) -> datetime | None:
        """Registrations of one study wait for each other; returns when it was closed."""
        return connection.execute(
            select(StudyRow.closed_at).where(StudyRow.id == loaded.id).with_for_update()
        ).scalar_one()

    def _register(
        self, connection: Connection, loaded: Loaded, public: str, kind: str, external: str | None
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
        state: State
        if me.finished_at is not None:
            state = "finished"
        elif me.consented_at is None:
            state = "consent"
        else:
            state = "practice" if counts["practice"] < options.practice else "trials"
        return Progress(done, options.trials, counts["practice"], options.practice, state)

    def completion(self, rater: str) -> Completion:
        """The code that shows that the rater has finished. Raises :class:`NotFinished`."""
        me = self._db.read(lambda c: self._handout.rater(c, rater))
        if me.finished_at is None:
            raise NotFinished(f"rater {rater}: has trials left.")
        loaded = self._load(me.study)
        settings = loaded.study.settings
        code = settings.completion_code or _own_code(loaded.secret, rater)
        if settings.return_url is None:
            return Completion(code, None)
        return Completion(
            code,
            settings.return_url.format(code=quote(code, safe=""), rater=quote(me.external or "", safe="")),
        )

    def finished_by_code(self, study: str, code: str) -> str | None:
        """The rater whose own completion code it is; None where it is nobody's who has finished."""
        loaded = self._load(study)
        raters = self._db.read(
            lambda c: list(
                c.scalars(
                    select(RaterRow.public).where(
                        RaterRow.study_id == loaded.id, RaterRow.finished_at.is_not(None)
                    )
                )
            )
        )
        given = code.strip().upper().encode()
        for rater in raters:
            if hmac.compare_digest(_own_code(loaded.secret, rater).encode(), given):
                return rater
        return None

    # For the administrator and the analysis

    def votes(self, study_id: str | None = None, kind: str = HUMAN) -> pd.DataFrame:
        """Every vote of one study (None: of all) by raters of one kind; columns ``VOTE_COLUMNS``.

        In the order in which they were stored. ``kind`` is ``human`` or ``simulated``: the two never come
        in one frame. ``server_time`` is aware UTC.
        """
        import pandas as pd

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
                select(RaterRow.id, RaterRow.public, RaterRow.number, RaterRow.finished_at)
                .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind)
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
            raters = connection.execute(
                select(RaterRow.seen_at, RaterRow.finished_at).where(
                    RaterRow.study_id == loaded.id, RaterRow.kind == kind
                )
            ).all()
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
                closed=closed_at is not None,
            )

        return self._db.read(work)

    def set_admin_password(self, study: str, password: str) -> None:
        """Raises ``passwords.PasswordError`` for a short one."""
        loaded = self._load(study)
        stored = passwords.hash_password(password)
        self._db.write(
            lambda c: c.execute(update(StudyRow).where(StudyRow.id == loaded.id).values(admin_hash=stored))
        )

    def check_admin(
        self,
        study: str,
        password: str,
        client: str = "",
        limit: passwords.RateLimit = passwords.RateLimit(),  # noqa: B008
    ) -> None:
        """Returns for the right password. Raises ``passwords.PasswordError`` for a wrong one, and
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
            raise passwords.PasswordError("No password is set: run_bench.py study password sets one.")
        if wait:
            raise passwords.TooManyAttempts(wait)
        if not passwords.matches(password, stored):
            raise passwords.PasswordError("Wrong password.")
        # It was no wrong guess after all.
        self._db.write(lambda c: c.execute(delete(AttemptRow).where(AttemptRow.id == number)))


def _own_code(secret: str, rater: str) -> str:
    """Ten letters and digits that only the study can make; neither 0 nor 1 is among them."""
    digest = bytes.fromhex(tokens.opaque(secret, "completion", rater))
    return base64.b32encode(digest)[:10].decode()
