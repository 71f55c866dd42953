"""Export and import lose nothing, whatever the texts. An anonymous export identifies nobody."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.study.exchange import FIELDS, ExchangeError, anonymise, export_votes, import_votes
from bench.study.votes.analysis import analyse
from bench.study.votes.exclusion import Exclusion
from bench.study.votes.frame import VotesError, check_votes
from tests.bench.study.polls import frame, poll

ENDINGS = ["csv", "parquet"]
KEY = b"k" * 16


def mixed() -> pd.DataFrame:
    """Every role and kind, and texts that trip readers up."""
    # Quotes, commas, line breaks, a formula, an emoji, and a change of direction.
    odd = 'Ünï "quoted", comma\nline\r\nbreak =1+1 \U0001f600 \u202eright-to-left'
    return frame(
        rater=["x", "NA", "null", "1e5", "x"],
        trial=["t0", "t1", "007", " t3 ", "t4"],
        case=["c0", "nan", "None", "c3", odd],
        kind=["pair", "best", "pair", "pair", "pair"],
        candidates=[("A", odd), ("A", "B", odd), ("B", "A"), ("A", "B"), ("A", "control:noise")],
        answer=[odd, "B", "tie", "A", "A"],
        role=["trial", "trial", "practice", "repeat", "attention"],
        repeat_of=[None, None, None, "t0", None],
        expected=[None, None, None, None, "A"],
        reaction_ms=[0, 1, 12345678901, 3000, 250],
        rater_kind=["human"] * 5,
        exclusion=[Exclusion().to_json()] * 5,
    )


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        check_votes(a)[list(FIELDS)], check_votes(b)[list(FIELDS)], check_dtype=True
    )


@pytest.mark.parametrize("ending", ENDINGS)
class TestRoundTrip:
    def test_odd_texts_and_every_role(self, ending: str, tmp_path: Path) -> None:
        votes = mixed()
        export_votes(votes, tmp_path / f"v.{ending}")
        imported = import_votes(tmp_path / f"v.{ending}")
        same(imported, votes)
        assert imported["candidates"].map(type).eq(tuple).all()
        assert imported["repeat_of"].tolist() == [None, None, None, "t0", None]
        assert imported["server_time"].tolist() == votes["server_time"].tolist()
        assert imported["reaction_ms"].dtype == "int64"

    def test_no_votes(self, ending: str, tmp_path: Path) -> None:
        export_votes(mixed().iloc[:0], tmp_path / f"v.{ending}")
        assert len(import_votes(tmp_path / f"v.{ending}")) == 0

    def test_the_analysis_is_the_same(self, ending: str, tmp_path: Path) -> None:
        votes = poll(raters=6, per_rater=20)
        export_votes(votes, tmp_path / f"v.{ending}")
        one, other = (
            analyse(v, resamples=100).to_dict() for v in (votes, import_votes(tmp_path / f"v.{ending}"))
        )
        assert json.dumps(one) == json.dumps(other)

    def test_the_same_votes_make_the_same_bytes(self, ending: str, tmp_path: Path) -> None:
        for name in ("a", "b"):
            export_votes(mixed(), tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()

    def test_simulated_stays_simulated(self, ending: str, tmp_path: Path) -> None:
        votes = frame(answer=["A", "B"], rater_kind=["simulated"] * 2)
        export_votes(votes, tmp_path / f"v.{ending}")
        assert set(import_votes(tmp_path / f"v.{ending}")["rater_kind"]) == {"simulated"}

    def test_answers_after_the_time_limit_stay_so(self, ending: str, tmp_path: Path) -> None:
        votes = frame(answer=["A", "B", "A"], over_time=[True, False, None])
        export_votes(votes, tmp_path / f"v.{ending}")
        assert import_votes(tmp_path / f"v.{ending}")["over_time"].tolist() == [True, False, None]

    def test_answers_in_both_orders_stay_and_others_are_refused(self, ending: str, tmp_path: Path) -> None:
        both = ['["A", "A"]', '["A", "B"]', None]
        votes = frame(answer=["A", "tie", "B"], both_orders=both)
        export_votes(votes, tmp_path / f"v.{ending}")
        assert import_votes(tmp_path / f"v.{ending}")["both_orders"].tolist() == both
        # No list of two, no candidate, and an answer that does not follow from the two.
        for text, answer in (("A", "A"), ('["A", "C"]', "tie"), ('["A", "B"]', "A"), ('["A", "A"]', "tie")):
            with pytest.raises(VotesError, match="both_orders of trial"):
                export_votes(frame(answer=[answer], both_orders=[text]), tmp_path / f"w.{ending}")

    def test_the_rule_that_the_study_stated_is_kept(self, ending: str, tmp_path: Path) -> None:
        rule = Exclusion(max_attention_failures=0, min_median_reaction_ms=5000)
        votes = poll(raters=6, per_rater=20).assign(exclusion=rule.to_json())
        export_votes(votes, tmp_path / f"v.{ending}")
        export_votes(anonymise(votes), tmp_path / f"a.{ending}")
        for name in ("v", "a"):
            again = analyse(import_votes(tmp_path / f"{name}.{ending}"), resamples=50)
            assert again.exclusion == rule
            # Medians are about 3 seconds.
            assert again.raters["excluded"].all()
            assert not any("default rule" in note for note in again.notes)

    def test_a_file_of_version_1_is_read_without_a_rule(
        self, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        votes = poll(raters=6, per_rater=20)
        with monkeypatch.context() as patch:
            patch.setattr("bench.study.exchange.SCHEMA_VERSION", 1)
            patch.setattr("bench.study.exchange.FIELDS", FIELDS[:-1])
            export_votes(votes, tmp_path / f"v.{ending}")
        again = import_votes(tmp_path / f"v.{ending}")
        same(again, votes)
        assert set(again["exclusion"]) == {None}
        analysed = analyse(again, resamples=50)
        assert analysed.exclusion == Exclusion()
        assert any("do not say which exclusion rule" in note for note in analysed.notes)

    def test_another_version_is_refused(
        self, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("bench.study.exchange.SCHEMA_VERSION", 99)
            export_votes(mixed(), tmp_path / f"v.{ending}")
        with pytest.raises(ExchangeError, match="99"):
            import_votes(tmp_path / f"v.{ending}")

    def test_a_cut_file_is_refused(self, ending: str, tmp_path: Path) -> None:
        export_votes(mixed(), tmp_path / f"v.{ending}")
        whole = (tmp_path / f"v.{ending}").read_bytes()
        # Within a record: a table of fewer whole records is a table.
        (tmp_path / f"v.{ending}").write_bytes(whole[: len(whole) * 2 // 5])
        with pytest.raises(ExchangeError, match=r"v\."):
            import_votes(tmp_path / f"v.{ending}")

    def test_no_such_votes(self, ending: str, tmp_path: Path) -> None:
        path = tmp_path / f"v.{ending}"
        path.write_bytes(b"")
        with pytest.raises(ExchangeError, match="Export the votes again"):
            import_votes(path)
        other = pd.DataFrame({"a": ["1"]})
        other.to_csv(path, index=False) if ending == "csv" else other.to_parquet(path)
        with pytest.raises(ExchangeError, match="no file of exported votes"):
            import_votes(path)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    titles=st.lists(TEXT.filter(lambda t: t != "tie"), min_size=2, max_size=2, unique=True),
    texts=st.lists(TEXT.filter(lambda t: t != "all"), min_size=5, max_size=5),
    reaction=st.integers(0, 2**40),
    time=st.datetimes(),
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_any_text_survives(
    titles: list[str], texts: list[str], reaction: int, time: object, ending: str, tmp_path: Path
) -> None:
    study, rater, trial, case, category = texts
    votes = frame(
        study=[study],
        rater=[rater],
        trial=[trial],
        case=[case],
        category=[category],
        candidates=[tuple(titles)],
        answer=[titles[1]],
        reaction_ms=[reaction],
        server_time=[pd.Timestamp(time, tz="UTC")],
        rater_kind=["human"],
    )
    # There and back.
    path = tmp_path / f"v.{ending}"
    export_votes(votes, path)
    same(import_votes(path), votes)


class TestRefused:
    def test_another_ending(self, tmp_path: Path) -> None:
        with pytest.raises(ExchangeError, match=r"\.csv or \.parquet"):
            export_votes(mixed(), tmp_path / "v.xlsx")

    def test_columns_without_a_place(self, tmp_path: Path) -> None:
        with pytest.raises(ExchangeError, match="comment"):
            export_votes(mixed().assign(comment="I think that"), tmp_path / "v.csv")
        assert not list(tmp_path.iterdir())

    def test_a_changed_cell(self, tmp_path: Path) -> None:
        export_votes(frame(answer=["A"]), tmp_path / "v.csv")
        text = (tmp_path / "v.csv").read_text()
        (tmp_path / "v.csv").write_text(text.replace(",pair,", ",trio,"))
        with pytest.raises(ExchangeError, match="trio"):
            import_votes(tmp_path / "v.csv")
        (tmp_path / "v.csv").write_text(text.replace('[""A"", ""B""]', "A;B"))
        with pytest.raises(ExchangeError, match="candidates"):
            import_votes(tmp_path / "v.csv")
        (tmp_path / "v.csv").write_text(text.replace("+00:00", ""))
        with pytest.raises(ExchangeError, match="time zone"):
            import_votes(tmp_path / "v.csv")


class TestAnonymous:
    def test_no_id_no_time_of_day_no_other_column(self, tmp_path: Path) -> None:
        votes = poll(raters=4, per_rater=10).assign(comment="my name is", ip="10.0.0.1")
        votes["rater"] = votes["rater"].map(lambda r: f"secret-{r}")
        votes["trial"] = votes["trial"].map(lambda t: f"hidden-{t}")
        anonymous = anonymise(votes, KEY)
        export_votes(anonymous, tmp_path / "v.csv")
        text = (tmp_path / "v.csv").read_text()
        for word in ("secret", "hidden", "my name", "10.0.0.1"):
            assert word not in text
        assert (anonymous["server_time"] == pd.Timestamp("2025-03-01T00:00:00Z")).all()
        assert (anonymous["reaction_ms"] % 100 == 0).all()
        assert (anonymous["reaction_ms"] - votes.set_index("trial")["reaction_ms"].median()).notna().all()

    def test_pseudonyms_are_keyed_hashes_that_keep_who_is_who(self) -> None:
        votes = mixed()
        anonymous = anonymise(votes, KEY)
        expected = hmac.new(KEY, json.dumps(["rater", "taste", "x"]).encode(), hashlib.sha256).hexdigest()
        assert f"r-{expected[:20]}" in set(anonymous["rater"])
        assert anonymous["rater"].nunique() == votes["rater"].nunique()
        # A repeat still leads to its trial.
        again = anonymous[anonymous["role"] == "repeat"].iloc[0]
        first = anonymous[anonymous["trial"] == again["repeat_of"]].iloc[0]
        assert first["answer"] == votes["answer"][0]
        # The same key gives the same pseudonyms, another key or none gives others.
        assert set(anonymise(votes, KEY)["rater"]) == set(anonymous["rater"])
        assert not set(anonymise(votes, b"j" * 16)["rater"]) & set(anonymous["rater"])
        assert not set(anonymise(votes)["rater"]) & set(anonymise(votes)["rater"])

    def test_the_order_of_rows_says_nothing(self) -> None:
        votes = poll(raters=4, per_rater=10)
        shuffled = votes.sample(frac=1, random_state=1)
        pd.testing.assert_frame_equal(anonymise(votes, KEY), anonymise(shuffled, KEY))

    def test_what_is_counted_stays(self) -> None:
        votes = poll(raters=6, per_rater=20)
        one, other = (analyse(v, resamples=50) for v in (votes, anonymise(votes, KEY)))
        columns = ["method", "n", "wins", "ties", "share"]
        pd.testing.assert_frame_equal(one.shares[columns], other.shares[columns])
        pd.testing.assert_frame_equal(
            one.strengths[["method", "strength"]], other.strengths[["method", "strength"]]
        )

    def test_a_short_key_is_refused(self) -> None:
        with pytest.raises(ExchangeError, match="16"):
            anonymise(mixed(), "short")


class TestFrame:
    @pytest.mark.parametrize(
        ("column", "value", "says"),
        [
            ("answer", "C", "not among the candidates"),
            ("candidates", ("A", "B", "C"), "number of methods"),
            ("candidates", ("A", "A"), "distinct"),
            ("candidates", "AB", "distinct"),
            ("candidates", ("A", "tie"), "rename the method"),
            ("kind", "triple", "pair, best"),
            ("role", "vote", "practice"),
            ("reaction_ms", -1, "milliseconds"),
            ("server_time", "yesterday", "no time"),
            ("category", "all", "stands for all"),
            ("rater", "", "is no text"),
            ("rater", None, "is no text"),
        ],
    )
    def test_one_bad_cell_is_named(self, column: str, value: object, says: str) -> None:
        votes = frame(answer=["A", "B", "A"]).astype(object)
        votes.at[1, column] = value
        with pytest.raises(VotesError, match=says) as caught:
            check_votes(votes)
        assert column in str(caught.value)

    def test_doubles_missing_columns_and_unanswerable_checks(self) -> None:
        votes = frame(answer=["A", "B"])
        with pytest.raises(VotesError, match="doubles"):
            check_votes(pd.concat([votes, votes]))
        with pytest.raises(VotesError, match="source"):
            check_votes(votes.drop(columns="source"))
        with pytest.raises(VotesError, match="attention check"):
            check_votes(frame(answer=["A"], role=["attention"], expected=["C"]))
        with pytest.raises(VotesError, match="names no trial"):
            check_votes(frame(answer=["A"], role=["repeat"]))
        with pytest.raises(VotesError, match="among the candidates"):
            check_votes(frame(answer=["tie"], kind=["best"]))

    def test_times_become_utc(self) -> None:
        votes = frame(answer=["A"], server_time=["2025-03-01T12:00:00+02:00"])
        assert check_votes(votes)["server_time"][0] == pd.Timestamp("2025-03-01T10:00:00Z")
