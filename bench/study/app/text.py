"""Texts of the pages as HTML for ``st.html``. Texts of a study or a case are escaped here: they are never markup."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from bench.study.design import Design, DesignOptions
from bench.study.interface import SESSION_DAYS, Completion, OpenTrial

STATIC = Path(__file__).with_name("static")
# For the estimate on the first page. A careful comparison takes 10 to 15 seconds.
SECONDS_PER_TRIAL = 14
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def static(name: str) -> str:
    """The text of a file in ``static``."""
    return (STATIC / name).read_text(encoding="utf-8")


def page(*parts: str) -> str:
    return f'<div class="peb">{"".join(parts)}</div>'


def heading(text: str) -> str:
    # `dir="auto"`: an Arabic or Hebrew text runs from right to left, whatever the page's language is.
    return f'<h1 dir="auto">{escape(text)}</h1>'


def plain(text: str, *, soft: bool = False) -> str:
    """A paragraph with the text's own line breaks. Empty for an empty text."""
    if not text.strip():
        return ""
    # The class `plain` keeps line breaks (CSS `white-space: pre-wrap`), so that no <br> has to be made of them.
    return f'<p class="plain{" soft" if soft else ""}" dir="auto">{escape(text)}</p>'


def facts(items: Iterable[str], *, kind: str = "facts") -> str:
    """A list. ``kind``: ``facts`` for a few words each, side by side, or ``sentences`` below each other."""
    return f'<ul class="{kind}">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def card(*parts: str) -> str:
    return f'<div class="card">{"".join(parts)}</div>'


def contact(text: str) -> str:
    return plain(f"Questions: {text}", soft=True) if text.strip() else ""


def storage_notice(contact: str) -> str:
    """Says what is stored of a rater and how it is deleted. It holds for every study, so no setting changes it."""
    # The address for a withdrawal: the study's contact, if it has one.
    who = contact.strip() or "the person who invited you"
    return (
        "<h2>What is stored</h2>"
        + facts(
            (
                "Under a random number: your answers, when you gave each and how long it took.",
                "With each answer: whether you used the keyboard, a mouse or touch; whether you zoomed, enlarged or "
                "compared the pictures, took an answer back, paused or reloaded the page; the sizes of your window and "
                "of the pictures, and the pixel ratio of your screen.",
                "If a recruiting service sent you: its ids of you, of the study and of your session, so that you can "
                "be paid.",
                f"In this browser: a cookie with your number, for {SESSION_DAYS} days, so that you can go on later.",
                "The study stores neither your name nor your network address.",
            ),
            kind="sentences",
        )
        + plain(
            "You may withdraw at any time, and all of your answers are deleted. Send the code of the last page, or "
            f"the address of any page after this one, to: {who}"
        )
    )


def code(completion: Completion) -> str:
    """The completion code, and the link back to the recruiting service where the study has one."""
    parts = []
    if completion.url is not None:
        # Without a referrer, since the address of this page is the rater's own link.
        parts.append(
            f'<p><a class="go" href="{escape(completion.url)}" target="_self" rel="noreferrer" '
            'referrerpolicy="no-referrer">Return to where you came from</a></p>'
        )
    parts.append("<h2>Your completion code</h2>")
    parts.append(f'<p><span class="code">{escape(completion.code)}</span></p>')
    return "".join(parts)


def about(design: Design) -> list[str]:
    """Number of questions, duration and conditions, for the first page."""
    options = design.options
    # Rounded to whole minutes: the estimate is not more exact than that.
    minutes = max(1, round((options.trials + options.practice) * SECONDS_PER_TRIAL / 60))
    items = [f"{options.trials} questions", f"about {minutes} minute{'s' if minutes > 1 else ''}"]
    if options.practice:
        items.append(f"{options.practice} for practice first")
    return [*items, "pause at any time", "no account"]


def labels(trial: OpenTrial) -> list[str]:
    """Labels A, B, ... of the candidates, in the order shown. After Z come numbers. A single edit is the edit."""
    if trial.kind == "rate":
        return ["Edit"]
    return [LETTERS[index] if index < len(LETTERS) else str(index + 1) for index in range(trial.candidates)]


def brief(trial: OpenTrial) -> list[list[str]]:
    """(label, text, CSS class) of each text that asks for the edit."""
    # The first text is the main one: the instruction, or else the target prompt.
    lines = []
    if trial.instruction.strip():
        lines.append(["Asked for", trial.instruction, "main"])
    if trial.target_prompt.strip():
        lines.append(["Should show", trial.target_prompt, "" if lines else "main"])
    return lines


def feedback(label: str, correct: bool) -> str:
    """Explanation of a practice trial. ``label`` is the right candidate's, ``correct`` says whether it was chosen."""
    if correct:
        return f"{label} was made well on purpose; in the other, the edit is missing or spoilt."
    return f"{label} is the better one: it was made well on purpose; in the other, the edit is missing or spoilt."


def rating_feedback(spoilt: bool) -> str:
    """Explanation of a practice trial in which an edit is rated."""
    if spoilt:
        return "This picture was spoilt on purpose: low ratings fit."
    return "This edit was made well on purpose: high ratings fit."


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
    figures = []
    for index, (name, svg) in enumerate(pictures):
        # As a data URL, since Streamlit removes SVG elements but no images.
        source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"
        mark = ' class="best"' if index == best else ""
        figures.append(
            f'<figure{mark}><img src="{source}" alt="{escape(name)}"/><figcaption>{escape(name)}</figcaption></figure>'
        )
    return (
        f'<div class="example"><p><strong>{escape(title)}</strong></p><div class="row">{"".join(figures)}</div>'
        f"<p>{why}</p></div>"
    )


def examples() -> str:
    """Three comparisons with their answers and why."""
    # A right edit against none, against changes outside the outline, and against an unreal one.
    original = ("Original", _house(RED, extra=_OUTLINE))
    request = "Asked for: paint the door blue."
    return (
        '<div class="examples">'
        + _example(
            request,
            "<strong>A is better.</strong> B leaves the door as it was: it does not do what was asked.",
            [original, ("A", _house(BLUE)), ("B", _house(RED))],
            1,
        )
        + _example(
            request,
            "<strong>B is better.</strong> Both doors are blue, but A also changes the sky and the roof, "
            "outside the outline.",
            [original, ("A", _house(BLUE, sky="#f2d9c2", roof="#4d5d4a")), ("B", _house(BLUE))],
            2,
        )
        + _example(
            request,
            "<strong>A is better.</strong> B is blue where it should be, but smeared: nobody would take it for a "
            "door.",
            [original, ("A", _house(BLUE)), ("B", _house("#efe6d5", extra=_SMEAR))],
            1,
        )
        + "</div>"
    )


def keys(options: DesignOptions) -> str:
    """Instructions for the keyboard, for the study's kinds of trials."""
    parts = []
    if "pair" in options.kinds:
        tie = ", <kbd>N</kbd> says that there is no difference" if options.ties else ""
        tie += ", <kbd>B</kbd> says that both are bad" if options.both_bad else ""
        parts.append(f"Of two edits, <kbd>←</kbd> and <kbd>→</kbd> choose the left or the right one{tie}.")
    # Numbers, as there is no left and right.
    if "best" in options.kinds:
        parts.append("Of several edits, <kbd>1</kbd>, <kbd>2</kbd> and so on choose one.")
    if "rate" in options.kinds:
        parts.append(
            "Where a single edit is rated, <kbd>1</kbd>, <kbd>2</kbd> and so on answer one question after the other, "
            "and <kbd>Enter</kbd> goes on."
        )
    return (
        f"<p>{' '.join(parts)} <kbd>F</kbd> shows the original and the edits in turn, in place: what flickers has "
        "changed. <kbd>Z</kbd> takes an answer back, or changes the last one. Click a picture, or tap it on a phone, "
        "to look closer.</p>"
    )
