"""The words of the pages: every language has all of them, and a study may replace some."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.study import StudyError, interface, security
from bench.study.app.service import RunFolderMissing
from bench.study.app.text import TRIAL_SCRIPT, TRIAL_STYLE, trial_files
from bench.study.database import DatabaseError
from bench.study.scales import BUILT_IN, read_scales
from bench.study.settings import SettingsError, StudySettings, read_settings
from bench.study.words import FOLDER, LANGUAGES, WordsError, load, words_of

TRANSLATIONS = [language for language in LANGUAGES if language != "en"]
STUDY = FOLDER.parent


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_every_text_with_the_same_placeholders(language: str) -> None:
    english, translated = load("en"), load(language)
    pages = {key: text for key, text in translated.items() if not key.startswith("scale.")}
    assert set(pages) == set(english)
    for key, text in pages.items():
        assert text
        assert places(text) == places(english[key]), key
    # A text that was left in English would be equal. Short words may be the same by chance.
    same = [key for key, text in pages.items() if text == english[key] and len(text) > 12]
    assert same == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_every_scale(language: str) -> None:
    words = words_of(language, {})
    for scale in read_scales([], BUILT_IN):
        translated = words.scale(scale)
        assert translated.values == scale.values
        assert translated.question != scale.question
        for old, new in zip(scale.levels, translated.levels, strict=True):
            assert bool(new.means) == bool(old.means)
            assert new.label
    # A scale with other words than those of the program is the study's own.
    own = read_scales(["sc"])[0].__class__("sc", "Own?", read_scales(["sc"])[0].levels)
    assert words.scale(own) is own


def test_only_arabic_runs_from_right_to_left() -> None:
    assert {language: load(language)["direction"] for language in LANGUAGES if language != "en"} == {
        "ar": "rtl",
        "de": "ltr",
        "es": "ltr",
        "zh": "ltr",
    }


def test_the_scripts_ask_for_words_that_exist() -> None:
    texts = load("en")
    parts = {path.name for path in (STUDY / "app" / "static" / "trial").iterdir()}
    assert parts == {*TRIAL_SCRIPT, *TRIAL_STYLE}
    script = trial_files(TRIAL_SCRIPT)
    asked = set(re.findall(r'this\.t\("(\w+)"', script)) | set(
        re.findall(r'\? "(\w+)" : "(\w+)"\)', script)[0]
    )
    assert len(asked) > 40
    assert {f"trial.{key}" for key in asked} <= set(texts)
    # Each word of a trial has a use.
    for key in texts:
        if key.startswith("trial."):
            name = key.removeprefix("trial.")
            used = f'"{name}"' in script
            used |= any(f'"{key}"' in path.read_text() for path in (STUDY / "app").glob("*.py"))
            assert used, key
    for path in (STUDY / "app").rglob("*.py"):
        for key in re.findall(r'\bwords\("([\w.]+)"', path.read_text(encoding="utf-8")):
            assert key in texts, (path.name, key)


def test_every_error_that_a_rater_may_meet_has_words() -> None:
    words = words_of("de", {})
    assert words.error(StudyError("x")) == words("error.StudyError")
    for error in (
        interface.StudyFull("x"),
        interface.Withdrawn("x"),
        RunFolderMissing("x"),
        DatabaseError("x"),
    ):
        assert words.error(error) == words(f"error.{type(error).__name__}")
    assert words.error(security.TokenUsed("x")) == words("error.TokenUsed")
    assert words.error(interface.VoteRefused("x", word="TooLate")) == words("error.TooLate")
    # A class without words has those of the class that it extends.
    assert words.error(WordsError("x")) == words("error.StudyError")


def test_a_study_replaces_words_and_brings_languages(tmp_path: Path) -> None:
    settings = StudySettings(
        language="de",
        words={"trial.tie": "Gleich"},
        questions={"real": {"pair": "Echter?", "hint": "Nur das."}},
    )
    settings.check()
    words = settings.word_book
    assert words("trial.tie") == "Gleich"
    assert words("question.real.pair") == "Echter?"
    assert words("question.real.hint_without_outline") == "Nur das."
    assert words("trial.next") == load("de")["trial.next"]
    # A whole file is a language of its own.
    french = (FOLDER / "en.yaml").read_text(encoding="utf-8").replace("No difference", "Pas de différence")
    (tmp_path / "fr.yaml").write_text(french, encoding="utf-8")
    (tmp_path / "s.yaml").write_text("language: fr\nwords_file: fr.yaml\n")
    book = read_settings(tmp_path / "s.yaml").word_book
    assert (book.language, book("trial.tie")) == ("fr", "Pas de différence")


def test_texts_come_from_markdown_files_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "consent.md").write_text("We **pay**.")
    (tmp_path / "plain.txt").write_text("Look.")
    (tmp_path / "s.yaml").write_text("consent_file: consent.md\ninstructions_file: plain.txt\n")
    settings = read_settings(tmp_path / "s.yaml")
    assert (settings.consent, settings.instructions, settings.markdown) == (
        "We **pay**.",
        "Look.",
        ("consent",),
    )
    # The store keeps the text itself.
    assert StudySettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language: fr", "language: 'fr' does not come with the program"),
        ("language: '!'", "is no language tag"),
        ("words: {trial.ty: x}", "is no key"),
        ("words: {trial.tie: ''}", "is no text"),
        ("words: {trial.tie: 'a {secret}'}", "cannot hold {secret}"),
        ("words: {direction: up}", "ltr or rtl"),
        ("questions: {overal: {pair: x}}", "Did you mean"),
        ("questions: {overall: {peer: x}}", "is no key"),
        ("questions: {overall: x}", "no mapping"),
        ("words_file: none.yaml", "cannot be read"),
        ("consent_file: none.md", "cannot be read"),
        ("consent_file: none.md\nconsent: x", "give one of them"),
        ("markdown: [title]", "is none of consent"),
        ("screener: [{question: Age, options: ['1']}]", "two or more different options"),
        (
            "screener: [{question: Age, options: ['1', '2'], accept: ['3']}]",
            "none of the question's options",
        ),
        ("screener: [{question: Age, options: [1, 2]}]", "Put numbers, yes and no in quotes"),
        ("screener: [{text: Age}]", "each entry has question"),
        ("time_limit_minutes: 0", "expected 1 minute"),
        ("time_limit_minutes: 1.5", "expected a whole number"),
        ("trial_seconds: 1", "expected 2 to 3600"),
        ("trial_seconds: true", "expected a whole number"),
        ("reward: -1", "expected 0 or more"),
        ("reward: .nan", "expected 0 or more"),
        ("reward: much", "is no number"),
        ("completion_code: A\nscreen_out_code: A", "expected different codes"),
        ("stop_at_failed_checks: 1", "expected true or false"),
        ("language: no", "False; expected a text. Put it in quotes"),
        ("markdown:", "None; expected a list"),
        ("markdown: consent", "'consent'; expected a list"),
        ("markdown: 5\nconsent_file: consent.md", "5; expected a list"),
        ("words: [a]\nwords_file: words.yaml", "['a']; expected names"),
        ("screener: yes please", "expected a list"),
        ("title: a\ntitle: b", "title: given twice"),
        ("words: &a {b: *a}", "nested more than"),
        ("5", "are not a mapping"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    (tmp_path / "consent.md").write_text("We pay.")
    (tmp_path / "words.yaml").write_text("agree: Yes, gladly")
    with pytest.raises(SettingsError, match=re.escape(message)) as raised:
        read_settings(file)
    assert str(raised.value).startswith(f"--settings {file}:")
