"""Tells for each rater what to do at the recruiting platform, by a stated rule, and what raters earn per hour.

The rule follows what platforms ask of researchers:

- ``approve``: came to the end, and the study's exclusion rule keeps the rater.
- ``reject``: failed more attention checks than the rule allows. A study of more than five minutes needs two failed
  checks for it, a shorter one needs one. Ask the rater to return the study first.
- ``ask to return``: did not come to the end, ran out of time, or is excluded for another reason, which platforms do not
  accept for a rejection.
- ``screened out``: answered the screener differently. Paid by the platform's own rule for screen-outs.
- ``withdrawn``: has withdrawn, and nothing is stored of them but their number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.study.interface import FAILED_CHECKS, SCREENED_OUT, TIMED_OUT, RaterRecord
from bench.study.settings import StudySettings
from bench.study.votes.exclusion import Exclusion
from bench.study.votes.quality import RaterQuality

# Minutes up to which one failed check is enough for a rejection.
SHORT_STUDY = 5

COLUMNS = (
    *("participant", "outcome", "reason", "code", "answers", "of", "minutes", "per_hour"),
    *("failed_checks", "checks", "rater"),
)


@dataclass(frozen=True)
class Outcome:
    """One rater. The field names are columns of the CSV. It may identify a person."""

    # The recruiting service's id of the rater. Empty where nobody sent them.
    participant: str
    outcome: str
    reason: str
    code: str
    answers: int
    of: int
    # From consent to the end. None for a rater who has not finished.
    minutes: float | None
    # Reward by the time that the rater took, in the study's currency.
    per_hour: float | None
    failed_checks: int
    checks: int
    rater: str
    # All parameters of the service's link.
    recruited: Mapping[str, str]


def outcomes(
    records: Sequence[RaterRecord],
    qualities: Sequence[RaterQuality],
    reasons: Mapping[str, str],
    settings: StudySettings,
    *,
    planned_minutes: float,
) -> list[Outcome]:
    """One outcome per rater, in order of arrival.

    ``reasons``: rater -> why the exclusion rule excludes them. ``planned_minutes``: length of the study.
    """
    by_rater = {entry.rater: entry for entry in qualities}
    rule = Exclusion(**settings.exclusion)
    return [
        _outcome(
            record, by_rater.get(record.rater), reasons.get(record.rater, ""), settings, rule, planned_minutes
        )
        for record in records
    ]


def _outcome(
    record: RaterRecord,
    quality: RaterQuality | None,
    reason: str,
    settings: StudySettings,
    rule: Exclusion,
    planned_minutes: float,
) -> Outcome:
    failed = quality.attention_failed if quality else 0
    minutes = None
    if record.finished_at is not None and record.consented_at is not None:
        minutes = (record.finished_at - record.consented_at).total_seconds() / 60
    outcome, why = _decision(record, failed, reason, rule, planned_minutes)
    reward = settings.reward if outcome == "approve" else None
    return Outcome(
        participant=record.external or "",
        outcome=outcome,
        reason=why,
        code=record.code or "",
        answers=record.answers,
        of=record.total,
        minutes=minutes,
        per_hour=60 * reward / minutes if reward is not None and minutes else None,
        failed_checks=failed,
        checks=quality.attention if quality else 0,
        rater=record.rater,
        recruited=record.recruited,
    )


def _decision(
    record: RaterRecord, failed: int, reason: str, rule: Exclusion, planned_minutes: float
) -> tuple[str, str]:
    """(outcome, reason) of one rater."""
    if record.state in ("withdrawn", SCREENED_OUT):
        return record.state, ""
    # Failed checks come first: they are why such a rater did not come to the end.
    allowed = rule.max_attention_failures
    needed = 1 if planned_minutes <= SHORT_STUDY else 2
    if allowed is not None and failed > allowed and failed >= needed:
        return "reject", f"{failed} attention checks failed, {allowed} allowed"
    if record.state in (TIMED_OUT, FAILED_CHECKS):
        return "ask to return", f"{record.state} after {record.answers} of {record.total} answers"
    if record.state != "finished":
        return "ask to return", f"left after {record.answers} of {record.total} answers"
    if reason:
        return "ask to return", reason
    return "approve", ""


def hourly_pay(entries: Sequence[Outcome]) -> tuple[float, float] | None:
    """Median minutes and median pay per hour of the approved raters. None without one, or without a reward."""
    paid = [entry for entry in entries if entry.per_hour is not None and entry.minutes is not None]
    if not paid:
        return None
    return median(entry.minutes or 0 for entry in paid), median(entry.per_hour or 0 for entry in paid)


def to_csv(entries: Sequence[Outcome]) -> str:
    """The outcomes as CSV, with a column per parameter that a recruiting service put into links."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.recruited))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*COLUMNS, *names])
    for entry in entries:
        values = {name: getattr(entry, name) for name in COLUMNS}
        for name in ("minutes", "per_hour"):
            values[name] = "" if values[name] is None else f"{values[name]:.2f}"
        cells = [*values.values(), *(entry.recruited.get(name, "") for name in names)]
        writer.writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: object) -> object:
    """A text that no spreadsheet takes for a formula: ids come from links that anyone can write."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
