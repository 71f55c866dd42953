"""Columns of raters: the answers to the screener, and why a rater's part ended early."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("raters", sa.Column("screening", sa.JSON(), nullable=True))
    op.add_column("raters", sa.Column("ended", sa.String(length=20), nullable=True))
