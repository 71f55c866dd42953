"""Escaping of text for LaTeX, for the tables of runs and of studies.

The result compiles with pdflatex and no package for fonts or languages. A character that this cannot print is written
as its code point (``U+4E2D``), and :func:`unprintable` lists it for a warning.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable


def _pairs(chars: str, tex: str) -> dict[str, str]:
    """Characters to their LaTeX, both separated by spaces."""
    return dict(zip(chars.split(), tex.split(), strict=True))


# Characters that need math mode.
_MATH = {
    **_pairs("< > | − · ± × ÷ ≈", r"< > | - \cdot \pm \times \div \approx"),
    **_pairs("≠ ≥ ≤ ∞ √ ↑ ↓", r"\neq \ge \le \infty \surd \uparrow \downarrow"),
    **_pairs("→ ← † ‡ ° ⁺ ⁻", r"\rightarrow \leftarrow ^{\dagger} ^{\ddagger} ^{\circ} ^{+} ^{-}"),
    **{char: f"^{{{digit}}}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{char: f"_{{{digit}}}" for digit, char in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    # Greek. LaTeX has no commands for the letters that look like Latin ones.
    **_pairs("α β γ δ ε ϵ ζ", r"\alpha \beta \gamma \delta \varepsilon \epsilon \zeta"),
    **_pairs("η θ ϑ ι κ λ μ µ", r"\eta \theta \vartheta \iota \kappa \lambda \mu \mu"),
    **_pairs("ν ξ ο π ρ ς σ τ", r"\nu \xi o \pi \rho \varsigma \sigma \tau"),
    **_pairs("υ φ ϕ χ ψ ω", r"\upsilon \varphi \phi \chi \psi \omega"),
    **_pairs("Γ Δ Θ Λ Ξ Π Σ", r"\Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma"),
    **_pairs("Υ Φ Ψ Ω", r"\Upsilon \Phi \Psi \Omega"),
    **{greek: rf"\mathrm{{{latin}}}" for greek, latin in zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True)},
}

# Characters that need a command in text mode, and those of math mode between dollar signs.
_TEXT = {
    # A bracket or a star at the start of a row would be an argument of the line break before it.
    **_pairs("[ ] *", "{[} {]} {*}"),
    **{char: "\\" + char for char in "&%$#_{}"},
    **_pairs(r"\ ~ ^ `", r"\textbackslash{} \textasciitilde{} \textasciicircum{} \textasciigrave{}"),
    **_pairs('" „ “ ” ‘ ’', r"\char34{} \char34{} `` '' ` '"),
    **_pairs("– — … •", r"-- --- \ldots{} \textbullet{}"),
    **_pairs("ß æ Æ œ Œ ø Ø", r"\ss{} \ae{} \AE{} \oe{} \OE{} \o{} \O{}"),
    **_pairs("ł Ł ı ¡ ¿ § ©", r"\l{} \L{} \i{} !` ?` \S{} \copyright{}"),
    **_pairs("® ™", r"\textregistered{} \texttrademark{}"),
    "\u00a0": "~",
    **{char: f"${tex}$" for char, tex in _MATH.items()},
}

# LaTeX accents over or under a Latin letter, by their combining characters.
_ACCENTS = {
    **_pairs("\u0300 \u0301 \u0302 \u0303 \u0304 \u0306", r"\` \' \^ \~ \= \u"),
    **_pairs("\u0307 \u0308 \u030a \u030b \u030c \u0323 \u0327", r"\. \" \r \H \v \d \c"),
}

# LaTeX accents over a Greek letter, in math mode.
_MATH_ACCENTS = {"\u0301": r"\acute", "\u0308": r"\ddot"}


def escape(text: str) -> str:
    """``text`` as LaTeX source that prints it, on one line."""
    line = _one_line(text)
    written = [_character(char) or f"U+{ord(char):04X}" for char in line]
    # Two hyphens or quotes in a row would be printed as one sign, so {} goes between them.
    gaps = ["{}" if pair in ("--", "''") else "" for pair in map("".join, itertools.pairwise(" " + line))]
    return "".join(gap + char for gap, char in zip(gaps, written, strict=True))


def unprintable(texts: Iterable[str]) -> list[str]:
    """The characters that :func:`escape` writes as code points, each once."""
    return list(dict.fromkeys(char for text in texts for char in _one_line(text) if _character(char) is None))


def _one_line(text: str) -> str:
    """``text`` without invisible characters, and with a blank for every white space but the no-break space."""
    # NFC: an accent and its letter become one character where Unicode has it.
    composed = unicodedata.normalize("NFC", text)
    blanked = (" " if char != "\u00a0" and char.isspace() else char for char in composed)
    return "".join(char for char in blanked if not _invisible(char))


def _invisible(char: str) -> bool:
    # Control and format characters, and the selectors that choose between text and emoji.
    return unicodedata.category(char) in ("Cc", "Cf") or "\ufe00" <= char <= "\ufe0f"


def _character(char: str) -> str | None:
    """One character as LaTeX, or None where pdflatex cannot print it."""
    if char in _TEXT:
        return _TEXT[char]
    # Every other ASCII character stands for itself.
    if char.isascii():
        return char
    # Letter and accent.
    letter, *accents = list(unicodedata.normalize("NFD", char))
    # Plain LaTeX does not stack two accents (as in Vietnamese) well.
    if len(accents) != 1:
        return None
    if letter.isascii() and accents[0] in _ACCENTS:
        return f"{_ACCENTS[accents[0]]}{{{letter}}}"
    if letter in _MATH and accents[0] in _MATH_ACCENTS:
        return f"${_MATH_ACCENTS[accents[0]]}{{{_MATH[letter]}}}$"
    return None
