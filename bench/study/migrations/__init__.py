"""How the study database came to be what ``models`` says. ``upgrade`` brings any older one up to date.

A new revision is a file in ``versions/``; ``tests/bench/study/test_migrations.py`` holds that the revisions
together make exactly the models' tables, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

FOLDER = Path(__file__).parent


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, made here: there is no ini file. ``connection`` is the one to migrate over."""
    made = Config()
    # A per cent sign would be interpolation to it.
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def head() -> str:
    """The newest revision."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    assert found is not None
    return found


def current(connection: Connection) -> str | None:
    """The revision of a database; None for one that no migration has touched."""
    return MigrationContext.configure(connection).get_current_revision()


def known(revision: str) -> bool:
    """Whether this version has heard of a revision."""
    return any(entry.revision == revision for entry in ScriptDirectory.from_config(config()).walk_revisions())


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrates inside the connection's own transaction: all or nothing."""
    command.upgrade(config(connection), revision)
