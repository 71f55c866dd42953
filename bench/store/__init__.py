"""The run folder: the suite that was run, every edit, every score. One process writes it at a time, any may read.

::

    run.json                              the manifest: suite, seed, protocols, methods, versions (``manifest``)
    cases/<protocol>/                     the cases as ``bench.casefile`` writes them
    edits/<protocol>/<method>-<digest>/   one lossless PNG per case
    edits.jsonl                           one line per attempt, the last one per key counts (``journal``)
    scores/*.parquet                      one file per append, the last value of the present edit counts (``scores``)
    scores/set.json                       values of whole sets of edits, such as FID (``set_scores``)
    report/                               tables and figures
    digests.jsonl                         SHA-256 of every other file as it was written, the last line counts
    tmp/, lock                            temporary files, and the name of the writing process (``folder``)

Files appear whole or not at all, and a line counts once its newline is on disk. So a process that is killed at any
moment loses only the edits that were not recorded yet.
"""

from __future__ import annotations

from bench.store.errors import StoreError
from bench.store.folder import DIGESTS
from bench.store.manifest import was_control
from bench.store.run import RunStore
from bench.store.scores import SCORE_COLUMNS
from bench.store.set_scores import SET_COLUMNS, SetScore, set_inputs

__all__ = [
    "DIGESTS",
    "SCORE_COLUMNS",
    "SET_COLUMNS",
    "RunStore",
    "SetScore",
    "StoreError",
    "set_inputs",
    "was_control",
]
