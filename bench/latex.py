"""Text for LaTeX: the one table of what a character becomes, for the tables of runs and of studies.

Everything compiles with pdflatex and no package for fonts or languages. A character that this cannot print is
written by its code point (``U+4E2D``), and :func:`unprintable` names it, for a warning.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_MATH = {
    **{"<": "<", ">": ">", "|": "|", "−": "-", "·": r"\cdot", "±": r"\pm", "×": r"\times", "÷": r"\div"},
    **{"≈": r"\approx", "≠": r"\neq", "≥": r"\ge", "≤": r"\le", "∞": r"\infty", "√": r"\surd"},
    **{"↑": r"\uparrow", "↓": r"\downarrow", "→": r"\rightarrow", "←": r"\leftarrow"},
    **{"†": r"^{\dagger}", "‡": r"^{\ddagger}", "°": r"^{\circ}", "⁺": "^{+}", "⁻": "^{-}"},
    **{char: f"^{{{digit}}}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{char: f"_{{{digit}}}" for digit, char in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    # Greek, upright as far as mathematics has it; the letters that look like Latin ones are Latin ones.
    **{"α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "ϵ": r"\epsilon"},
    **{"ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ϑ": r"\vartheta", "ι": r"\iota", "κ": r"\kappa"},
    **{"λ": r"\lambda", "μ": r"\mu", "µ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "ο": "o", "π": r"\pi"},
    **{"ρ": r"\rho", "ς": r"\varsigma", "σ": r"\sigma", "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi"},
    **{"ϕ": r"\phi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta"},
    **{"Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi", "Σ": r"\Sigma", "Υ": r"\Upsilon"},
    **{"Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega"},
    **{greek: rf"\mathrm{{{latin}}}" for greek, latin in zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True)},
}

_TEXT = {
    # A bracket or a star at the start of a row would be an argument of the line break before it.
    **{"[": "{[}", "]": "{]}", "*": "{*}"},
    **{char: "\\" + char for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"`": r"\textasciigrave{}", '"': r"\char34{}"},
    **{"\u00a0": "~", "–": "--", "—": "---", "…": r"\ldots{}", "•": r"\textbullet{}"},
    **{"‘": "`", "’": "'", "“": "``", "”": "''", "„": r"\char34{}"},
    **{"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}"},
    **{"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "¡": "!`", "¿": "?`", "§": r"\S{}", "©": r"\copyright{}"},
    "®": r"\textregistered{}",
    "™": r"\texttrademark{}",
    **{char: f"${tex}$" for char, tex in _MATH.items()},
}

_ACCENTS = {
    **{"\u0300": r"\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0304": r"\=", "\u0306": r"\u"},
    **{"\u0307": r"\.", "\u0308": r"\"", "\u030a": r"\r", "\u030b": r"\H", "\u030c": r"\v"},
    **{"\u0323": r"\d", "\u0327": r"\c"},
}
"""The accents that stand over or under a Latin letter, by their combining characters."""

_MATH_ACCENTS = {"\u0301": r"\acute", "\u0308": r"\ddot"}
"""The same over a Greek one."""


def escape(text: str) -> str:
    """``text`` with everything written so that LaTeX reads it as text, on one line."""
    line = _one_line(text)
    written = [_character(char) or f"U+{ord(char):04X}" for char in line]
    # Two hyphens or quotes in a row would be drawn as one sign.
    apart = ["{}" if char == before and char in "-'" else "" for before, char in zip(" " + line, line, strict=False)]
    return "".join(gap + char for gap, char in zip(apart, written, strict=True))


def unprintable(texts: Iterable[str]) -> list[str]:
    """The characters that :func:`escape` writes by their code points, each once."""
    return list(dict.fromkeys(char for text in texts for char in _one_line(text) if _character(char) is None))


def _one_line(text: str) -> str:
    """``text`` composed, without invisible characters; every white space but a hard one is a blank."""
    composed = unicodedata.normalize("NFC", text)
    blanked = (" " if char != "\u00a0" and char.isspace() else char for char in composed)
    return "".join(char for char in blanked if not _invisible(char))


def _invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf") or "\ufe00" <= char <= "\ufe0f"


def _character(char: str) -> str | None:
    """One character as LaTeX, or None where pdflatex cannot print it."""
    if char in _TEXT:
        return _TEXT[char]
    if char.isascii():
        return char
    letter, *accents = unicodedata.normalize("NFD", char)
    if len(accents) != 1:
        return None
    if letter.isascii() and accents[0] in _ACCENTS:
        return f"{_ACCENTS[accents[0]]}{{{letter}}}"
    if letter in _MATH and accents[0] in _MATH_ACCENTS:
        return f"${_MATH_ACCENTS[accents[0]]}{{{_MATH[letter]}}}$"
    return None
