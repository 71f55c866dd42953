"""The script that Alembic runs for :func:`bench.study.migrations.upgrade`, over the connection that it passes in."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Alembic takes SQLite's DDL for not transactional. It is, since `database` begins transactions itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
