"""Creates the tables of the study database with Alembic, and reads which revision a database is at.

A later change of the tables is a new file in ``versions/``. ``tests/bench/study/test_migrations.py`` checks that the
revisions together make exactly the tables of ``bench.study.models``, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

FOLDER = Path(__file__).parent


def _config() -> Config:
    """Alembic's configuration. There is no ini file."""
    config = Config()
    # In Alembic's options, a per cent sign begins an interpolation.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    # Alembic warns where this option is missing, although there is one path only.
    config.set_main_option("path_separator", "os")
    return config


def revisions() -> list[str]:
    """All revisions of this version of the program, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def current(connection: Connection) -> str | None:
    """The revision of a database. None for one without tables."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection) -> None:
    """Brings a database to the newest revision, inside the connection's own transaction: all or nothing."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
