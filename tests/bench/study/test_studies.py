"""Studies in the database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.study import StudyError
from bench.study.design import Design
from bench.study.interface import (
    UnknownStudy,
)
from bench.study.settings import StudySettings
from bench.study.store import StudyStore
from bench.study.votes.frame import check_votes
from tests.bench.study.conftest import Postgres
from tests.bench.study.runs import OPEN

TEXT = "<script>alert('x')</script> & \"quotes\" 👩‍🎨🏳️‍🌈 שלום عالم \u202e‮ " + "ä" * 2000


def test_a_study_is_what_was_created(taste: StudyStore, design: Design) -> None:
    study = taste.study("taste")
    assert (study.design, study.settings) == (design, OPEN)
    assert taste.studies() == ["taste"]
    # Names are unique, safe, and suggested where one is misspelt.
    with pytest.raises(StudyError, match="already"):
        taste.create("taste", design)
    with pytest.raises(StudyError, match="cannot become a file name"):
        taste.create("../taste", design)
    with pytest.raises(UnknownStudy, match="Did you mean 'taste'"):
        taste.study("tast")


def test_a_study_knows_where_it_was_served(taste: StudyStore) -> None:
    assert taste.address("taste") is None
    taste.set_address("taste", "http://localhost:8600")
    assert taste.address("taste") == "http://localhost:8600"
    with pytest.raises(StudyError, match="255"):
        taste.set_address("taste", "http://" + "x" * 255)


def test_texts_of_every_kind_go_through(tmp_path: Path, design: Design) -> None:
    cases = tuple(
        replace(c, target_prompt=TEXT, source_prompt="\u0000x"[1:], instruction=TEXT[:300])
        for c in design.cases
    )
    # Stored, closed, and read by another process.
    wild = replace(design, cases=cases)
    with StudyStore.open(tmp_path / "ünïcode ‮.db") as store:
        store.create("taste", wild, StudySettings(title=TEXT[:500], consent=TEXT, open_registration=True))
    with StudyStore.open(tmp_path / "ünïcode ‮.db", create=False) as store:
        assert store.study("taste").settings.consent == TEXT
        entry = store.enter("taste", TEXT[:255])
        assert store.enter("taste", TEXT[:255]).rater == entry.rater
        trial = store.next_trial(entry.rater)
        assert (trial.target_prompt, trial.instruction) == (TEXT, TEXT[:300])
        with pytest.raises(StudyError, match="255"):
            store.enter("taste", TEXT)


def test_texts_of_every_kind_go_through_postgresql(postgres: Postgres, design: Design) -> None:
    wild = replace(design, cases=tuple(replace(c, target_prompt=TEXT) for c in design.cases))
    with StudyStore.open(postgres.database("texts")) as store:
        store.create("taste", wild, StudySettings(consent=TEXT, open_registration=True))
        entry = store.enter("taste", TEXT[:255])
        assert store.enter("taste", TEXT[:255]).rater == entry.rater
        assert store.next_trial(entry.rater).target_prompt == TEXT
        assert store.vote(
            entry.rater, store.next_trial(entry.rater).id, "tie", details={"agent": TEXT[:200]}
        ).new
        status = store.status("taste")
        assert (status.raters, status.active, status.votes) == (1, 1, 1)
        votes = check_votes(store.votes("taste"))
        assert abs(votes["server_time"].iloc[0] - pd.Timestamp.now("UTC")) < pd.Timedelta(minutes=5)
