"""Masks and words of the regions of a corpus's edits, which PromptEditDiff needs beyond the corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.edit import EditCase
from bench.images import mask_array
from methods.training import ProgressReport, silent
from methods.zoo import corpus as cp

if TYPE_CHECKING:
    from torch import nn

    from methods.zoo.job import Job

# Largest number of regions of an edit of the world.
REGIONS = 3
SIDE = 64


class Regions:
    """Masks and words of the regions of every edit of a corpus, in chunks beside it.

    Arrays per edit: ``masks`` uint8 (N, 3, 512), 64 x 64 bits each. ``regions``: JSON of the prompt and words of each
    region. ``target_prompt`` and ``mask`` identify the corpus's edit. ``known`` is False where the world no longer
    renders this edit. Its mask is then its only region, and a comparison of the prompts gives the words.
    """

    def __init__(self, corpus: cp.Corpus) -> None:
        self.corpus = corpus

    def draw(self, report: ProgressReport = silent) -> None:
        """Make the chunks that are missing or belong to another corpus. Raises ValueError if most edits are unknown."""
        shares = []
        for chunk in self.corpus.chunks:
            with np.load(self.corpus.image_path(chunk)) as file:
                edits = {name: file[name] for name in ("mask", "target_prompt", "region_prompt")}
            path = self._path(chunk)
            # A folder may contain regions of a corpus that was rendered again since.
            if not (path.exists() and _fits(path, edits)):
                cases = [self.corpus.world.case(chunk * cp.CHUNK + i) for i in range(cp.CHUNK)]
                cp.save_arrays(path, _region_arrays(cases, edits))
            with np.load(path) as file:
                shares.append(float(file["known"].mean()))
            done = (chunk + 1) * cp.CHUNK
            report(done, self.corpus.size, {"regions drawn": float(done), "known": float(np.mean(shares))})
        if np.mean(shares) < 0.5:
            raise ValueError(
                f"the corpus in {self.corpus.folder} was drawn by another version of the world: of its edits, "
                f"{np.mean(shares):.0%} are this one's. Delete the folder, and it is drawn anew."
            )

    def load(self) -> dict[str, Any]:
        """All chunks in memory: ``masks`` as above, ``regions`` a list of (prompt, words) per edit."""
        masks, texts = [], []
        for chunk in self.corpus.chunks:
            with np.load(self._path(chunk)) as file:
                masks.append(file["masks"])
                texts += [json.loads(str(text)) for text in file["regions"]]
        return {"masks": np.concatenate(masks), "regions": texts}

    def _path(self, chunk: int) -> Path:
        return self.corpus.folder / f"regions-{chunk:04d}.npz"


def edits_and_regions(task: Job, vae: nn.Module) -> tuple[cp.Corpus, Regions]:
    """The edits that a training learns from, encoded by ``vae``, and their regions. What is missing is made."""
    edits = task.edits()
    edits.encode(vae, task.machine.device, task.progress("edits encoded"), task.machine.dtype)
    regions = Regions(edits)
    regions.draw(task.report)
    return edits, regions


def _fits(path: Path, edits: Mapping[str, Any]) -> bool:
    """True if a chunk belongs to these edits."""
    with np.load(path) as file:
        same_texts = file["target_prompt"].tolist() == edits["target_prompt"].tolist()
        return same_texts and bool(np.array_equal(file["mask"], _packed(edits["mask"])))


def _packed(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bool (..., 64, 64) => uint8 (..., 512)."""
    # A bit per pixel, since all masks of a corpus are in memory at once.
    return np.packbits(masks.reshape(*masks.shape[:-2], SIDE * SIDE), axis=-1)


def unpacked(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """uint8 (N, R, 512) => bool (N, R, 64, 64)."""
    return np.unpackbits(masks, axis=2).astype(np.bool_).reshape(len(masks), REGIONS, SIDE, SIDE)


def _region_arrays(cases: Sequence[EditCase], edits: Mapping[str, Any]) -> dict[str, Any]:
    # (N, R, 64, 64). Unused regions stay empty.
    masks = np.zeros((len(cases), REGIONS, SIDE, SIDE), np.bool_)
    texts: list[str] = []
    same = np.zeros(len(cases), np.bool_)
    for n, case in enumerate(cases):
        request = case.request
        areas = [mask_array(region.mask) for region in request.regions] or [mask_array(request.needed_mask)]
        regions: list[tuple[str, list[str]]]
        # The world's case counts only if it is still the corpus's edit.
        same[n] = (
            len(areas) <= REGIONS
            and request.target_prompt == str(edits["target_prompt"][n])
            and np.array_equal(mask_array(request.needed_mask), edits["mask"][n])
        )
        if same[n]:
            regions = [(region.prompt, list(region.words)) for region in request.regions]
            # An edit without regions has one: its whole mask.
            regions = regions or [(request.region_prompt, list(request.edit_words))]
            masks[n, : len(areas)] = areas
        else:
            # No words: `tags` then compares the prompts.
            regions = [(str(edits["region_prompt"][n]), [])]
            masks[n, 0] = edits["mask"][n]
        texts.append(json.dumps(regions))
    return {
        "masks": _packed(masks),
        "regions": np.array(texts),
        "known": same,
        "target_prompt": edits["target_prompt"],
        "mask": _packed(edits["mask"]),
    }
