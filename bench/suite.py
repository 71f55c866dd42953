"""Suites: YAML files that say what to run. This module reads them and configures the methods and protocols in them.

::

    name: my-comparison
    seed: 0                     # by default 0
    limit: 50                   # cases per category, by default all
    protocols:
      - name: coco
        options: {root: data/coco}
    methods:                    # each a row of the tables
      - copy_input              # short for {method: copy_input}
      - method: sd_inpainting
        preset: mini
        options: {steps: 20}    # on top of the preset
        label: SD Inpainting    # what the tables call it
        display: SD-Inpaint     # what LaTeX tables print instead
        cite: rombach2022       # BibTeX keys that LaTeX tables cite
        group: mask-based       # the heading above the row, by default whether the method takes a mask
    metrics: [leak_lpips]       # by default all
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.edit import EditMethod, EditProtocol, MethodSpec, Runtime, stable_digest
from bench.errors import BenchError
from bench.files import UnsafeName, safe_part
from bench.registry import (
    PluginError,
    Registry,
    did_you_mean,
    expand_preset,
    options_dict,
    parse_options,
    plugin_code,
    problems_of,
)

MAX_DEPTH = 50
"""Most levels of lists and mappings in a suite. A list that contains itself through an alias would be endless."""
MAX_VALUES = 100_000
"""Most values in a suite after its aliases are expanded. A short file could expand to gigabytes."""

SHIPPED = Path(__file__).parent / "suites"
"""The folder of the suites that come with this package."""


class SuiteError(BenchError):
    """A suite that cannot be used. The message names the file, line and key, and the remedy."""


class _Strict(BaseModel):
    # No unknown keys, and no text where a number is expected.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProtocolEntry(_Strict):
    """One protocol of a suite."""

    name: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = {}


def printable(text: str) -> str:
    """``text`` itself. Raises ValueError unless it is one line of printable characters."""
    if not text.isprintable():
        raise ValueError("one line of printable characters is expected")
    return text


Label = Annotated[str, Field(max_length=120), AfterValidator(printable)]
"""One printable line, for tables and terminals."""


class MethodEntry(_Strict):
    """One method of a suite."""

    method: Annotated[str, Field(min_length=1)]
    preset: str | None = None
    options: dict[str, Any] = {}
    label: Label = ""
    display: Label = ""
    cite: Annotated[str, Field(pattern=r"^([A-Za-z0-9:._+/-]+(,[A-Za-z0-9:._+/-]+)*)?$")] = ""
    group: Label = ""


# Field names are the keys of the file, and defaults are what a missing key means.
class Suite(_Strict):
    """A validated suite file."""

    name: str
    protocols: Annotated[list[ProtocolEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    metrics: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of metrics, or None for all."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """A signed integer of 64 bits, because score files store it as one."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Cases per category and protocol, or None for all."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        try:
            return safe_part(value, "the suite's name")
        except UnsafeName as error:
            raise ValueError(str(error)) from None


def shipped_suites() -> dict[str, Path]:
    """The suites that come with this package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_suite(path_or_name: str | Path) -> Suite:
    """The suite in a file, or the shipped suite of that name.

    Raises :class:`SuiteError` for a file that is missing, is no YAML, or is no suite.
    """
    # Find the file. A file wins over a shipped suite of the same name.
    path = Path(path_or_name)
    if not path.is_file():
        shipped = shipped_suites()
        name = str(path_or_name)
        if name in shipped:
            path = shipped[name]
        elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise SuiteError(f"{path}: no such suite file. Shipped are: {', '.join(shipped) or 'none'}.")
        else:
            raise SuiteError(
                f"unknown suite {name!r}.{did_you_mean(name, shipped)} "
                f"Shipped are: {', '.join(shipped) or 'none'}; or give a YAML file."
            )

    # Read it, with or without a byte order mark.
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read ({error}). Give a YAML file in UTF-8.") from error
    return parse_suite(text, str(path))


def parse_suite(text: str, origin: str = "suite") -> Suite:
    """The suite in a YAML text. ``origin`` names it in messages. Raises :class:`SuiteError`."""
    data, lines = _parse_yaml(text, origin)
    if not isinstance(data, dict):
        raise SuiteError(
            f"{origin}: not a suite: a YAML mapping with name, protocols and methods is expected."
        )
    # An entry may be a bare name.
    for key, short in (("methods", "method"), ("protocols", "name")):
        entries = data.get(key)
        if isinstance(entries, list):
            data[key] = [{short: entry} if isinstance(entry, str) else entry for entry in entries]
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise SuiteError("\n".join(_messages(error, lines, origin))) from None


def _parse_yaml(text: str, origin: str) -> tuple[Any, dict[_Path, int]]:
    """The value of a YAML text, and the line of every key and item by its path."""
    import yaml

    try:
        # Only nodes have line numbers. They are checked before they become values, so that aliases that would expand
        # to gigabytes or without end are refused first.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[_Path, int] = {}
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


def suite_of_mapping(values: Mapping[str, Any]) -> Suite:
    """The suite that a mapping describes, with the keys of a YAML file. Raises :class:`SuiteError`."""
    # The mapping goes through YAML, so that it meets the same checks and messages as a file.
    return parse_suite(write_yaml(values))


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
_Path = tuple[str | int, ...]


def _lines(node: Any, path: _Path, origin: str) -> Iterator[tuple[_Path, int]]:
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
                where = f"{_dotted(path)}: " if path else ""
                raise SuiteError(f"{origin}:{line}: {where}a list or a mapping as a key. Give a name.")
            if key.value in keys:
                raise SuiteError(f"{origin}:{line}: {_dotted((*path, key.value))}: given twice. Keep one.")
            keys.add(key.value)
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value), origin)
    # Lists. Scalars have no parts.
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index), origin)


def _dotted(path: _Path) -> str:
    """``methods[2].options``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _messages(error: ValidationError, lines: Mapping[_Path, int], origin: str) -> Iterator[str]:
    """One line per problem, with the place in the file."""
    for problem in error.errors():
        path: _Path = problem["loc"]
        # A missing key has no line, so the line of its nearest parent is named.
        parent = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in lines), ())
        where = f"{origin}:{lines[parent]}" if parent else origin
        # For an unknown key, list the keys that are allowed there.
        if problem["type"] == "extra_forbidden":
            model: type[BaseModel] = Suite
            if len(path) > 1:
                model = MethodEntry if path[0] == "methods" else ProtocolEntry
            fields = list(model.model_fields)
            what = f"unknown key.{did_you_mean(str(path[-1]), fields)} Known: {', '.join(fields)}."
        elif problem["type"] == "missing":
            what = "missing. Add it."
        else:
            what = f"{problem['msg'].removeprefix('Value error, ')}, got {_short(problem['input'])}."
        yield f"{where}: {_dotted(path)}: {what}"


def _short(value: object) -> str:
    # A message is one line, and the value may be a whole file.
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def limited(categories: Mapping[str, str], limit: int | None) -> set[str]:
    """The ids that ``limit`` selects from ``categories`` (category by case id). All of them where it is None.

    It takes the first cases of each category by the hash of their ids, so that a larger limit adds cases and drops
    none.
    """
    if limit is None:
        return set(categories)
    # By hash and not by position: a data set that grows keeps its selection.
    by_category: dict[str, list[str]] = {}
    for case, category in categories.items():
        by_category.setdefault(category, []).append(case)
    return {
        case
        for ids in by_category.values()
        for case in sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit]
    }


@dataclass(frozen=True, eq=False)
class ConfiguredMethod:
    """A method whose options are parsed and checked. No model is loaded yet."""

    spec: MethodSpec
    cls: type[EditMethod]
    options: Any
    """An instance of ``cls.Options``."""
    problems: tuple[str, ...] = ()
    """Reasons why it cannot run, each with its remedy. While there are any, the spec's digest is not final."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.cls.needs)

    @property
    def wants_truth(self) -> bool:
        return self.cls.wants_truth

    def create(self, runtime: Runtime) -> EditMethod:
        """Loads the model. Raises what the constructor raises, and PluginError where it calls ``sys.exit``."""
        # Other errors of loading pass through: the runner reports them as failures of this method.
        try:
            return self.cls(self.options, runtime)
        except SystemExit as error:
            raise PluginError(f"it calls sys.exit({error.code!r}). Raise an error there.") from error


@dataclass(frozen=True, eq=False)
class ConfiguredProtocol:
    """A protocol whose options are parsed and checked. No data are read yet."""

    name: str
    """Its name in the suite and the registry."""
    cls: type[EditProtocol]
    options: Any
    problems: tuple[str, ...] = ()

    def create(self) -> EditProtocol:
        """Reads the annotations. Raises what the constructor raises for missing or broken data."""
        with plugin_code(self.cls, f"protocol {self.name!r}"):
            return self.cls(self.options)


def configure_method(
    name: str,
    registry: Registry,
    *,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    label: str = "",
    display: str = "",
    cite: str = "",
    group: str = "",
    where: str = "",
) -> ConfiguredMethod:
    """One method by its name. ``options`` override those of the preset.

    The spec's options are all options, defaults included, so that a default that is spelt out changes no digest.
    The result of ``cls.identity`` (hashes of weights) is added as the option ``_identity``. Raises ``UnknownName`` or
    ``OptionError`` that begin with ``where``.
    """
    # Options.
    cls = registry.load(name)
    where = f"{where}: method {name!r}" if where else f"method {name!r}"
    parsed = parse_options(cls, {**expand_preset(cls, preset, where), **(options or {})}, where)
    problems = problems_of(cls, parsed, where)

    # Identity. It may read weight files, so it is computed only where none is missing.
    full = options_dict(parsed)
    if not problems:
        with plugin_code(cls, f"{where}: identity()"):
            identity = cls.identity(parsed)
            if identity is not None:
                full["_identity"] = dict(identity)
                # A value that JSON cannot express raises here, where the message names the plug-in.
                stable_digest(full["_identity"])
    spec = MethodSpec(
        name, full, label, display, cite, group or _default_group(cls.needs), is_control=cls.is_control
    )
    return ConfiguredMethod(spec, cls, parsed, problems)


def _default_group(needs: Collection[str]) -> str:
    """Default heading of a method in printed tables. Methods that need no prompt, such as imported edits, have none."""
    if "mask" in needs:
        return "mask-based"
    return "mask-free" if {"target_prompt", "region_prompt", "instruction"} & set(needs) else ""


def configure_protocol(
    name: str, registry: Registry, *, options: Mapping[str, Any] | None = None, where: str = ""
) -> ConfiguredProtocol:
    """One protocol by its name, its options checked. Raises as :func:`configure_method` does."""
    cls = registry.load(name)
    where = f"{where}: protocol {name!r}" if where else f"protocol {name!r}"
    parsed = parse_options(cls, options or {}, where)
    return ConfiguredProtocol(name, cls, parsed, problems_of(cls, parsed, where))


def configure_suite(
    suite: Suite, methods: Registry, protocols: Registry, metrics: Registry | None = None
) -> tuple[list[ConfiguredProtocol], list[ConfiguredMethod]]:
    """The protocols and methods of a suite, configured. No model and no data are loaded.

    Raises ``UnknownName`` and ``OptionError`` that say where in the suite, and :class:`SuiteError` for two entries
    that would be one row or one column of a table: the same method with the same options, a title, or a protocol
    twice.
    """
    # Names first, so that a misspelt one is reported before anything is imported.
    for entry in suite.protocols:
        protocols.check(entry.name)
    for method in suite.methods:
        methods.check(method.method)
    if metrics is not None:
        for metric in suite.metrics or ():
            metrics.check(metric)

    # Options.
    configured_protocols = [
        configure_protocol(
            entry.name, protocols, options=entry.options, where=f"suite {suite.name}: protocols[{index}]"
        )
        for index, entry in enumerate(suite.protocols)
    ]
    configured_methods = [
        configure_method(
            entry.method,
            methods,
            preset=entry.preset,
            options=entry.options,
            label=entry.label,
            display=entry.display,
            cite=entry.cite,
            group=entry.group,
            where=f"suite {suite.name}: methods[{index}]",
        )
        for index, entry in enumerate(suite.methods)
    ]

    # Entries that would look the same in a table.
    _refuse_twins(suite.name, "protocols", [entry.name for entry in configured_protocols], "Keep one.")
    _refuse_twins(
        suite.name,
        "methods",
        [f"{method.spec.name}-{method.spec.digest}" for method in configured_methods],
        "They have the same options and would make the same edits: keep one.",
    )
    _refuse_twins(
        suite.name,
        "methods",
        [method.spec.title for method in configured_methods],
        "Give each a label of its own.",
    )
    return configured_protocols, configured_methods


def _refuse_twins(suite: str, key: str, names: Sequence[str], remedy: str) -> None:
    # ``names`` are in the order of the suite, so that an index in them is an index in the suite.
    for index, name in enumerate(names):
        first = names.index(name)
        if first != index:
            raise SuiteError(f"suite {suite}: {key}[{first}] and {key}[{index}] are both {name!r}. {remedy}")
