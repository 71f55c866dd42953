"""The tables of an analysis hold its figures, on a terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.study.votes import show
from bench.study.votes.analysis import Analysis, analyse
from bench.tables import latex, markup
from bench.tables.table import Cell, Table
from tests.bench.study.polls import frame, metric_values, mixed_votes, poll, rows
from tests.bench.tables.test_latex import compile_pdf, needs_latex, tex_file
from tests.bench.tables.test_terminal import shown_on_terminal


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(mixed_votes(), scores=metric_values(), resamples=300)


@pytest.fixture(scope="module")
def tables(mixed: Analysis) -> dict[str, Table]:
    return {table.name: table for table in show.tables(mixed)}


def cells(table: Table, label: str) -> tuple[Cell, ...]:
    return next(row.cells for row in table.rows if row.label == label)


def test_the_first_table_has_the_share_of_all_votes(mixed: Analysis, tables: dict[str, Table]) -> None:
    first = tables["data-sets-pair-overall"]
    assert [column.title for column in first.columns] == ["mini-coco: preference % ↑"]
    shares = rows(mixed.shares, raters="kept", question="overall", protocol="mini-coco", kind="pair")
    expected = shares.set_index("method").loc["M0"]
    (preferred,) = cells(first, "M0")
    assert (preferred.value, preferred.low, preferred.high, preferred.best) == (
        *expected[["of_all", "of_all_low", "of_all_high"]],
        True,
    )


def test_a_table_of_its_own_says_how_often_both_were_bad(tables: dict[str, Table]) -> None:
    assert "both-bad" not in tables
    votes = frame(answer=["both bad", "A", "both bad", "tie"], rater=list("xxyy"))
    table = next(t for t in show.tables(analyse(votes, resamples=50)) if t.name == "both-bad")
    assert [(row.label, row.cells[0].value, row.cells[1].value) for row in table.rows] == [
        ("A", 0.5, 4),
        ("B", 0.5, 4),
    ]


def test_preference_has_a_column_and_its_n_per_question(mixed: Analysis, tables: dict[str, Table]) -> None:
    table = tables["preference-pair"]
    assert [column.title for column in table.columns] == ["overall % ↑", "n", "real % ↑", "n"]
    shares = rows(mixed.shares, raters="kept", question="real", kind="pair").set_index("method")
    for row in table.rows:
        assert row.cells[2].value == shares.loc[row.label, "share"]
        assert row.cells[3].value == shares.loc[row.label, "n"]
    assert [row.label for row in table.rows if row.cells[2].best] == [shares["share"].idxmax()]


def test_wins_stand_above_their_counts(mixed: Analysis, tables: dict[str, Table]) -> None:
    table = tables["wins-pair-overall"]
    duel = rows(mixed.wins, raters="kept", question="overall", kind="pair").set_index(["method", "against"])
    row = duel.loc[("M0", "M1")]
    cell = cells(table, "M0")[[column.heading for column in table.columns].index("M1")]
    assert cell == Cell(row["share"], span=f"{row['wins']}/{row['ties']}/{row['losses']}")
    assert cells(table, "M0")[[column.heading for column in table.columns].index("M0")] == Cell(None)


def test_quality_has_the_units_of_its_rows(mixed: Analysis, tables: dict[str, Table]) -> None:
    table = tables["quality"]
    assert [column.heading for column in table.columns] == ["all raters", "raters kept"]
    assert [cell.text for cell in cells(table, "votes")] == ["600", "540"]
    alpha = mixed.agreement.query("kind == 'pair' and level == 'nominal'").set_index("raters")
    cell = cells(table, "Krippendorff's α, pair, nominal")[0]
    assert cell.text == f"{alpha.loc['all', 'alpha']:.2f}"
    assert cell.span == f"{alpha.loc['all', 'low']:.2f}–{alpha.loc['all', 'high']:.2f}"
    failed = mixed.attention.set_index("raters")["share"]
    assert cells(table, "attention checks failed (%)")[0].text == f"{100 * failed['all']:.1f}"
    assert "Excluded: 1 of 10 raters. r3: 3 of 3 attention checks failed." in table.notes


def test_the_change_by_the_rule_has_a_sign(mixed: Analysis, tables: dict[str, Table]) -> None:
    effect = mixed.effect[(mixed.effect[["question", "protocol", "category"]] == "all").all(axis=1)]
    for row in effect.to_dict("records"):
        text = cells(tables["exclusion"], f"{row['method']} ({row['kind']})")[2].text
        assert float(text.replace("−", "-")) == pytest.approx(100 * row["change"], abs=0.05)
        assert text[0] in "+−" or text == "0.0"


def test_metrics_have_a_table_over_all_categories_and_one_per_category(
    mixed: Analysis, tables: dict[str, Table]
) -> None:
    assert {"metrics", "metrics-cat0", "metrics-cat1"} <= tables.keys()
    values = rows(mixed.correlation, raters="kept").set_index(["metric", "measure"])
    agreement, kendall = cells(tables["metrics"], "good")[:2]
    assert (agreement.value, kendall.low) == (
        values.loc[("good", "agreement"), "value"],
        values.loc[("good", "kendall"), "low"],
    )


def test_a_kind_of_votes_without_a_question_has_no_table_on_it(tables: dict[str, Table]) -> None:
    assert "wins-best-overall" in tables
    assert "wins-best-real" not in tables
    assert [column.heading for column in tables["preference-best"].columns] == ["overall", "n"]


def test_methods_never_compared_keep_their_table_and_the_reason() -> None:
    votes = frame(candidates=[("A", "B"), ("C", "D")] * 2, answer=["A", "C", "B", "D"], rater=list("xxyy"))
    table = {table.name: table for table in show.tables(analyse(votes, resamples=50))}["strengths"]
    assert {row.label for row in table.rows} == set("ABCD")
    assert all(cell.value is None for row in table.rows for cell in row.cells)
    assert any("{A, B} and {C, D}" in note for note in table.notes)


def test_an_interval_with_one_end_and_a_negative_one_read_as_words() -> None:
    votes = frame(
        rater=list("xyxyxyxy"),
        candidates=[("A", "B")] * 4 + [("B", "C")] * 4,
        answer=["A"] * 4 + ["B", "B", "C", "B"],
    )
    analysis = analyse(votes, resamples=100)
    table = {table.name: table for table in show.tables(analysis)}["strengths"]
    strengths = rows(analysis.strengths, raters="kept").set_index("method")
    value, low = strengths.loc["A", ["strength", "low"]]
    assert f"| **{value:.2f}**<br><sub>{low:.2f} or more</sub> |" in markup.markdown(table)
    assert rf"\scriptsize {low:.2f} or more" in latex.table(table)
    low, high = strengths.loc["C", ["low", "high"]]
    assert f"<sub>{low:.2f} – {high:.2f}</sub>" in markup.markdown(table)


def test_a_method_that_never_won_has_an_upper_end_alone() -> None:
    votes = frame(
        rater=list("xyxyxyxy"),
        candidates=[("A", "B")] * 4 + [("B", "C")] * 4,
        answer=["A", "B", "A", "A"] + ["B"] * 4,
    )
    analysis = analyse(votes, resamples=100)
    table = {table.name: table for table in show.tables(analysis)}["strengths"]
    high = rows(analysis.strengths, raters="kept").set_index("method").loc["C", "high"]
    assert cells(table, "C")[0].span == f"{high:.2f} or less".replace("-", "−")


def test_every_table_states_its_votes_and_the_rule(mixed: Analysis, tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert table.notes[0] == mixed.statement
        assert table.caption == "540 votes of 9 raters on 40 source images in all."


def test_captions_state_the_level_of_the_intervals() -> None:
    votes = poll(raters=4, per_rater=20)
    text = latex.every(show.tables(analyse(votes, resamples=50, level=0.9)))
    assert r"In brackets: 90 \% intervals." in text
    assert "95" not in "".join(line for line in text.splitlines() if "caption" in line)


def test_files_hold_every_table_and_the_unrounded_values(mixed: Analysis, tmp_path: Path) -> None:
    paths = {path.name for path in show.write_analysis(mixed, tmp_path)}
    assert paths == {path.name for path in tmp_path.iterdir()}
    assert {"tables.md", "tables.tex", "tables-notes.tex", "tables-document.tex", "analysis.json"} <= paths
    finished = show.tables(mixed)
    text = (tmp_path / "tables.tex").read_text(encoding="utf-8")
    assert re.findall(r"\\label\{tab:(.*?)\}", text) == [table.name for table in finished]
    page = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert re.findall("^### (.*)$", page, re.MULTILINE) == [table.title for table in finished]
    assert page.count("540 votes of 9 raters (raters kept)") == len(finished)
    stored = pd.read_csv(tmp_path / "shares.csv")
    np.testing.assert_allclose(stored["share"], mixed.shares["share"])
    assert set(stored["rater_kind"]) == {"human"}


def test_every_table_and_file_names_simulated_raters(tmp_path: Path) -> None:
    votes = mixed_votes().assign(rater_kind="simulated")
    analysis = analyse(votes, simulated=True, resamples=50, scores=metric_values())
    finished = show.tables(analysis)
    assert len(finished) > 10
    for table in finished:
        for text in (markup.markdown(table), latex.table(table), shown_on_terminal(100, table)):
            assert "SIMULATED RATERS" in text
    for path in show.write_analysis(analysis, tmp_path):
        assert "simulated" in path.read_text(encoding="utf-8").lower(), path.name


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_shows_them_within_its_width(tables: dict[str, Table], width: int) -> None:
    for table in tables.values():
        lines = shown_on_terminal(width, table).splitlines()
        assert max(map(len, lines)) <= width
    assert "71.5*" in shown_on_terminal(width, tables["preference-pair"])


def awkward(tmp_path: Path) -> str:
    """Writes tables of titles that are hard for LaTeX, and many metrics. Returns ``tables.tex``."""
    votes = poll(raters=4, per_rater=20)
    names = {"M0": r"A_b & 50% {x} \y", "M1": "C~d^e<f>|#$"}
    names |= {f"M{i}": f"blended_latent_diffusion_{i}" for i in (2, 3, 4)}
    votes["candidates"] = [tuple(names[t] for t in c) for c in votes["candidates"]]
    votes["answer"] = votes["answer"].map(names | {"tie": "tie"})
    good = metric_values().query("metric == 'good'")
    scores = pd.concat([good.assign(metric=f"mini_clip_directional_{i}_pasted") for i in range(40)])
    scores["method"] = scores["method"].map(names)
    show.write_analysis(analyse(votes, resamples=50, scores=scores), tmp_path)
    return (tmp_path / "tables.tex").read_text(encoding="utf-8")


def test_captions_have_at_most_sixty_words_and_long_tables_break(tmp_path: Path) -> None:
    text = awkward(tmp_path)
    captions = re.findall(r"^\\caption\{(.*)\}", text, re.MULTILINE)
    assert len(captions) >= 8
    assert max(len(caption.split()) for caption in captions) <= 60
    assert r"\begin{longtable}" in text


@needs_latex
@pytest.mark.skipif(not tex_file("siunitx.sty"), reason="siunitx.sty is not installed (texlive-science)")
def test_the_document_compiles_with_awkward_titles(tmp_path: Path) -> None:
    awkward(tmp_path)
    pdf = compile_pdf(tmp_path, (tmp_path / "tables-document.tex").read_text(encoding="utf-8"))
    log = pdf.with_suffix(".log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "too large" not in log
