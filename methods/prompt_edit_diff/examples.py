"""Examples of the full-size training: from cases with a ground truth to batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.edit import EditCase
from bench.images import mask_array, resize, resize_mask
from methods.prompt_edit_diff.config import Config
from methods.prompt_edit_diff.tags import Tagged, back, tag, tag_request, to_tokens
from methods.training import TrainingError


class Examples(Dataset[dict[str, Tensor]]):
    """Maps a position in the training to one example. Case, direction and mask follow from the position alone.

    ``source``, ``target`` uint8 (3, H, W). ``regions`` bool (R, H, W). ``tokens`` int64 (L,), ``member`` bool (R, L),
    ``words`` bool (L,). All examples have the same R, ``regions``, so that they stack.
    """

    def __init__(self, cases: Sequence[EditCase], tokenizer: Any, config: Config, regions: int = 3) -> None:
        if not len(cases):
            raise TrainingError("there are no cases to learn from")
        self.cases, self.tokenizer, self.config, self.regions = cases, tokenizer, config, regions
        self._size = (config.size, config.size)

    def __len__(self) -> int:
        return len(self.cases)

    def row(self, position: int) -> int:
        """Index of the case at a position. Each epoch is a permutation of its own, without repetition."""
        # Every case is seen once per epoch.
        epoch, place = divmod(position, len(self.cases))
        rng = np.random.Generator(np.random.PCG64([self.config.seed, epoch, 1]))
        return int(rng.permutation(len(self.cases))[place])

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        config = self.config
        rng = np.random.Generator(np.random.PCG64([config.seed, position, 2]))
        case = self.cases[self.row(position)]
        if case.truth is None:
            raise TrainingError(
                f"case {case.id} has no result to learn from: make its training tuple first (make_training_tuples)"
            )
        request = case.request
        # Mask dropout (paper, 2.F): some regions get another size or shape. (1, R, H, W)
        areas = config.mask_dropout(self._regions(case), rng)

        # Some examples learn the way back to the source, and some learn without text.
        chances = rng.random(2)
        forward = tag_request(request)
        tagged: Tagged = forward
        goes_back = chances[0] < config.way_back and bool(request.source_prompt.strip())
        if goes_back:
            tagged = back(forward, request.source_prompt)
        if chances[1] < config.no_text:
            tagged = tag("", regions=())
        tokens = to_tokens(self.tokenizer, [tagged], regions=self.regions)
        # Pixels stay uint8 until they are on the device.
        source = self._pixels(request.source)
        return {
            "source": source,
            "target": source if goes_back else self._pixels(case.truth),
            "regions": torch.from_numpy(areas[0]),
            "tokens": torch.from_numpy(tokens.ids[0]),
            "member": torch.from_numpy(tokens.member[0]),
            "words": torch.from_numpy(tokens.words[0]),
        }

    def _regions(self, case: EditCase) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Masks of the case's regions, bool (1, R, H, W). Unused ones are empty."""
        masks = [region.mask for region in case.request.regions] or [case.request.needed_mask]
        if len(masks) > self.regions:
            raise TrainingError(
                f"case {case.id} has {len(masks)} regions: this training takes {self.regions}"
            )
        areas = np.zeros((1, self.regions, *self._size), np.bool_)
        # Masks are resized only where they differ in size, since resizing is slow.
        for r, mask in enumerate(masks):
            areas[0, r] = mask_array(mask if mask.size == self._size else resize_mask(mask, self._size))
        return areas

    def _pixels(self, image: Any) -> Tensor:
        """RGB image => uint8 (3, H, W) at the training's size."""
        image = image.convert("RGB")
        if image.size != self._size:
            image = resize(image, self._size)
        return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()


def positions(config: Config, first_step: int, process: int, processes: int) -> list[int]:
    """Positions that one of several processes learns from ``first_step`` on, in order."""
    per_pass = config.batch * processes
    own: list[int] = []
    # Each forward pass takes ``batch`` consecutive positions per process.
    for forward in range(first_step * config.accumulate, config.steps * config.accumulate):
        start = forward * per_pass + process * config.batch
        own += range(start, start + config.batch)
    return own


class LoadedBatches:
    """Batches of one process by the number of their forward pass. Worker processes read them in order."""

    def __init__(self, examples: Examples, process: int, processes: int, pin_memory: bool) -> None:
        self.examples, self.process, self.processes, self.pin_memory = (
            examples,
            process,
            processes,
            pin_memory,
        )
        self._batches: Iterator[dict[str, Tensor]] | None = None

    def __call__(self, number: int) -> dict[str, Tensor]:
        """The next batch. ``number`` only matters in the first call, which comes at the start of a step."""
        if self._batches is None:
            config = self.examples.config
            # The sampler lists the positions of this process from here to the end.
            loader: DataLoader[dict[str, Tensor]] = DataLoader(
                self.examples,
                batch_size=config.batch,
                sampler=positions(config, number // config.accumulate, self.process, self.processes),
                num_workers=config.workers,
                pin_memory=self.pin_memory,
            )
            self._batches = iter(loader)
        return next(self._batches)
