"""Texts of the pages as HTML for ``st.html``. Texts of a study or a case are escaped here: they are never markup."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from bench.study.design import DesignOptions
from bench.study.interface import SESSION_DAYS, Completion, OpenTrial, Study
from bench.study.words import Words

STATIC = Path(__file__).with_name("static")
# Parts of the trial's component, in the order in which they are joined.
TRIAL_SCRIPT = ("parts.js", "page.js", "ratings.js", "zoom.js", "dialogs.js", "answers.js", "view.js")
TRIAL_STYLE = ("page.css", "answers.css", "windows.css")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def static(name: str) -> str:
    """The text of a file in ``static``."""
    return (STATIC / name).read_text(encoding="utf-8")


def trial_files(names: Sequence[str]) -> str:
    """Files of ``static/trial`` as one text: the component takes one script and one style."""
    return "\n".join(static(f"trial/{name}") for name in names)


@cache
def icon() -> str:
    """The icon of the pages as a data URL of an SVG: two images, one of them chosen.

    It is part of the page, so that nothing comes from another host.
    """
    # A grey card and a blue one, side by side.
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        '<rect x="4" y="12" width="25" height="40" rx="6" fill="#b0b2ae"/>'
        '<rect x="35" y="12" width="25" height="40" rx="6" fill="#1f4fd8"/></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def page(words: Words, *parts: str) -> str:
    """The parts of a page in the words' direction. The parts are HTML."""
    return f'<div class="peb" dir="{words.direction}" lang="{escape(words.language)}">{"".join(parts)}</div>'


def heading(text: str) -> str:
    # `dir="auto"`: an Arabic or Hebrew text runs from right to left, whatever the page's language is.
    return f'<h1 dir="auto">{escape(text)}</h1>'


def plain(text: str, *, soft: bool = False) -> str:
    """A paragraph with the text's own line breaks. Empty for an empty text."""
    if not text.strip():
        return ""
    # The class `plain` keeps line breaks (CSS `white-space: pre-wrap`), so that no <br> has to be made of them.
    return f'<p class="plain{" soft" if soft else ""}" dir="auto">{escape(text)}</p>'


@cache
def _parser() -> MarkdownIt:
    """Reads Markdown. HTML in it is shown as text, and images are links: a page loads nothing else."""
    return MarkdownIt("commonmark", {"html": False}).disable("image")


def markdown(text: str) -> str:
    """A text of a study in Markdown."""
    return f'<div class="markdown" dir="auto">{_parser().render(text)}</div>'


def asked(study: Study, text: str, *, blocks: bool = False) -> str:
    """A question, a hint or a text of a scale as HTML: escaped, or made of Markdown where the study says so.

    ``blocks``: paragraphs and lists too, not only marks within a line.
    """
    if "questions" not in study.settings.markdown:
        return escape(text)
    return str(_parser().render(text) if blocks else _parser().renderInline(text))


def own(study: Study, name: str) -> str:
    """The study's ``consent``, ``instructions`` or ``thanks``, plain or as Markdown."""
    text = study.text(name)
    return markdown(text) if name in study.settings.markdown else plain(text)


def facts(items: Iterable[str], *, kind: str = "facts") -> str:
    """A list. ``kind``: ``facts`` for a few words each, side by side, or ``sentences`` below each other."""
    return f'<ul class="{kind}">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def card(*parts: str) -> str:
    return f'<div class="card">{"".join(parts)}</div>'


def contact(words: Words, text: str) -> str:
    return plain(words("contact", contact=text), soft=True) if text.strip() else ""


def storage_notice(words: Words, contact: str, *, screener: bool) -> str:
    """Says what is stored of a rater and how it is deleted. It holds for every study."""
    # The address for a withdrawal: the study's contact, if it has one.
    who = contact.strip() or words("stored.inviter")
    names = ("answers", "details", "ids", *(("screener",) if screener else ()), "cookie", "name")
    return (
        f"<h2>{escape(words('stored.heading'))}</h2>"
        + facts((words(f"stored.{name}", days=SESSION_DAYS) for name in names), kind="sentences")
        + plain(words("stored.withdraw", who=who))
    )


def code(words: Words, completion: Completion) -> str:
    """The completion code, and the link back to the recruiting service where the study has one."""
    if completion.code is None:
        return ""
    parts = []
    if completion.url is not None:
        # Without a referrer, since the address of this page is the rater's own link.
        parts.append(
            f'<p><a class="go" href="{escape(completion.url)}" target="_self" rel="noreferrer" '
            f'referrerpolicy="no-referrer">{escape(words("return"))}</a></p>'
        )
    parts.append(f"<h2>{escape(words('code'))}</h2>")
    parts.append(f'<p><span class="code" dir="ltr">{escape(completion.code)}</span></p>')
    return "".join(parts)


def about(words: Words, study: Study) -> list[str]:
    """Number of questions, duration and conditions, for the first page."""
    options, limit = study.design.options, study.settings.time_limit_minutes
    # Rounded to whole minutes: the estimate is not more exact than that.
    items = [
        words("about.questions", n=options.trials),
        words("about.minutes", n=max(1, round(options.minutes))),
    ]
    if options.practice:
        items.append(words("about.practice", n=options.practice))
    if study.settings.trial_seconds is not None:
        items.append(words("about.seconds", n=study.settings.trial_seconds))
    # A pause costs time where the time is limited.
    items.append(words("about.pause") if limit is None else words("about.limit", n=limit))
    return [*items, words("about.account")]


def labels(words: Words, trial: OpenTrial) -> list[str]:
    """Labels A, B, ... of the candidates, in the order shown. After Z come numbers. A single edit is the edit."""
    if trial.kind == "rate":
        return [words("trial.edit")]
    return [LETTERS[index] if index < len(LETTERS) else str(index + 1) for index in range(trial.candidates)]


def brief(words: Words, trial: OpenTrial) -> list[list[str]]:
    """(label, text, CSS class) of each text that asks for the edit."""
    # The first text is the main one: the instruction, or else the target prompt.
    lines = []
    if trial.instruction.strip():
        lines.append([words("trial.asked_for"), trial.instruction, "main"])
    if trial.target_prompt.strip():
        lines.append([words("trial.should_show"), trial.target_prompt, "" if lines else "main"])
    return lines


# --- worked examples: drawings, so that every study has them and none shows a method ------------------------


def _house(door: str, *, sky: str = "#cfe3f5", roof: str = "#8a4b3c", extra: str = "") -> str:
    # In order: sky, sun, lawn, wall, roof, two windows, door.
    return (
        '<svg viewBox="0 0 120 90" xmlns="http://www.w3.org/2000/svg">'
        f'<rect width="120" height="90" fill="{sky}"/><circle cx="100" cy="17" r="8" fill="#f3c64b"/>'
        '<rect y="70" width="120" height="20" fill="#87a96b"/>'
        '<rect x="28" y="38" width="64" height="36" fill="#efe6d5"/>'
        f'<path d="M22 40 L60 14 L98 40 Z" fill="{roof}"/>'
        '<rect x="36" y="47" width="13" height="12" fill="#9fc2d6" stroke="#fff" stroke-width="1.5"/>'
        '<rect x="71" y="47" width="13" height="12" fill="#9fc2d6" stroke="#fff" stroke-width="1.5"/>'
        f'<rect x="53" y="50" width="14" height="24" fill="{door}"/>{extra}</svg>'
    )


# The two lines of `images.outline` around the door, in the same colours.
_OUTLINE = (
    '<rect x="51.4" y="48.4" width="17.2" height="27.2" fill="none" stroke="#e6005a" stroke-width="1.6"/>'
    '<rect x="50.2" y="47.2" width="19.6" height="29.6" fill="none" stroke="#fff" stroke-width="1"/>'
)
# A door with soft edges and streaks: what a poor edit looks like.
_SMEAR = (
    '<path d="M50 50 q10 7 18 -1 l2 22 q-9 9 -19 4 Z" fill="#2456a6" opacity="0.8"/>'
    '<path d="M53 58 q7 -5 13 2 M52 66 q9 6 15 -3" stroke="#c9a98b" stroke-width="3" fill="none"/>'
)
RED, BLUE = "#b5352c", "#2456a6"


def _example(title: str, why: str, pictures: Sequence[tuple[str, str]], best: int) -> str:
    """One comparison. ``pictures``: (label, SVG) of each. ``best``: index of the right one."""
    # No `dir="auto"`: these are the words' own sentences, and one that begins with the label A is still Arabic.
    figures = []
    for index, (name, svg) in enumerate(pictures):
        # As a data URL, since Streamlit removes SVG elements but no images.
        source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"
        mark = ' class="best"' if index == best else ""
        figures.append(
            f'<figure{mark}><img src="{source}" alt="{escape(name)}"/><figcaption>{escape(name)}</figcaption></figure>'
        )
    return (
        f'<div class="example"><p><strong>{escape(title)}</strong></p>'
        f'<div class="row" dir="ltr">{"".join(figures)}</div>'
        f"<p>{escape(why)}</p></div>"
    )


def examples(words: Words) -> str:
    """Three comparisons with their answers and why."""
    # A right edit against none, against changes outside the outline, and against an unreal one.
    original = (words("trial.original"), _house(RED, extra=_OUTLINE))
    pictures = (
        ([original, ("A", _house(BLUE)), ("B", _house(RED))], 1),
        ([original, ("A", _house(BLUE, sky="#f2d9c2", roof="#4d5d4a")), ("B", _house(BLUE))], 2),
        ([original, ("A", _house(BLUE)), ("B", _house("#efe6d5", extra=_SMEAR))], 1),
    )
    names = ("first", "second", "third")
    parts = [
        _example(words("example.asked"), words(f"example.{name}"), row, best)
        for name, (row, best) in zip(names, pictures, strict=True)
    ]
    return f'<h2>{escape(words("three_examples"))}</h2><div class="examples">{"".join(parts)}</div>'


def keys(words: Words, options: DesignOptions) -> str:
    """Instructions for the keyboard, for the study's kinds of trials."""
    parts = []
    if "pair" in options.kinds:
        parts.append(_with_keys(words, "pair", left="←", right="→"))
        if options.ties:
            parts.append(_with_keys(words, "tie", key="N"))
        if options.both_bad:
            # Not B, which is the name of an edit.
            parts.append(_with_keys(words, "both_bad", key="X"))
    # Numbers, as there is no left and right.
    if "best" in options.kinds:
        parts.append(_with_keys(words, "best", one="1", two="2"))
    if "rate" in options.kinds:
        parts.append(_with_keys(words, "rate", one="1", two="2", enter="Enter"))
    parts.append(_with_keys(words, "rest", flicker="F", undo="Z"))
    return f"<p>{' '.join(parts)}</p>"


def _with_keys(words: Words, name: str, **pressed: str) -> str:
    """The words of a key as HTML, with keys of the keyboard in the places of their names."""
    text = escape(words(f"keys.{name}"))
    for place, key in pressed.items():
        text = text.replace(f"{{{place}}}", f"<kbd>{key}</kbd>")
    return text
