"""The page of a run: tables, gallery, viewer and manifest in one folder that needs no server."""

from reports.page.write import write_page

__all__ = ["write_page"]
