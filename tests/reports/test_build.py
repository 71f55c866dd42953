"""A whole report, from a run to its files."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.edit import MethodSpec
from bench.store import RunStore
from bench.study.votes.analysis import analyse
from bench.tables import latex, markup
from bench.tables.style import Style, StyleError
from reports import build
from reports.data import preference
from reports.data.report_data import ReportError
from reports.data.votes import question_results
from reports.tables import paper
from reports.write import write_report
from tests.bench.study import polls
from tests.reports import fake

N = len(fake.cases())
METHODS = (
    MethodSpec("prompt_edit_diff", {"weights": "zoo:ped", "_identity": {"sha256": "abcdef0123456789"}}),
    MethodSpec("prompt_edit_diff_no_mask_encoder", {}),
    MethodSpec("sd_inpainting", {"steps": 10, "base_steps": "25", "upsampler_steps": "4,3,1"}),
    MethodSpec("copy_input", {}, is_control=True),
)
FACTS = {**fake.METRICS, "success_clip": fake.info("0/1", True), "judge_truth": fake.info("0/1", True)}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    generator = np.random.default_rng(0)

    def share(p: float) -> list[float | None]:
        return (generator.random(N) < p).astype(float).tolist()

    names = [spec.name for spec in METHODS]
    values = {
        "success_truth": {name: share(0.9 - 0.3 * i) for i, name in enumerate(names)},
        "success_clip": {name: share(0.8 - 0.2 * i) for i, name in enumerate(names)},
        "leak_lpips": {
            name: (0.1 * (i + 1) + 0.01 * generator.random(N)).tolist() for i, name in enumerate(names)
        },
        "clip_target": {name: generator.random(N).tolist() for name in names},
    }
    sets: dict[str, tuple[float, float | None, float | None]] = {
        name: (10.0 + i, 8.0 + i, 12.0 + i) for i, name in enumerate(names)
    }
    return fake.run(tmp_path / "r", values, methods=METHODS, sets=sets)


def study() -> preference.StudyResults:
    """Two raters prefer the first method on every case, a third cannot decide."""
    titles = ("prompt_edit_diff", "sd_inpainting")
    rows = [(f"r{r}", case, titles[0] if r else "tie") for r in range(3) for case in fake.cases()]
    votes = polls.frame(
        rater=[rater for rater, _, _ in rows],
        case=[case.id for _, case, _ in rows],
        category=[case.category for _, case, _ in rows],
        source=[case.source_id for _, case, _ in rows],
        candidates=[titles] * len(rows),
        answer=[answer for _, _, answer in rows],
    )
    return question_results(analyse(votes, resamples=100), votes, "overall")


def test_everything_is_written_and_named(store: RunStore) -> None:
    done = write_report(store, FACTS, study=study(), resamples=200, with_figures=False)
    store.close()
    names = {path.name for path in done.files}
    assert {"summary.csv", "tables.md", "tables.html", "tables.tex", "tables-document.tex"} <= names
    assert {"comparisons.csv", "validity.csv"} <= names
    tables = [table.name for table in done.tables]
    assert tables[:6] == [
        "suite-mini-coco", "paper-1-realism-preference", "paper-2-realism", "paper-3-preference",
        "paper-4-success", "paper-5-ablation",
    ]  # fmt: skip
    assert {f"{name}.csv" for name in tables} | {f"{name}.tex" for name in tables} <= names
    assert all(path.exists() for path in done.files)


def test_the_suites_table_has_all_that_is_asked_of_it(store: RunStore) -> None:
    report = build.compute(store, FACTS, resamples=200)
    suite = report.tables[0]
    assert [(column.group, column.metric) for column in suite.columns] == [
        ("realism", "fid"),
        ("alignment", "clip_target"),
        ("leakage", "leak_lpips"),
        ("leakage", "leak_lpips_pasted"),
        ("success (truth)", "success_truth"),
        ("cost", "seconds_per_edit"),
        ("overall", "mean_rank"),
    ]
    seconds = suite.rows[0].cells[-2]
    assert (seconds.value, seconds.n) == (pytest.approx(0.1), N)
    assert {row.cells[3].value for row in suite.rows} == {0.0}
    assert not any(row.cells[3].best for row in suite.rows)
    # Without a test per image, Fréchet distances have no dagger, and no second sort of mark.
    leak = [row.cells[2] for row in suite.rows]
    assert leak[0].best
    assert leak[1].second
    assert not any(cell.dagger or cell.tie for cell in leak)


SOURCES = ("Seed 0", "mini-coco v1 (dddddddddddd)", "zoo:ped (abcdef01)", "run ")


def test_a_table_knows_where_its_numbers_come_from(store: RunStore) -> None:
    provenance = " ".join(build.compute(store, FACTS, resamples=200).tables[0].provenance)
    assert all(said in provenance for said in SOURCES)


def captions(text: str) -> list[str]:
    return re.findall(r"\\caption\{(.*)\}(?:\\label.*)?$", text, re.MULTILINE)


def test_captions_are_short_and_the_rest_stands_in_the_notes(store: RunStore) -> None:
    write_report(store, FACTS, with_figures=False, resamples=200)
    store.close()
    text = (store.report_dir / "tables/tables.tex").read_text(encoding="utf-8")
    said = captions(text)
    assert said[0] == (
        "mini-coco: realism, alignment, leakage, success and cost (1 of 2). n = 16. In brackets: 95 \\% intervals. "
        "Bold: the best; underlined: the second; $\\approx$: overlaps the best one's interval; "
        "$^{\\dagger}$: not separable from the best (p $\\ge$ .05)."
    )
    assert max(len(caption.split()) for caption in said) < 50
    notes = (store.report_dir / "tables/tables-notes.tex").read_text(encoding="utf-8")
    assert notes.count("Bold:") == 1
    # One line above each table says where its numbers come from, and no reader of the paper sees it.
    alone = (store.report_dir / "tables" / "suite-mini-coco.tex").read_text(encoding="utf-8")
    (provenance,) = [line for line in alone.splitlines() if line.startswith("% provenance: ")]
    assert all(words in provenance for words in SOURCES)
    assert text.count("% provenance: ") == text.count("\\caption") - text.count(" of 2)") / 2


def test_no_caption_is_longer_than_60_words(store: RunStore) -> None:
    write_report(store, FACTS, study=study(), paper=paper.load(), with_figures=False, resamples=200)
    store.close()
    words = [
        len(text.split()) for path in store.report_dir.rglob("*.tex") for text in captions(path.read_text())
    ]
    assert len(words) > 20
    assert max(words) <= 60


def test_readme_and_provenance_say_what_is_where_and_from_what(store: RunStore) -> None:
    done = write_report(store, FACTS, resamples=50)
    store.close()
    folder = store.report_dir
    readme = (folder / "README.md").read_text()
    for path in re.findall(r"`((?:tables|figures|data)/[a-z.-]+|provenance.md)`", readme):
        assert (folder / path).is_file(), path
    assert {path.relative_to(folder).parts[0] for path in (*done.files, *done.images)} == {
        "README.md", "provenance.md", "tables", "figures", "data",
    }  # fmt: skip
    provenance = (folder / "provenance.md").read_text()
    for fact in ("zoo:ped (abcdef01)", "10 and 25 and 8", "mini-coco", "d" * 12, "Seed 0"):
        assert fact in provenance


def test_files_of_the_earlier_flat_layout_go(store: RunStore) -> None:
    for name in ("summary.csv", "grid.png", "main-mini-coco.tex"):
        store.write_file(f"report/{name}", b"old", name)
    write_report(store, FACTS, resamples=50)
    store.close()
    assert not [path for path in store.report_dir.iterdir() if path.suffix in (".csv", ".png", ".tex")]


def test_full_captions_say_everything(store: RunStore) -> None:
    write_report(store, FACTS, style=Style(captions="full"), with_figures=False, resamples=200)
    store.close()
    caption = captions((store.report_dir / "tables" / "suite-mini-coco.tex").read_text(encoding="utf-8"))[0]
    assert all(latex.escape(said) in caption for said in (*SOURCES, "Steps: sd_inpainting 10 and 25 and 8."))


def test_the_provenance_says_how_many_steps_each_sampler_takes(store: RunStore) -> None:
    table = build.compute(store, FACTS, resamples=200).tables[0]
    assert "Steps: sd_inpainting 10 and 25 and 8." in table.provenance


def test_too_few_sources_are_warned_of(store: RunStore) -> None:
    tables = {table.name: table for table in build.compute(store, FACTS, resamples=200).tables}
    categories = tables["paper-4-success"]
    assert "Too small for the claim (mini-coco, attribute): 2 source images" in " ".join(categories.too_small)
    assert set(categories.too_small) < set(categories.notes)
    assert tables["suite-mini-coco"].too_small == ()


def test_a_mean_of_too_few_sources_has_a_reason_in_place_of_its_interval(tmp_path: Path) -> None:
    """Two cases have one source: six values of one method are of three sources, sixteen of another are of eight."""
    values = {
        "leak_lpips": {
            "sd_inpainting": [*np.linspace(0.1, 0.6, 6).tolist(), *[None] * 10],
            "instruct_pix2pix": np.linspace(0.1, 1.6, 16).tolist(),
        }
    }
    content = build.compute(fake.run(tmp_path / "few", values), fake.METRICS, resamples=200)
    table = next(table for table in content.tables if table.name == "main-mini-coco")
    cells = {row.label: row.cells[0] for row in table.rows}
    assert (cells["sd_inpainting"].value, cells["sd_inpainting"].low) == (pytest.approx(0.35), None)
    assert cells["instruct_pix2pix"].low is not None
    said = (
        "No interval (mini-coco): too few sources. "
        "There are values of 3 source images, and an interval of a mean needs 6."
    )
    assert said in table.notes


def test_the_ablation_has_the_method_and_its_variants(store: RunStore) -> None:
    tables = {table.name: table for table in build.compute(store, FACTS, resamples=200).tables}
    assert [row.label for row in tables["paper-5-ablation"].rows] == [spec.name for spec in METHODS[:2]]


def test_votes_fill_the_papers_tables(store: RunStore) -> None:
    tables = {t.name: t for t in build.compute(store, FACTS, study=study(), resamples=200).tables}
    third = {row.label: row.cells[0].value for row in tables["paper-3-preference"].rows}
    # Two votes of three, and half of the undecided one.
    assert third == {"prompt_edit_diff": pytest.approx(5 / 6), "sd_inpainting": pytest.approx(1 / 6)}
    first = tables["paper-1-realism-preference"]
    assert [column.metric for column in first.columns] == ["fid", "preference"]
    # Two wins and a tie in three.
    assert first.rows[0].cells[1].value == pytest.approx(2.5 / 3)


def test_the_style_chooses_columns_and_decimals(store: RunStore) -> None:
    chosen = Style(("leak_lpips", "success_truth"), 2, "none")
    write_report(store, FACTS, style=chosen, with_figures=False, resamples=200)
    store.close()
    text = (store.report_dir / "tables" / "suite-mini-coco.tex").read_text()
    main = (store.report_dir / "tables" / "main-mini-coco.tex").read_text()
    assert re.findall(r"S\[.*?\]", main) == re.findall(r"S\[.*?\]", text)
    markdown = (store.report_dir / "tables" / "tables.md").read_text(encoding="utf-8")
    assert "| method | leak LPIPS ↓ | success (truth) % ↑ | n | failed |" in markdown
    # What no table shows is explained nowhere; the sign for overlap is still there.
    for name in ("tables.md", "tables.html", "tables.tex", "tables-notes.tex"):
        content = (store.report_dir / "tables" / name).read_text(encoding="utf-8").lower()
        on_intervals = [part for part in re.findall(r".*interval.*", content) if "overlap" not in part]
        assert not on_intervals, name
    assert (
        "S[table-format=1.2]S[table-format=3.2]" in text or "S[table-format=1.2]S[table-format=2.2]" in text
    )
    assert "[0." not in text
    assert "95 \\%" not in text
    with pytest.raises(StyleError, match="Did you mean 'leak_lpips'"):
        build.compute(store, FACTS, style=Style(("leak_lpip",)))


def test_comparisons_are_with_the_named_method(store: RunStore) -> None:
    report = build.compute(store, FACTS, baseline="sd_inpainting", extras=True, resamples=200)
    assert report.comparisons is not None
    assert set(report.comparisons["baseline"]) == {"sd_inpainting"}
    table = next(table for table in report.tables if table.name == "comparison-mini-coco")
    assert all("copy_input" not in row.label for row in table.rows)
    default = build.compute(store, FACTS, extras=True, resamples=200)
    assert default.comparisons is not None
    assert set(default.comparisons["baseline"]) == {"prompt_edit_diff"}


def test_reported_values_come_after_everything_measured(store: RunStore) -> None:
    report = build.compute(store, FACTS, paper=paper.load(), resamples=200)
    reported = [table.name for table in report.tables if any(column.reported for column in table.columns)]
    # A rendered world is none of the paper's data sets, so that no measured table gets a column.
    assert reported == ["reported-abstract", *(f"reported-table-{k}" for k in range(1, 6))]
    assert "reported" not in " ".join(report.data.frame["metric"])


def test_reported_values_stand_beside_measured_ones_of_the_same_data(tmp_path: Path) -> None:
    methods = (MethodSpec("prompt_edit_diff", {}), MethodSpec("latent_blending", {}))
    sets: dict[str, tuple[float, float | None, float | None]] = {m.name: (20.0, 18.0, 22.0) for m in methods}
    store = fake.run(tmp_path / "r", {}, methods=methods, sets=sets, protocol="celeba_hq")
    read = paper.with_baselines(paper.load(), ["Baseline Diffusion=latent_blending"])
    report = build.compute(store, FACTS, paper=read, resamples=200)
    table = next(table for table in report.tables if table.name == "paper-2-realism")
    headings = [column.heading for column in table.columns]
    assert headings[1:] == [f"{headings[0]}, Table {k}" for k in (1, 2, 5)]
    assert {row.label: [cell.value for cell in row.cells] for row in table.rows} == {
        "prompt_edit_diff": [20.0, 6.2, 6.2, 6.2],
        "latent_blending": [20.0, None, None, None],
        "reported for Baseline Diffusion, an unnamed model; compared with latent_blending by your choice": [
            None,
            8.5,
            8.9,
            None,
        ],
    }
    assert "not measured here" in table.caption
    with pytest.raises(paper.PaperError, match="has no method sdedit"):
        build.compute(store, FACTS, paper=paper.with_baselines(read, ["Baseline Diffusion=sdedit"]))


def test_every_figure_is_drawn(store: RunStore) -> None:
    done = write_report(store, FACTS, study=study(), resamples=200)
    store.close()
    rules = ("random", "best", "worst", "disputed")
    names = [f"grid-{rule}-mini-coco" for rule in rules] + [
        "leak-heat-mini-coco",
        "success-by-category",
        "trade-off",
        "preference",
    ]
    expected = {f"{name}.{kind}" for name in names for kind in ("pdf", "png")} | {"grid.png"}
    assert {path.name for path in done.images} == expected
    body = (store.report_dir / "figures/figures.tex").read_text()
    included = re.findall(r"\\includegraphics\[width=\\linewidth\]\{\\pebfigures/(.+)\.pdf\}", body)
    assert sorted(included) == sorted(names) == sorted(figure.name for figure in done.figures)
    assert body.count(r"\begin{figure*}") == 5


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_figures_tex_compiles_where_it_is_put(store: RunStore, tmp_path: Path) -> None:
    write_report(store, FACTS, resamples=200)
    store.close()
    text = r"""\documentclass[twocolumn]{article}\usepackage{graphicx}\newcommand{\pebfigures}{%s}
\begin{document}\input{%s}\end{document}"""
    folder = store.report_dir
    (tmp_path / "paper.tex").write_text(text % (folder / "figures", folder / "figures/figures.tex"))
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert "Overfull" not in (tmp_path / "paper.log").read_text(errors="replace")


def test_what_an_earlier_report_had_more_goes_and_what_others_put_there_stays(store: RunStore) -> None:
    first = fake.cases()[0].id
    write_report(store, fake.METRICS, resamples=50, cases=[first])
    grids = sorted(store.report_dir.glob("figures/grid-chosen-*"))
    assert grids
    (store.report_dir / "mine.txt").write_text("mine")
    grids[0].write_text("changed by hand")
    write_report(store, fake.METRICS, resamples=50)
    assert sorted(store.report_dir.glob("figures/grid-chosen-*")) == grids[:1]
    assert (store.report_dir / "mine.txt").read_text() == "mine"
    assert (store.report_dir / "figures/figures.tex").exists()


def test_a_grid_of_cases_chosen_by_hand(store: RunStore) -> None:
    done = write_report(store, FACTS, resamples=200, cases=["background-1", "attribute-0"])
    assert done.figures[2].name == "grid-chosen-mini-coco"
    assert "chosen by hand" in done.figures[2].caption
    assert (store.report_dir / "figures/grid-chosen-mini-coco.pdf").is_file()
    with pytest.raises(ReportError, match=r"no case 'atribute-0'. Did you mean 'attribute-0'\?"):
        write_report(store, FACTS, cases=["atribute-0"])
    store.close()


def test_the_same_run_gives_the_same_files(store: RunStore) -> None:
    def written() -> dict[str, bytes]:
        done = write_report(store, FACTS, resamples=200, with_figures=False)
        return {path.name: path.read_bytes() for path in done.files}

    first = written()
    assert written() == first
    store.close()


def test_the_summary_can_be_read_back(store: RunStore) -> None:
    done = write_report(store, FACTS, with_figures=False, resamples=200)
    store.close()
    frame = pd.read_csv(io.BytesIO((store.report_dir / "data/summary.csv").read_bytes()))
    assert len(frame) == len(done.summary)
    assert {"seconds_per_edit", "fid", "success_truth"} <= set(frame["metric"])


def test_nothing_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="score RUN"):
        write_report(fake.run(tmp_path / "r", {}), FACTS)


def test_the_power_note_stands_where_something_is_not_separable(tmp_path: Path) -> None:
    """Two methods that disagree on half of 16 cases: hardly any difference could be shown."""
    verdicts = {name: [float(i % 4 < 2 + k) for i in range(N)] for k, name in enumerate(("one", "two"))}
    store = fake.run(
        tmp_path / "r", {"success_truth": verdicts}, methods=tuple(MethodSpec(name) for name in verdicts)
    )
    tables = {table.name: table for table in build.compute(store, FACTS, resamples=200).tables}
    (note,) = (n for n in tables["main-mini-coco"].notes if "missed more often" in n)
    assert note.startswith(f"n = {N}: ")
    assert "success (truth, mini-coco)" in note


def test_a_metric_without_direction_has_no_arrow_in_the_comparison(store: RunStore) -> None:
    facts = {**FACTS, "leak_lpips": fake.info("LPIPS", None)}
    report = build.compute(store, facts, extras=True, resamples=200)
    titles = [row.label for t in report.tables if t.name.startswith("comparison") for row in t.rows]
    assert any(title.startswith("leak LPIPS: ") for title in titles)
    assert report.validity is not None
    assert "leak_lpips" not in set(report.validity["metric"])


def test_a_strength_other_than_one_and_a_remark_are_stated_in_every_row(tmp_path: Path) -> None:
    """In Markdown and LaTeX. CSV files keep the plain name, which other programs look up."""
    methods = (
        MethodSpec("sdedit", {"strength": 0.8}),
        MethodSpec("sd_inpainting", {"strength": 1.0}, remark="under-trained"),
        MethodSpec("diffusers", {"strength": 0.5}, "Qwen", display="Qwen-Image"),
        MethodSpec("copy_input", {}, is_control=True),
    )
    names = ("sdedit", "sd_inpainting", "diffusers", "copy_input")
    values = {"success_truth": {name: [1.0] * N for name in names}}
    report = build.compute(fake.run(tmp_path / "r", values, methods=methods), FACTS, resamples=200)
    for table in report.tables:
        if table.rows_are == "method":
            titles = [row.title for row in table.rows]
            assert titles == [
                "sdedit, strength 0.8",
                "sd_inpainting, under-trained",
                "Qwen, strength 0.5",
                "copy_input",
            ]
            assert table.rows[2].printed == "Qwen-Image, strength 0.5"
            assert "| sdedit, strength 0.8 |" in markup.markdown(table)
            assert "strength" not in markup.csv_text(table)
