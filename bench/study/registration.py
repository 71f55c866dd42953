"""Raters join a study by invitation or open registration, and return with a session."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from bench.study import StudyError, queries, security
from bench.study.database import within
from bench.study.interface import (
    SESSION_DAYS,
    LoadedStudy,
    RaterSession,
    StudyClosed,
    StudyFull,
    TookPart,
    UnknownStudy,
    Withdrawn,
)
from bench.study.models import HUMAN, RATER_KINDS, InvitationRow, RaterRow, StudyRow, TrialRow
from bench.study.studies import Row, StudyCatalog

FORGED = "This link is not valid: it was altered or was not made by this study."
USED = (
    "This link has been used already. Go on in the browser in which you began, "
    "or with the personal link that you were given there."
)


class Registration(StudyCatalog):
    """The part of the store that registers raters."""

    def invite(self, study: str, count: int = 1, *, days: float | None = 30, note: str = "") -> list[str]:
        """Makes ``count`` signed invitations. Each is valid for one rater and ``days`` days (None: for ever)."""
        if not 1 <= count <= 10_000:
            raise StudyError(f"--count {count}: expected 1 to 10000 invitations.")
        if days is not None and not 0 < days <= 3650:
            raise StudyError(f"--days {days}: expected more than 0 and at most 3650.")
        if len(note) > 255:
            raise StudyError(f"--note: {len(note)} characters; at most 255 are allowed. Shorten it.")
        loaded = self._load(study)
        # The token contains the nonce, and the table stores it. A signed token alone is not enough, so somebody who has
        # read the secret once cannot make invitations without the database.
        nonces = [security.new_id() for _ in range(count)]

        def work(connection: Connection) -> datetime | None:
            now = self._db.now(connection)
            expires = None if days is None else now + timedelta(days=days)
            common = {"study_id": loaded.id, "note": note, "created_at": now, "expires_at": expires}
            # A second call after a lost answer stores nothing twice.
            connection.execute(
                self._writes.insert(InvitationRow).on_conflict_do_nothing(index_elements=["nonce"]),
                [{"nonce": nonce, **common} for nonce in nonces],
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
    ) -> RaterSession:
        """Uses an invitation. Returns a session of a new rater, or of the rater who used it before.

        A rater who comes back is recognised by their ``session``, or by ``external``, the id that a recruiting service
        gives them. ``recruited``: see :meth:`register`.

        Raises ``security.TokenForged``, ``TokenExpired``, ``TokenUsed`` (another rater has used it, or this one takes
        part by another invitation), :class:`Withdrawn`, :class:`StudyFull` (the invitation stays valid) and
        :class:`StudyClosed`.
        """
        # The signature, and whether the link has ended.
        _check_recruited(external, recruited)
        loaded, nonce = self._verified_invitation(token)
        public = security.new_id()

        def work(connection: Connection) -> tuple[str, str | None]:
            """The rater of the invitation, and the recruiting service's id of a rater who came before."""
            row = self._invitation(connection, loaded, nonce, lock=True)
            if row.public is not None:
                return str(row.public), row.external
            # The first use makes the rater.
            self._lock_study(connection, loaded)
            self._check_new(connection, loaded, external)
            rater_id = self._insert_rater(connection, loaded, public, HUMAN, external or None, recruited)
            connection.execute(
                update(InvitationRow)
                .where(InvitationRow.id == row.id, InvitationRow.rater_id.is_(None))
                .values(rater_id=rater_id)
            )
            return public, None

        # The rater who used the invitation goes on. Others are refused: a forwarded link must not give two people one
        # rater's trials.
        bound, bound_external = self._db.write(work)
        same = bound == public or (bool(external) and external == bound_external)
        if not same and (session is None or self._session_rater(session, loaded) != bound):
            raise security.TokenUsed(USED)
        return self._session(loaded, bound)

    def check_invitation(
        self, token: str, *, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> None:
        """Raises the errors of :meth:`redeem` that concern the link itself. Does not use the invitation."""
        _check_recruited(external, recruited)
        loaded, nonce = self._verified_invitation(token)

        def work(connection: Connection) -> None:
            row = self._invitation(connection, loaded, nonce)
            if row.public is None:
                self._check_new(connection, loaded, external)
            # Without a session, only the recruiting service's id can say that it is the same person.
            elif not external or external != row.external:
                raise security.TokenUsed(USED)

        self._db.read(work)

    def enter(
        self, study: str, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> RaterSession:
        """Open registration. A rater whose ``external`` id is in the study goes on where they were.

        Raises :class:`StudyClosed` where the study takes invited raters only, and :class:`StudyFull`.
        """
        loaded = self._load(study)
        # The study's own setting decides, whatever link a browser opens.
        if not loaded.study.settings.open_registration:
            raise StudyClosed(
                f"study {study}: takes invited raters only. Create it with open registration, or invite.",
                word="InvitedOnly",
            )
        return self.register(study, external=external, recruited=recruited)

    def resume(self, session: str) -> RaterSession:
        """The rater of a session token. Raises ``security.TokenError`` or :class:`UnknownRater`.

        A session ends ``SESSION_DAYS`` after the rater's last answer (``TokenExpired``).
        """
        loaded = self._verified_study(session)
        rater = self._session_rater(session, loaded)
        if rater is None:
            raise security.TokenForged(FORGED)
        # Raises for a rater who is unknown or has withdrawn.
        seen_at, now = self._db.read(lambda c: (self._rater(c, rater).seen_at, self._db.now(c)))
        if now - seen_at > timedelta(days=SESSION_DAYS):
            raise security.TokenExpired(
                f"This link ended, because it was not used for {SESSION_DAYS} days. Ask the person who sent it "
                "for a new one."
            )
        return self._session(loaded, rater)

    def register(
        self,
        study: str,
        *,
        kind: str = HUMAN,
        external: str = "",
        recruited: Mapping[str, str] | None = None,
    ) -> RaterSession:
        """A new rater, or the rater who has this ``external`` id, without any condition.

        ``recruited``: all parameters that a recruiting service put into the link. The latest ones are stored. Raises
        :class:`StudyFull` and :class:`StudyClosed`.
        """
        if kind not in RATER_KINDS:
            raise StudyError(f"raters of kind {kind!r}: expected one of {', '.join(RATER_KINDS)}.")
        _check_recruited(external, recruited)
        loaded = self._load(study)
        public = security.new_id()

        def work(connection: Connection) -> str:
            # The lock makes numbers consecutive and keeps one external id from becoming two raters.
            self._lock_study(connection, loaded)
            query = select(RaterRow.public).where(RaterRow.public == public)
            if connection.execute(query).scalar_one_or_none() is not None:
                return public  # An earlier attempt stored the rater, and its answer was lost.
            # A rater whom the recruiting service sends again.
            rater = self._by_external(connection, loaded, kind, external) if external else None
            if rater is None:
                self._check_waves(connection, loaded, external)
                self._insert_rater(connection, loaded, public, kind, external or None, recruited)
                return public
            if recruited:
                connection.execute(
                    update(RaterRow).where(RaterRow.public == rater).values(recruited=dict(recruited))
                )
            return rater

        return self._session(loaded, self._db.write(work))

    def consent(self, rater: str) -> None:
        """Stores that the rater has agreed to take part. The first time counts."""
        undecided = (RaterRow.public == rater, RaterRow.consented_at.is_(None))
        self._db.write(
            lambda c: c.execute(update(RaterRow).where(*undecided).values(consented_at=self._db.now(c)))
        )

    # Tokens

    def _verified_study(self, token: str) -> LoadedStudy:
        """The study that a token names. The token's signature is not verified yet."""
        try:
            return self._load(security.study_of(token))
        except UnknownStudy:
            raise security.TokenForged(FORGED) from None

    def _verified_invitation(self, token: str) -> tuple[LoadedStudy, str]:
        """Study and nonce of an invitation. Raises ``security.TokenForged`` or ``TokenExpired``."""
        loaded = self._verified_study(token)
        now = self._db.read(self._db.now)
        return loaded, security.verify(token, loaded.secret, "invitation", now).subject

    def _session_rater(self, session: str, loaded: LoadedStudy) -> str | None:
        """The rater of a session of this study. None for any other text."""
        try:
            content = security.verify(session, loaded.secret, "session", self._db.read(self._db.now))
        except security.TokenError:
            return None
        return content.subject if content.study == loaded.study.name else None

    def _session(self, loaded: LoadedStudy, rater: str) -> RaterSession:
        return RaterSession(rater, security.sign(loaded.secret, "session", loaded.study.name, rater))

    # Rows

    def _invitation(
        self, connection: Connection, loaded: LoadedStudy, nonce: str, *, lock: bool = False
    ) -> Row:
        """An invitation with the rater who used it.

        Raises ``security.TokenForged`` where there is no such invitation, and :class:`Withdrawn`.
        """
        query = (
            select(InvitationRow.id, RaterRow.public, RaterRow.external, RaterRow.withdrawn_at)
            .join(RaterRow, RaterRow.id == InvitationRow.rater_id, isouter=True)
            .where(InvitationRow.nonce == nonce, InvitationRow.study_id == loaded.id)
        )
        # The lock makes a second use of the same invitation wait for the first.
        row = connection.execute(query.with_for_update(of=InvitationRow) if lock else query).one_or_none()
        if row is None:
            raise security.TokenForged("This link is not valid: the study does not know it.")
        if row.withdrawn_at is not None:
            raise Withdrawn(f"{self.name}: rater {row.public!r} has withdrawn.")
        return row

    def _check_new(self, connection: Connection, loaded: LoadedStudy, external: str) -> None:
        """Raises ``security.TokenUsed`` where the study already has a rater with this ``external`` id.

        Raises :class:`TookPart` where an earlier wave has them.
        """
        self._check_waves(connection, loaded, external)
        if external and self._by_external(connection, loaded, HUMAN, external) is not None:
            raise security.TokenUsed(
                "You take part in this study already. Go on in the browser in which you began, or with the "
                "personal link that you were given there."
            )

    def _check_waves(self, connection: Connection, loaded: LoadedStudy, external: str) -> None:
        """Raises :class:`TookPart` where an earlier wave of the study has a rater with this ``external`` id."""
        earlier = loaded.study.settings.continues
        visited = {loaded.study.name}
        # From wave to wave. A wave that was deleted with its database is not looked for.
        while external and earlier is not None and earlier not in visited:
            visited.add(earlier)
            wave = self._load(earlier, connection)
            if self._by_external(connection, wave, HUMAN, external) is not None:
                raise TookPart(f"rater {external[:40]!r} took part in {earlier}.")
            earlier = wave.study.settings.continues

    def _lock_study(self, connection: Connection, loaded: LoadedStudy) -> datetime | None:
        """Makes registrations of one study wait for each other. Returns when the study was closed."""
        return connection.execute(
            select(StudyRow.closed_at).where(StudyRow.id == loaded.id).with_for_update()
        ).scalar_one()

    def _by_external(
        self, connection: Connection, loaded: LoadedStudy, kind: str, external: str
    ) -> str | None:
        """The rater with the recruiting service's id ``external``."""
        return connection.execute(
            select(RaterRow.public).where(
                RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.external == external
            )
        ).scalar_one_or_none()

    def _insert_rater(
        self,
        connection: Connection,
        loaded: LoadedStudy,
        public: str,
        kind: str,
        external: str | None,
        recruited: Mapping[str, str] | None,
    ) -> int:
        """Stores a new rater and returns the row's id. Raises :class:`StudyClosed` or :class:`StudyFull`."""
        name = loaded.study.name
        if self._lock_study(connection, loaded) is not None:
            raise StudyClosed(f"study {name} is closed.")
        now = self._db.now(connection)
        # Raters are never deleted, so their count is the next number.
        number = connection.execute(
            select(func.count())
            .select_from(RaterRow)
            .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind)
        ).scalar_one()
        # Without a free sheet, the rater would have nothing to answer. The pool of an adaptive study has more sheets
        # than the study wants raters.
        sheet = self._free_sheet(connection, loaded, kind, now)
        if sheet is None or self._has_all_raters(connection, loaded, kind, now):
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

    def _has_all_raters(self, connection: Connection, loaded: LoadedStudy, kind: str, now: datetime) -> bool:
        """True in an adaptive study for which as many raters as it wants have finished or are at work."""
        options = loaded.study.design.options
        if not options.adaptive:
            return False
        rows = connection.execute(
            select(RaterRow.finished_at, RaterRow.seen_at).where(
                RaterRow.study_id == loaded.id,
                RaterRow.kind == kind,
                RaterRow.ended.is_(None),
                RaterRow.withdrawn_at.is_(None),
            )
        )
        counted = [
            row for row in rows if row.finished_at is not None or within(row.seen_at, now, loaded.lease)
        ]
        return len(counted) >= options.raters

    def _free_sheet(
        self, connection: Connection, loaded: LoadedStudy, kind: str, now: datetime
    ) -> int | None:
        """The sheet with the most open trials that no rater is at work on. None where there is none."""
        # A sheet is one rater's balanced share of the design. New raters get whole sheets first. Sheets that other
        # raters left unfinished come last.
        open_trials = connection.execute(
            select(TrialRow.sheet, func.count())
            .where(TrialRow.study_id == loaded.id, TrialRow.role == "trial", ~queries.answered())
            .group_by(TrialRow.sheet),
            {"kind": kind},
        ).all()
        raters = connection.execute(
            select(RaterRow.sheet, RaterRow.seen_at).where(
                RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.finished_at.is_(None)
            )
        )
        occupied = {row.sheet for row in raters if within(row.seen_at, now, loaded.lease)}
        # The most open trials first, then the lowest number.
        free = [
            (-count, sheet) for sheet, count in open_trials if sheet is not None and sheet not in occupied
        ]
        return min(free)[1] if free else None


def _check_recruited(external: str, recruited: Mapping[str, str] | None) -> None:
    """Raises :class:`StudyError` for texts that the database has no room for."""
    # The columns take 255 characters, and PostgreSQL refuses the character 0 in any text.
    for name, value in {"external name": external, **(recruited or {})}.items():
        if len(value) > 255 or "\x00" in value:
            raise StudyError(f"the rater's {name[:40]} has more than 255 characters. Shorten it.")
