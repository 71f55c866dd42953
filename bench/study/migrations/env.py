"""Alembic's entry: migrates over the connection that :func:`bench.study.migrations.upgrade` hands in."""

from __future__ import annotations

from alembic import context

from bench.study.models import Base


def run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
