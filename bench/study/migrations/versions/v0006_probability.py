"""The column of issues that logs how likely an adaptive study was to choose the trial."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("issues", sa.Column("probability", sa.Float(), nullable=True))
