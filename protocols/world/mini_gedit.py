"""The rendered world in GEdit-Bench's shape: instructions alone, pictures that are not square, no masks.

Methods get a source and an instruction. The cases are those of ``world-512-scenes`` and ``world-512-faces`` at 64 px,
cut to landscapes and portraits and named as GEdit-Bench names their kinds. They are cut, and not drawn at a wider
canvas, so that objects keep the size that the embedded models know: a method that works on squares pads a wide picture
and shrinks it. The world knows what changes where, so metrics may use the exact region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from PIL import Image

from bench.edit import EditCase, EditProtocol, EditRequest, ScoredAreas, stable_digest
from protocols.selection import CaseList, Choice, fingerprint
from protocols.world.large import WorldFaces, WorldOptions, WorldScenes
from protocols.world.world import SIZE, WORLD_VERSION

# (width, height) in pixels. Flatter pictures lose too much of a background: the attribute classifier reads a square of
# the shorter side, and at 64x48 it misreads a quarter of the backgrounds of the ground truth.
LANDSCAPE, PORTRAIT = (SIZE, 56), (56, SIZE)


class _Scenes(WorldScenes):
    categories = ("background", "attribute", "replacement")


class _Faces(WorldFaces):
    categories = ("attribute",)


# GEdit-Bench's category -> (part of the world, the paper's category).
_ORIGINS: dict[str, tuple[str, str]] = {
    "background_change": ("scenes", "background"),
    "color_alter": ("scenes", "attribute"),
    "ps_human": ("faces", "attribute"),
    "subject-replace": ("scenes", "replacement"),
}
_SIZES = {"scenes": LANDSCAPE, "faces": PORTRAIT}


class MiniGEdit(EditProtocol):
    """Instructions for rendered pictures, without masks for the methods."""

    name = "mini-gedit"
    # The drawings' version: other pixels are other cases.
    version = WORLD_VERSION
    rendered = True
    categories = tuple(_ORIGINS)
    canvas = None
    summary = "rendered scenes and portraits that are not square, instructions without masks (embedded)"

    @dataclass(frozen=True)
    class Options:
        cases_per_category: int = 50
        reference_count: int = 500
        """Images that realism is measured against, half of them scenes."""
        areas: bool = True
        """Metrics know the exact region of each edit. False: they know no more than those of GEdit-Bench, and leakage
        and success have no value."""

        def __post_init__(self) -> None:
            # Checks both numbers.
            WorldOptions(cases_per_category=self.cases_per_category, reference_count=self.reference_count)

    def __init__(self, options: MiniGEdit.Options) -> None:
        super().__init__(options)
        part = WorldOptions(
            canvas=SIZE,
            cases_per_category=options.cases_per_category,
            reference_count=(options.reference_count + 1) // 2,
        )
        self._parts: dict[str, _Scenes | _Faces] = {"scenes": _Scenes(part), "faces": _Faces(part)}

    @cached_property
    def digest(self) -> str:
        """12 hex digits over all cases, pixels included. Draws every case once."""
        cases = [fingerprint(case) for case in self.cases()]
        return stable_digest({"name": self.name, "version": self.version, "cases": cases})

    def cases(self) -> CaseList[tuple[str, Choice]]:
        """All cases, category by category. Each is drawn when it is read."""
        choices = [
            (category, choice)
            for category, (part, kind) in _ORIGINS.items()
            for choice in self._parts[part].cases().choices
            if choice.category == kind
        ]
        return CaseList(choices, self._build)

    def _build(self, entry: tuple[str, Choice]) -> EditCase:
        """The case under GEdit-Bench's name of its kind. Its request keeps the source and the instruction alone."""
        category, choice = entry
        part, _ = _ORIGINS[category]
        square = self._parts[part].build(choice)
        mask = square.request.needed_mask
        box = window(mask, _SIZES[part])
        regions = (replace(region, mask=region.mask.crop(box)) for region in square.request.regions)
        request = EditRequest(
            source=square.request.source.crop(box),
            mask=None,
            source_prompt="",
            target_prompt="",
            region_prompt="",
            instruction=square.request.instruction,
        )
        return replace(
            square,
            id=f"{category}-{square.id}",
            category=category,
            request=request,
            # The two parts number their pictures alike.
            source_id=f"{part}-{square.source_id}",
            claims=square.claims if self.options.areas else (),
            truth=None if square.truth is None else square.truth.crop(box),
            scored=ScoredAreas(mask.crop(box), tuple(regions)) if self.options.areas else None,
        )

    def reference(self) -> Iterator[Image.Image]:
        """Pictures of the sizes of the cases, cut from the middle: first the scenes, then the portraits."""
        return chain.from_iterable(
            (
                image.crop(window(Image.new("L", image.size, 255), _SIZES[part]))
                for image in protocol.reference()
            )
            for part, protocol in self._parts.items()
        )


def window(mask: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """PIL's box of ``size`` within the mask's image that has the middle of the mask's own box nearest to its middle."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    x = min(max((left + right - size[0]) // 2, 0), mask.width - size[0])
    y = min(max((top + bottom - size[1]) // 2, 0), mask.height - size[1])
    return x, y, x + size[0], y + size[1]
