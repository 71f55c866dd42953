"""Converts cases to lines of ``cases.jsonl``, and checks cases and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from bench.edit import Claim, EditCase, EditRequest, Region, ScoredAreas
from bench.errors import BenchError
from bench.files import BrokenText, UnsafeName, safe_part, whole_text
from bench.images import ImageError, check_mask


class CaseError(BenchError):
    """A case, or a folder of cases, that cannot be used. The message names it and the remedy."""


def check_case(case: EditCase) -> None:
    """Checks everything that would make a method or a metric fail later. Raises :class:`CaseError` naming the case.

    It refuses an id that is no safe file name, images of another mode or size than the interface says, a mask that is
    empty, full or has values other than 0 and 255, regions without a mask, a case with neither a target prompt nor an
    instruction, and an expected attribute change of a region that does not exist.
    """
    # Types and names.
    if not isinstance(case, EditCase):
        raise CaseError(f"a case is a {type(case).__name__}, not an EditCase. Fix the protocol.")
    try:
        safe_part(case.id, "case id")
        safe_part(case.source_id, f"case {case.id}: source id")
    except UnsafeName as error:
        raise CaseError(str(error)) from None
    request, where = case.request, f"case {case.id}"
    names = _fields_of_wrong_type(case)
    if names:
        raise CaseError(f"{where}: {', '.join(names)}: None or of a wrong type. Fix the protocol.")

    # Images: RGB, and all of one size.
    size = request.source.size
    if request.source.mode != "RGB":
        raise CaseError(f"{where}: the source is of mode {request.source.mode}, not RGB. Convert it.")
    if case.truth is not None and (case.truth.mode != "RGB" or case.truth.size != size):
        raise CaseError(
            f"{where}: the ground truth is {case.truth.mode} {case.truth.size}, not RGB {size}. "
            "Render it at the source's size."
        )

    for index, image in enumerate(request.references):
        if image.mode != "RGB":
            raise CaseError(f"{where}: reference {index} is of mode {image.mode}, not RGB. Convert it.")

    # Masks: of the source's size, 0 and 255 only, neither empty nor full.
    if request.mask is None and request.regions:
        raise CaseError(f"{where}: it has regions and no mask. Give the union of the regions as the mask.")
    masks = [] if request.mask is None else [("the mask", request.mask)]
    masks += [(f"the mask of region {index}", region.mask) for index, region in enumerate(request.regions)]
    if case.scored is not None:
        masks.append(("the scored mask", case.scored.mask))
        masks += [(f"scored region {index}", region.mask) for index, region in enumerate(case.scored.regions)]
    for name, mask in masks:
        if mask.size != size:
            raise CaseError(f"{where}: {name} is {mask.size}, the source {size}. Make them one size.")
        try:
            check_mask(mask, name)
        except ImageError as error:
            raise CaseError(f"{where}: {error}") from None
        # Number of pixels of each value. A mask is of mode L by now.
        if any(mask.histogram()[1:255]):
            raise CaseError(f"{where}: {name} has values other than 0 and 255. Threshold it at 128.")

    # Texts.
    if not (request.target_prompt.strip() or request.instruction.strip()):
        raise CaseError(
            f"{where}: it has neither a target prompt nor an instruction. Say what the edited image shall show, or "
            "how to change the source."
        )
    if not case.category:
        raise CaseError(f"{where}: it has no category. Give it one.")
    try:
        _check_texts(case_row(case))
    except BrokenText as error:
        raise CaseError(f"{where}: {error}") from None

    # Expected attribute changes. Without regions, region 0 is the whole mask.
    for claim in case.claims:
        if not 0 <= claim.region < len(case.areas):
            raise CaseError(
                f"{where}: an expected attribute change (claims) names region {claim.region}, but the case has "
                f"{len((case.scored or request).regions)} regions and {'a' if case.areas else 'no'} mask. Fix its "
                "index, which counts from 0, or give a scored mask."
            )


def _check_texts(value: Any, name: str = "the case") -> None:
    """Raises ``BrokenText`` for half a character (a lone surrogate) in any text of a JSON value. It names the key."""
    if isinstance(value, str):
        whole_text(value, name)
    # Keys too: tags may have any.
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_texts(key, name)
            _check_texts(item, key)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, name)


def _fields_of_wrong_type(case: EditCase) -> list[str]:
    # Checked by hand, not by pydantic: a protocol builds these objects in code, and the message needs only the
    # names of the fields.
    from PIL.Image import Image

    request = case.request
    if not isinstance(request, EditRequest):
        return ["request"]
    fits = {
        "source": isinstance(request.source, Image),
        "mask": request.mask is None or isinstance(request.mask, Image),
        "source_prompt": isinstance(request.source_prompt, str),
        "target_prompt": isinstance(request.target_prompt, str),
        "region_prompt": isinstance(request.region_prompt, str),
        "instruction": isinstance(request.instruction, str),
        "edit_words": _all(request.edit_words, str),
        "regions": _are_regions(request.regions),
        "references": _all(request.references, Image),
        "scored": case.scored is None
        or (
            isinstance(case.scored, ScoredAreas)
            and isinstance(case.scored.mask, Image)
            and _are_regions(case.scored.regions)
        ),
        "category": isinstance(case.category, str),
        "claims": _all(case.claims, Claim)
        and all(
            isinstance(claim.region, int) and _all((claim.attribute, claim.before, claim.after), str)
            for claim in case.claims
        ),
        "truth": case.truth is None or isinstance(case.truth, Image),
        "tags": isinstance(case.tags, Mapping) and _all((*case.tags.keys(), *case.tags.values()), str),
    }
    return [name for name, good in fits.items() if not good]


def _are_regions(regions: object) -> bool:
    from PIL.Image import Image

    return _all(regions, Region) and all(
        isinstance(region.mask, Image) and isinstance(region.prompt, str) and _all(region.words, str)
        for region in regions  # type: ignore[attr-defined]
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, (tuple, list)) and all(isinstance(value, kind) for value in values)


# Lines of cases.jsonl. Other programs may write them too, so only the necessary keys are required.


def case_row(case: EditCase) -> dict[str, Any]:
    """The line of a case in ``cases.jsonl``. :func:`write_cases` may give ``source`` another name."""
    request = case.request
    row: dict[str, Any] = {
        "id": case.id,
        "category": case.category,
        "source_id": case.source_id,
        "source": f"sources/{case.source_id}.png",
        "mask": None if request.mask is None else f"masks/{case.id}.png",
        "source_prompt": request.source_prompt,
        "target_prompt": request.target_prompt,
        "region_prompt": request.region_prompt,
        "instruction": request.instruction,
        "edit_words": list(request.edit_words),
        "regions": _region_rows(request.regions, f"regions/{case.id}"),
        "seed": request.seed,
        "truth": None if case.truth is None else f"truths/{case.id}.png",
        "claims": [
            {
                "attribute": claim.attribute,
                "before": claim.before,
                "after": claim.after,
                "region": claim.region,
            }
            for claim in case.claims
        ],
        "tags": dict(case.tags),
    }
    # Absent where there are none, so that the files of earlier runs stay as they are.
    if request.references:
        row["references"] = [f"references/{case.id}/{i}.png" for i in range(len(request.references))]
    if case.scored is not None:
        row["scored"] = {
            "mask": f"scored/{case.id}/mask.png",
            "regions": _region_rows(case.scored.regions, f"scored/{case.id}"),
        }
    return row


def _region_rows(regions: Sequence[Region], folder: str) -> list[dict[str, Any]]:
    return [
        {"mask": f"{folder}/{index}.png", "prompt": region.prompt, "words": list(region.words)}
        for index, region in enumerate(regions)
    ]


_REQUIRED = ("id", "source_id", "category", "source", "mask", "target_prompt")
_DEFAULTS: Mapping[str, Any] = {
    "source_prompt": "",
    "region_prompt": "",
    "instruction": "",
    "edit_words": [],
    "regions": [],
    "references": [],
    "seed": 0,
    "truth": None,
    "claims": [],
    "tags": {},
    "scored": None,
}
_CLAIM_KEYS = {field.name for field in fields(Claim)}


def checked_row(row: Any) -> dict[str, Any]:
    """A line of ``cases.jsonl`` with its defaults. Raises ValueError that names a missing or wrong key.

    Additional keys are allowed, and stay.
    """
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    missing = sorted(set(_REQUIRED) - row.keys())
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    # Types, all at once, to name the first wrong key in the order of the format.
    checked: dict[str, Any] = {**_DEFAULTS, **row}
    fits = {
        **{name: isinstance(checked[name], str) for name in _REQUIRED},
        # null where there is none. The key itself is required, so that a misspelt one is no case without a mask.
        "mask": isinstance(checked["mask"], (str, type(None))),
        **{
            name: isinstance(checked[name], str) for name in ("source_prompt", "region_prompt", "instruction")
        },
        "edit_words": _all(checked["edit_words"], str),
        "regions": _are_region_rows(checked["regions"]),
        "references": _all(checked["references"], str),
        "scored": checked["scored"] is None
        or (
            isinstance(checked["scored"], dict)
            and isinstance(checked["scored"].get("mask"), str)
            and _are_region_rows(checked["scored"].get("regions"))
        ),
        # Python counts True and False as int, but they are no seed.
        "seed": isinstance(checked["seed"], int) and not isinstance(checked["seed"], bool),
        "truth": isinstance(checked["truth"], (str, type(None))),
        "claims": _all(checked["claims"], dict) and all(map(_is_claim, checked["claims"])),
        "tags": isinstance(checked["tags"], dict) and _all(list(checked["tags"].values()), str),
    }
    for name, good in fits.items():
        if not good:
            raise ValueError(f"{name} is of a wrong type")

    # Names that become paths, and texts that cannot be written again.
    safe_part(checked["id"], "case id")
    safe_part(checked["source_id"], "source id")
    _check_texts(checked)
    return checked


def _are_region_rows(value: object) -> bool:
    return _all(value, dict) and all(map(_is_region, value))  # type: ignore[call-overload]


def _is_region(value: Mapping[str, Any]) -> bool:
    return _all([value.get("mask"), value.get("prompt")], str) and _all(value.get("words"), str)


def _is_claim(value: Mapping[str, Any]) -> bool:
    texts = [value.get("attribute"), value.get("before"), value.get("after")]
    return value.keys() == _CLAIM_KEYS and isinstance(value["region"], int) and _all(texts, str)
