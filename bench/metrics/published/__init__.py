"""Metrics as public benchmarks compute them, so that values can be compared with their papers' tables.

Each repeats its benchmark's own code, with its quirks. Its values differ from those of this suite's metrics on the same
edits, so the names begin with the benchmark's, and reports put them into tables of their own. They are computed only
where a suite names them.
"""

from __future__ import annotations

from collections.abc import Mapping

PIE_BENCH = "PIE-Bench"
BRUSHBENCH = "BrushBench"
MAGICBRUSH = "MagicBrush"

# Benchmark -> the sentence below its columns.
DIFFERENCES: Mapping[str, str] = {
    PIE_BENCH: (
        "PIE-Bench blackens the inside of both images and averages over the whole frame, so that a larger mask gives "
        "better values; leak_* average over the outside alone."
    ),
    BRUSHBENCH: (
        "BrushBench divides the squared error of three channels by the pixels of one, so that its MSE is three times "
        "the mean over pixels and channels outside and its PSNR 4.77 dB lower; unchanged pixels count as 1000 dB."
    ),
    MAGICBRUSH: (
        "MagicBrush compares the whole edit with one target image, inside and outside the mask; truth_* compare the "
        "inside alone."
    ),
}
