"""Requests at half the tiny pipelines' native side, a quarter of the work: for all that is not about size."""

from __future__ import annotations

from PIL.Image import Image

from bench.edit import EditRequest
from tests.methods.conftest import box_mask, picture, request

SMALL = (32, 32)


def small(seed: int = 0, mask: Image | None = None, source: Image | None = None) -> EditRequest:
    return request(seed, mask or box_mask(4, 8, 20, 24, SMALL), source or picture(seed, SMALL))
