"""What to run: a YAML file, validated, and the methods and protocols that it names, configured.

::

    name: my-comparison
    seed: 0                     # 0 where it is left out
    limit: 50                   # cases per category; all of them where it is left out
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
        group: mask-based       # the rows' heading; by whether the method takes a mask where it is left out
    metrics: [leak_lpips]       # all of them where it is left out
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
"""Levels of lists and mappings in a suite; one that holds itself has no end."""
MAX_VALUES = 100_000
"""Values in a suite once its aliases are written out."""

SHIPPED = Path(__file__).parent / "suites"
"""The folder of the suites that come with this package."""


class SuiteError(BenchError):
    """A suite that cannot be used. The message names file, line and key, and the remedy."""


class _Strict(BaseModel):
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
"""Text for tables and terminals: one printable line."""


class MethodEntry(_Strict):
    """One method of a suite."""

    method: Annotated[str, Field(min_length=1)]
    preset: str | None = None
    options: dict[str, Any] = {}
    label: Label = ""
    display: Label = ""
    cite: Annotated[str, Field(pattern=r"^([A-Za-z0-9:._+/-]+(,[A-Za-z0-9:._+/-]+)*)?$")] = ""
    group: Label = ""


class Suite(_Strict):
    """What to run."""

    name: str
    protocols: Annotated[list[ProtocolEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    metrics: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of metrics; None for all."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """64 bits, as score files hold it."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Cases per category and protocol; None for all."""

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
    """The suite in a file, or the shipped one of that name.

    Raises :class:`SuiteError` for a file that is missing, no YAML, or not a suite: file, line, key, remedy.
    """
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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read ({error}). Give a YAML file in UTF-8.") from error
    return parse_suite(text, str(path))


def parse_suite(text: str, origin: str = "suite") -> Suite:
    """The suite in a YAML text; ``origin`` names it in messages. Raises :class:`SuiteError`."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[_Path, int] = {}
        for path, line in _lines(node, (), origin) if node is not None else ():
            lines[path] = line
            if len(lines) > MAX_VALUES:
                raise SuiteError(
                    f"{origin}:{line}: more than {MAX_VALUES:,} values, its aliases written out. Shorten it."
                )
        data = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark is not None else origin
        what = getattr(error, "problem", None) or str(error)
        raise SuiteError(f"{where}: not valid YAML: {what}. Mend the line.") from error
    except RecursionError as error:
        raise SuiteError(f"{origin}: nested more than {MAX_DEPTH} levels deep. Make it flat.") from error
    except SuiteError:
        raise
    except ValueError as error:
        # PyYAML passes on what Python says of a number or a date that it cannot make.
        raise SuiteError(
            f"{origin}: a value cannot be read: {error}. Mend it, or put it in quotes."
        ) from error
    if not isinstance(data, dict):
        raise SuiteError(
            f"{origin}: not a suite: a YAML mapping with name, protocols and methods is expected."
        )
    for key, short in (("methods", "method"), ("protocols", "name")):
        entries = data.get(key)
        if isinstance(entries, list):
            data[key] = [{short: entry} if isinstance(entry, str) else entry for entry in entries]
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise SuiteError("\n".join(_messages(error, lines, origin))) from None


def read_yaml(text: str) -> Any:
    """The value of a YAML text, its tags refused. ``5e-1`` is a number, as in YAML 1.2; PyYAML alone takes it for text.

    Raises ``yaml.YAMLError``.
    """
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    exponent = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    return yaml.load(text, loader)


_Path = tuple[str | int, ...]


def limited(categories: Mapping[str, str], limit: int | None) -> set[str]:
    """The ids that ``limit`` picks: of each category the first by hash of the id, so that a greater limit adds.

    ``categories``: case id -> category. All ids where the limit is None.
    """
    if limit is None:
        return set(categories)
    by_category: dict[str, list[str]] = {}
    for case, category in categories.items():
        by_category.setdefault(category, []).append(case)
    return {
        case
        for ids in by_category.values()
        for case in sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit]
    }


def _lines(node: Any, path: _Path, origin: str) -> Iterator[tuple[_Path, int]]:
    """The line of every key and item, by its path. A key given twice raises: YAML would take the last."""
    import yaml

    if len(path) > MAX_DEPTH:
        raise SuiteError(
            f"{origin}:{node.start_mark.line + 1}: nested more than {MAX_DEPTH} levels deep, or a part that holds "
            "itself by an alias. Make it flat."
        )
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                where = f"{_dotted(path)}: " if path else ""
                raise SuiteError(f"{origin}:{line}: {where}a list or a mapping as a key. Give a name.")
            if key.value in seen:
                raise SuiteError(f"{origin}:{line}: {_dotted((*path, key.value))}: given twice. Keep one.")
            seen.add(key.value)
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value), origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index), origin)


def _dotted(path: _Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _messages(error: ValidationError, lines: Mapping[_Path, int], origin: str) -> Iterator[str]:
    for problem in error.errors():
        path: _Path = problem["loc"]
        # A key that is missing has no line; its parent has.
        known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in lines), ())
        where = f"{origin}:{lines[known]}" if known else origin
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
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True, eq=False)
class ConfiguredMethod:
    """A method whose options are parsed and checked; no model is loaded yet."""

    spec: MethodSpec
    cls: type[EditMethod]
    options: Any
    """An instance of ``cls.Options``."""
    problems: tuple[str, ...] = ()
    """What keeps it from running, each with its remedy. Where there is any, the digest is not final."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.cls.needs)

    @property
    def wants_truth(self) -> bool:
        """Whether it is shown the case with its truth, as the oracle is."""
        return self.cls.wants_truth

    def create(self, runtime: Runtime) -> EditMethod:
        """Loads the model. Raises what its constructor raises; PluginError where that would end the program."""
        try:
            return self.cls(self.options, runtime)
        except SystemExit as error:
            raise PluginError(f"it calls sys.exit({error.code!r}). Raise an error there.") from error


@dataclass(frozen=True, eq=False)
class ConfiguredProtocol:
    """A protocol whose options are parsed and checked; no data are read yet."""

    name: str
    """As the suite and the registry call it."""
    cls: type[EditProtocol]
    options: Any
    problems: tuple[str, ...] = ()

    def create(self) -> EditProtocol:
        """Reads what the protocol reads. Raises whatever it raises for missing or broken data."""
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
    """One method by its name: preset expanded, options on top, checked, and identified.

    The spec's options are the full ones, defaults included, so that a spelt-out default changes no digest;
    what ``cls.identity`` says (weights and their hashes) joins them as ``_identity``. Raises
    ``UnknownName`` or ``OptionError`` that begin with ``where``.
    """
    cls = registry.load(name)
    where = f"{where}: method {name!r}" if where else f"method {name!r}"
    given = {**expand_preset(cls, preset, where), **(options or {})}
    parsed = parse_options(cls, given, where)
    found = problems_of(cls, parsed, where)
    full = options_dict(parsed)
    # Asked only where nothing is missing: it may read the very weights that are.
    if not found:
        with plugin_code(cls, f"{where}: identity()"):
            identity = cls.identity(parsed)
            if identity is not None:
                full["_identity"] = dict(identity)
                stable_digest(full["_identity"])
    spec = MethodSpec(
        name, full, label, display, cite, group or _default_group(cls.needs), is_control=cls.is_control
    )
    return ConfiguredMethod(spec, cls, parsed, found)


def _default_group(needs: Collection[str]) -> str:
    """The heading of a method in printed tables, where the suite gives none; of imported edits, nothing."""
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
    found = problems_of(cls, parsed, where)
    return ConfiguredProtocol(name, cls, parsed, found)


def configure_suite(
    suite: Suite, methods: Registry, protocols: Registry, metrics: Registry | None = None
) -> tuple[list[ConfiguredProtocol], list[ConfiguredMethod]]:
    """Everything that a suite names, configured; no model and no data loaded.

    Raises ``UnknownName`` and ``OptionError`` that say where in the suite, and :class:`SuiteError` for two
    entries that would be one column or one row of a table: a method with the same options twice, a title
    twice, a protocol twice.
    """
    # Names first: a misspelt one is told before anything is imported.
    for entry in suite.protocols:
        protocols.check(entry.name)
    for method in suite.methods:
        methods.check(method.method)
    if metrics is not None:
        for metric in suite.metrics or ():
            metrics.check(metric)
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
    for index, name in enumerate(names):
        first = names.index(name)
        if first != index:
            raise SuiteError(f"suite {suite}: {key}[{first}] and {key}[{index}] are both {name!r}. {remedy}")
