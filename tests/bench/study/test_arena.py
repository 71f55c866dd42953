"""Votes of arenas and of models: read as votes, and never counted together with people's."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bench.study import StudyError
from bench.study.arena import Origin, import_arena
from bench.study.results import join_votes
from bench.study.votes import show
from bench.study.votes.analysis import OtherRaters, analyse
from bench.study.votes.frame import VotesError
from tests.bench.study.polls import poll

ROWS = [
    {
        "question_id": "q1",
        "model_a": "A",
        "model_b": "B",
        "winner": "model_a",
        "judge": "j1",
        "tstamp": 1700000000.5,
    },
    {
        "question_id": "q1",
        "model_a": "B",
        "model_b": "A",
        "winner": "model_b",
        "judge": "j2",
        "tstamp": 1700000001.0,
    },
    {
        "question_id": "q2",
        "model_a": "A",
        "model_b": "C",
        "winner": "tie",
        "judge": "j1",
        "tstamp": 1700000002.0,
    },
    {"question_id": "q3", "model_a": "C", "model_b": "B", "winner": "tie (bothbad)", "judge": "j1"},
]
ORIGIN = Origin("arena", "human", protocol="photos")


def write(rows: list[dict[str, object]], file: Path) -> Path:
    if file.suffix == ".csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    elif file.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text(json.dumps(rows))
    return file


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".parquet"])
def test_an_arenas_file_is_read_as_votes(tmp_path: Path, ending: str) -> None:
    votes = import_arena(write(ROWS, tmp_path / f"x{ending}"), ORIGIN)
    assert votes["candidates"].tolist() == [("A", "B"), ("B", "A"), ("A", "C"), ("C", "B")]
    assert votes["answer"].tolist() == ["A", "A", "tie", "both bad"]
    assert votes["rater"].tolist() == ["j1", "j2", "j1", "j1"]
    assert votes["case"].tolist() == ["q1", "q1", "q2", "q3"]
    assert set(votes["protocol"]) == {"photos"}
    assert votes["server_time"].iloc[0] == pd.Timestamp("2023-11-14T22:13:20.5Z")
    # Nobody is excluded for a reaction time that no file has.
    analysis = analyse(votes, resamples=50)
    assert not analysis.raters["excluded"].any()
    shares = analysis.shares[(analysis.shares["raters"] == "all") & (analysis.shares["category"] == "all")]
    pooled = shares[(shares["protocol"] == "all") & (shares["question"] == "all")].set_index("method")[
        "share"
    ]
    # By hand: A wins two and ties one of three, B loses two and ties one, C ties both.
    assert pooled.to_dict() == pytest.approx({"A": 2.5 / 3, "B": 0.5 / 3, "C": 0.5})
    assert analysis.counts.iloc[0][["n_ties", "n_both_bad"]].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("winner", "answer"),
    [
        ("model_a", "A"),
        ("A", "A"),
        ("left", "A"),
        ("RIGHT", "B"),
        ("both_bad", "both bad"),
        ("Tie", "tie"),
        ("b", "B"),
    ],
)
def test_outcomes_have_several_names(tmp_path: Path, winner: str, answer: str) -> None:
    rows = [{"left_model": "A", "right_model": "B", "vote_type": winner, "instruction": "x" * 100}]
    (vote,) = import_arena(write(rows, tmp_path / "x.json"), ORIGIN).to_dict("records")
    assert vote["answer"] == answer
    assert len(vote["case"]) == 16


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model_a": "A", "winner": "tie"}, "vote 1: has no model_a and model_b"),
        ({"model_a": "A", "model_b": "A", "winner": "tie"}, "with itself"),
        ({"model_a": "A", "model_b": "B", "winner": "C"}, "the winner 'C' is none of"),
        ({"model_a": "tie", "model_b": "B", "winner": "tie"}, "means something else"),
        ({"model_a": "A", "model_b": "B", "winner": "tie", "tstamp": "soon"}, "is no time"),
        ({"model_a": "A", "model_b": "B", "winner": "tie", "tstamp": 1e300}, "is no time"),
        ("text", "is no record"),
    ],
)
def test_a_row_that_is_no_vote_is_named(tmp_path: Path, row: object, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(VotesError, match=message):
        import_arena(file, ORIGIN)


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", "{}"), ("x.json", "["), ("x.txt", "a"), ("x.jsonl", "")]
)
def test_a_file_that_holds_no_votes_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VotesError):
        import_arena(tmp_path / name, ORIGIN)


def test_votes_of_models_are_never_counted_with_peoples(tmp_path: Path) -> None:
    models = import_arena(write(ROWS, tmp_path / "x.json"), Origin("judge", "model"))
    people = poll(raters=4, per_rater=10).assign(rater_kind="human")
    with pytest.raises(StudyError, match="human and model"):
        join_votes([("a", people), ("b", models)])
    with pytest.raises(OtherRaters, match="--rater-kind model"):
        analyse(models)
    with pytest.raises(OtherRaters, match="human and model"):
        analyse(pd.concat([people, models], ignore_index=True), rater_kind="model")
    with pytest.raises(OtherRaters, match="expected one of"):
        analyse(models, rater_kind="ghost")
    analysis = analyse(models, rater_kind="model", resamples=50)
    assert analysis.statement.startswith("VOTES OF MODELS, not people: 4 votes")
    assert not analysis.simulated
    for table in show.tables(analysis):
        assert table.title.startswith("VOTES OF MODELS, not people: ")
        assert table.provenance[1] == "Raters: models."
    show.write_analysis(analysis, tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out" / "shares.csv")["rater_kind"]) == {"model"}
