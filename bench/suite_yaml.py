"""Reads the YAML of suites, with the line of every key for messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError

MAX_DEPTH = 50
"""Most levels of lists and mappings in a suite. A list that contains itself through an alias would be endless."""
MAX_VALUES = 100_000
"""Most values in a suite after its aliases are expanded. A short file could expand to gigabytes."""


class SuiteError(BenchError):
    """A suite that cannot be used. The message names the file, line and key, and the remedy."""


def parse_yaml(text: str, origin: str) -> tuple[Any, dict[KeyPath, int]]:
    """The value of a YAML text, and the line of every key and item by its path."""
    import yaml

    try:
        # Only nodes have line numbers. They are checked before they become values, so that aliases that would expand
        # to gigabytes or without end are refused first.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[KeyPath, int] = {}
        for path, line in _lines(node, (), origin) if node is not None else ():
            lines[path] = line
            if len(lines) > MAX_VALUES:
                raise SuiteError(
                    f"{origin}:{line}: more than {MAX_VALUES:,} values once its aliases are expanded. Shorten it."
                )
        return read_yaml(text), lines
    except yaml.MarkedYAMLError as error:
        where = f"{origin}:{error.problem_mark.line + 1}" if error.problem_mark is not None else origin
        raise SuiteError(f"{where}: not valid YAML: {error.problem or error}. Correct the line.") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{origin}: not valid YAML: {error}. Correct the line.") from error
    except RecursionError as error:
        raise SuiteError(f"{origin}: nested more than {MAX_DEPTH} levels deep. Make it flat.") from error
    except SuiteError:
        raise
    except ValueError as error:
        # PyYAML passes on Python's error for an invalid number or date.
        raise SuiteError(
            f"{origin}: a value cannot be read: {error}. Correct it, or put it in quotes."
        ) from error


def read_yaml_file(file: Path, option: str) -> Any:
    """The value of a YAML file that an option or a setting named ``option`` gives. Raises :class:`SuiteError`."""
    # Editors on Windows begin UTF-8 files with a byte order mark, which `utf-8-sig` drops.
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{option} {file}: cannot be read ({error}). Correct the path or file.") from error
    value, _ = parse_yaml(text, f"{option} {file}")
    return value


def write_yaml(values: Mapping[str, Any]) -> str:
    """The YAML text of a mapping, which :func:`read_yaml` reads back. Raises :class:`SuiteError` for other objects."""
    import yaml

    # Text that looks like 5e-1 is put in quotes, because read_yaml would take it for a number.
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_implicit_resolver(*_exponent())
    try:
        return str(yaml.dump(dict(values), Dumper=dumper, sort_keys=False, allow_unicode=True))
    except yaml.YAMLError as error:
        raise SuiteError(f"suite: a value that YAML cannot hold ({error}). Use plain values.") from error


def read_yaml(text: str) -> Any:
    """The value of a YAML text, by PyYAML's safe loader. ``5e-1`` is a number here. Raises ``yaml.YAMLError``."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver(*_exponent())
    return yaml.load(text, loader)


def _exponent() -> tuple[str, re.Pattern[str], list[str]]:
    """Tag, pattern and first characters of numbers such as 5e-1."""
    # PyYAML follows YAML 1.1, which reads 5e-1 as text, because it has no dot. YAML 1.2 reads it as a number.
    pattern = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    return "tag:yaml.org,2002:float", pattern, list("-+.0123456789")


# Keys and indices that lead to a value: ``("methods", 2, "options")``.
KeyPath = tuple[str | int, ...]


def _lines(node: Any, path: KeyPath, origin: str) -> Iterator[tuple[KeyPath, int]]:
    """The line of every key and item, with its path.

    Raises :class:`SuiteError` for a key given twice, of which YAML would silently take the last.
    """
    import yaml

    if len(path) > MAX_DEPTH:
        raise SuiteError(
            f"{origin}:{node.start_mark.line + 1}: nested more than {MAX_DEPTH} levels deep, or a part that holds "
            "itself by an alias. Make it flat."
        )
    # Mappings.
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                where = f"{dotted(path)}: " if path else ""
                raise SuiteError(f"{origin}:{line}: {where}a list or a mapping as a key. Give a name.")
            if key.value in keys:
                raise SuiteError(f"{origin}:{line}: {dotted((*path, key.value))}: given twice. Keep one.")
            keys.add(key.value)
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value), origin)
    # Lists. Scalars have no parts.
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index), origin)


def dotted(path: KeyPath) -> str:
    """``methods[2].options``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
