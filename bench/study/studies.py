"""Studies in the database: creating, reading and closing them, and their administrator's password.

:class:`StudyCatalog` is the base of the store's parts. ``registration`` and ``trials`` extend it, and
``store.StudyStore`` puts all of them together.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import Any, Self, TypeAlias

from sqlalchemy import Connection, delete, insert, select, update

from bench.files import UnsafeName, safe_part
from bench.registry import did_you_mean
from bench.study import StudyError, queries, security
from bench.study.database import Clock, Database
from bench.study.design import Design
from bench.study.interface import LoadedStudy, Study, UnknownRater, UnknownStudy, Withdrawn
from bench.study.models import AttemptRow, StudyRow, TrialRow
from bench.study.settings import StudySettings

# A row of a query. Its attributes are the query's columns.
Row: TypeAlias = Any


class StudyCatalog:
    """The studies of one database, and the methods that all parts of the store share."""

    def __init__(self, database: Database) -> None:
        """Use :meth:`open`."""
        self._db = database
        # Designs never change, so a study is read once per process.
        self._cache: dict[str, LoadedStudy] = {}
        self._writes = queries.Writes(is_sqlite=database.is_sqlite)

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        create: bool = True,
        patience: float = 20.0,
        clock: Clock | None = None,
    ) -> Self:
        """The store at the path of a SQLite file or at a PostgreSQL URL. See :meth:`Database.open`."""
        return cls(Database.open(target, create=create, patience=patience, clock=clock))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending writes and closes the database."""
        self._db.close()

    @property
    def name(self) -> str:
        """The file, or the URL without its password."""
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
        """Stores a new study. Raises :class:`StudyError` for an unsafe name, one that exists, or wrong settings."""
        try:
            safe_part(name, "study name")
        except UnsafeName as error:
            raise StudyError(str(error)) from None
        # Made before the transaction, so that a second attempt stores the same.
        settings.check()
        admin_hash = None if admin_password is None else security.hash_password(admin_password)
        secret = security.new_secret()

        # The study and all trials in one transaction.
        def work(connection: Connection) -> None:
            query = select(StudyRow.secret).where(StudyRow.name == name)
            existing = connection.execute(query).scalar_one_or_none()
            if existing == secret:
                return  # An earlier attempt stored it, and its answer was lost.
            if existing is not None:
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
            connection.execute(insert(TrialRow), _trial_rows(study_id, design, secret))

        self._db.write(work)
        return self.study(name)

    def studies(self) -> list[str]:
        """The names, in the order in which the studies were created."""
        return self._db.read(lambda c: list(c.scalars(select(StudyRow.name).order_by(StudyRow.id))))

    def study(self, name: str) -> Study:
        """Raises :class:`UnknownStudy`, or ``DesignError`` where the stored design was changed."""
        return self._load(name).study

    def close_study(self, name: str) -> None:
        """Takes no new raters and hands out no new trials from now on. Answers to open trials still count."""
        loaded = self._load(name)
        still_open = (StudyRow.id == loaded.id, StudyRow.closed_at.is_(None))
        self._db.write(
            lambda c: c.execute(update(StudyRow).where(*still_open).values(closed_at=self._db.now(c)))
        )

    def is_closed(self, name: str) -> bool:
        """True for a study that takes no new raters."""
        query = select(StudyRow.closed_at).where(StudyRow.id == self._load(name).id)
        return self._db.read(lambda c: c.execute(query).scalar_one()) is not None

    def set_address(self, study: str, address: str) -> None:
        """Stores the address at which a study is served, such as ``http://localhost:8501``."""
        if len(address) > 255:
            raise StudyError(
                f"the address {address[:40]}... has more than 255 characters. Give a shorter one."
            )
        statement = update(StudyRow).where(StudyRow.id == self._load(study).id).values(address=address)
        self._db.write(lambda c: c.execute(statement))

    def address(self, study: str) -> str | None:
        """The address at which a study was last served. None before that."""
        query = select(StudyRow.address).where(StudyRow.id == self._load(study).id)
        return self._db.read(lambda c: c.execute(query).scalar_one())

    # The administrator's password

    def set_admin_password(self, study: str, password: str) -> None:
        """Raises :class:`security.PasswordError` for a short password."""
        admin_hash = security.hash_password(password)
        statement = update(StudyRow).where(StudyRow.id == self._load(study).id).values(admin_hash=admin_hash)
        self._db.write(lambda c: c.execute(statement))

    def check_admin(
        self,
        study: str,
        password: str,
        client: str = "",
        limit: security.AttemptLimit = security.AttemptLimit(),  # noqa: B008
    ) -> None:
        """Returns if the password is right. Raises :class:`security.PasswordError` if it is wrong.

        After too many wrong passwords of this ``client`` (its network address) or of all clients, it raises
        ``TooManyAttempts`` without checking the password.
        """
        loaded = self._load(study)
        client_hash = hashlib.sha256(client.encode("utf-8", "surrogatepass")).hexdigest()

        # An attempt is counted before it is checked, so that parallel guesses are counted too. The count is in the
        # database, so that a restart of the app does not reset it.
        def attempt(connection: Connection) -> tuple[str | None, int, int | None]:
            """The stored hash, the seconds to wait, and the id of the counted attempt."""
            # The lock makes parallel guesses see each other.
            stored = connection.execute(
                select(StudyRow.admin_hash).where(StudyRow.id == loaded.id).with_for_update()
            ).scalar_one()
            now = self._db.now(connection)
            rows = connection.execute(
                select(AttemptRow.client, AttemptRow.at).where(
                    AttemptRow.study_id == loaded.id, AttemptRow.at > now - limit.window
                )
            ).all()
            own = [row.at for row in rows if row.client == client_hash]
            wait = max(
                limit.wait(own, now, limit.per_client),
                limit.wait([row.at for row in rows], now, limit.overall),
            )
            if wait or stored is None:
                return stored, wait, None
            number = connection.execute(
                insert(AttemptRow)
                .values(study_id=loaded.id, client=client_hash, at=now)
                .returning(AttemptRow.id)
            ).scalar_one()
            return stored, 0, number

        stored, wait, number = self._db.write(attempt)
        if stored is None:
            raise security.PasswordError("No password is set: run_bench.py study password sets one.")
        if wait:
            raise security.TooManyAttempts(wait)
        if not security.matches(password, stored):
            raise security.PasswordError("Wrong password.")
        # The right password does not count as an attempt.
        self._db.write(lambda c: c.execute(delete(AttemptRow).where(AttemptRow.id == number)))

    # For the other parts of the store

    def _load(self, name: str, connection: Connection | None = None) -> LoadedStudy:
        """A study with its secret. Raises :class:`UnknownStudy`.

        A caller that holds a ``connection`` passes it. With all connections in use, waiting for a second one while
        holding the first would block for ever.
        """
        if name in self._cache:
            return self._cache[name]
        # Read the row, over the caller's connection where there is one.
        query = select(
            StudyRow.id, StudyRow.design, StudyRow.settings, StudyRow.secret, StudyRow.created_at
        ).where(StudyRow.name == name)

        def work(connection: Connection) -> Row | None:
            return connection.execute(query).one_or_none()

        row = self._db.read(work) if connection is None else work(connection)
        # A rater reads that the study has ended, not the names of others.
        if row is None:
            names = self.studies()
            raise UnknownStudy(
                f"{self.name}: there is no study {name!r}.{did_you_mean(name, names)} "
                f"Studies: {', '.join(names) or 'none'}.",
            )
        # Parsing a design takes longer than any query, and checks its digest.
        study = Study(
            name, Design.from_json(row.design), StudySettings.from_json(row.settings), row.created_at
        )
        loaded = self._cache[name] = LoadedStudy(row.id, study, row.secret)
        return loaded

    def _rater(self, connection: Connection, rater: str, *, lock: bool = False) -> Row:
        """The rater's columns ``queries.RATER``. Raises :class:`UnknownRater` or :class:`Withdrawn`.

        With ``lock``, the second of two transactions about one rater waits for the first.
        """
        query = queries.RATER_LOCKED if lock else queries.RATER
        # Ids come from browsers, so only their beginning goes into messages.
        row = connection.execute(query, {"rater": rater}).one_or_none()
        if row is None:
            raise UnknownRater(f"{self.name}: there is no rater {rater[:40]!r}.")
        if row.withdrawn_at is not None:
            raise Withdrawn(f"{self.name}: rater {rater[:40]!r} has withdrawn.")
        return row

    def _votes_by_role(self, connection: Connection, rater_id: int) -> Counter[str]:
        """Number of the rater's votes by role."""
        rows = connection.execute(queries.VOTES_BY_ROLE, {"me": rater_id})
        return Counter({row.role: row.votes for row in rows})


def _trial_rows(study_id: int, design: Design, secret: str) -> list[dict[str, Any]]:
    """The rows of ``trials`` for a design."""
    return [
        {
            "study_id": study_id,
            "name": trial.id,
            "public": security.opaque(secret, "trial", trial.id, size=12),
            "role": trial.role,
            "kind": trial.kind,
            "question": trial.question,
            "case_key": trial.case,
            # Hashed, since a unit is a text of any length.
            "unit": hashlib.sha256(trial.unit.encode()).hexdigest(),
            "candidates": list(trial.candidates),
            "sheet": trial.sheet,
            "position": trial.position,
            "repeat_of": trial.repeat_of,
            "expected": trial.expected,
        }
        for trial in design.trials
    ]
