"""Verification of a run folder: runs every check and collects their problems, one line each.

========================  ========================================================================================
run.json                  digests of the methods, seed
cases                     every image, mask, prompt and expected change, against the protocol, which makes them again
edits                     the SHA-256 of every file, against its record
scores of single edits    all are of edits that exist, and a sample is computed again
scores of judges          read again from the stored replies
set scores                computed again from the edits and the protocol's real images
report                    built again from the scores and compared file by file
files                     every other file, against the SHA-256 recorded when it was written
========================  ========================================================================================

The last check is the weakest, because somebody who changes a file can change its digest too. It is used where the
stronger check is impossible: the protocol's data or a network's weights are absent, or another version of the program
wrote the report. The table then says so.
"""

from __future__ import annotations

from bench.store import RunStore, StoreError
from reports.share.verification.cases import check_against_protocol, check_case_files
from reports.share.verification.edits import check_edit_files, check_records
from reports.share.verification.folder import check_digests, check_manifest, check_report, check_stray_files
from reports.share.verification.judges import check_judges
from reports.share.verification.recompute import Recompute
from reports.share.verification.result import Verification
from reports.share.verification.scores import check_sampled_scores, check_scores
from reports.share.verification.sets import check_set_values, check_sets


def verify(
    store: RunStore,
    recompute: Recompute | None = None,
    sample: int = 50,
    seed: int = 0,
    *,
    sets: int | None = None,
) -> Verification:
    """Checks a run folder. Only reads, takes no lock, and never raises for a problem of the run.

    The scores of ``sample`` edits and of ``sets`` sets of edits (all if None), chosen by hash with ``seed``, are
    computed again and compared with the stored values of the same metric version. Raises ValueError for a
    negative ``sample`` or ``sets``.
    """
    if sample < 0 or (sets is not None and sets < 0):
        raise ValueError(f"a sample of {sample} edits and {sets} sets; neither must be negative.")
    recompute = recompute or Recompute()
    result = Verification(store.path)

    # Manifest and recorded digests.
    try:
        manifest = store.manifest
    except StoreError as error:
        result.problems.append(f"run.json: no manifest that can be read ({error})")
        return result
    check_manifest(result, manifest)
    unchanged_files = check_digests(result, store)

    # Cases. The checks collect the files that records name. Any other file is a stray.
    expected_files: set[str] = set()
    cases = {
        name: check_case_files(result, store, name, info, expected_files)
        for name, info in manifest["protocols"].items()
    }
    for name, rows in cases.items():
        check_against_protocol(result, store, name, rows, recompute.cases, unchanged_files)

    # Edits and their scores. Only edits whose file is the recorded one are scored again.
    records = check_records(result, store, cases, expected_files)
    intact = check_edit_files(result, store, records)
    scores = check_scores(result, store, records, expected_files)
    if scores is not None:
        check_sampled_scores(result, store, intact, scores, recompute.scores, sample, seed)
        check_judges(result, store, records, scores)

    # Scores of sets. A set with a changed edit cannot be scored again.
    set_rows = check_sets(result, store, records, cases)
    intact_edits = {record.key.digest for record in intact}
    broken = {
        (record.key.protocol, record.key.method)
        for record in records
        if record.file is not None and record.key.digest not in intact_edits
    }
    check_set_values(result, store, set_rows, broken, recompute.sets, sets, seed)

    # The report, and files that belong to nothing.
    check_report(result, store, recompute.report, unchanged_files)
    check_stray_files(result, store, expected_files)
    return result
