"""Suites: YAML files that say what to run. This module reads them and configures the methods and protocols in them.

::

    name: my-comparison
    seed: 0                     # by default 0
    # seeds: [0, 1, 2]          # in place of seed: every edit once with each seed
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
        # best_of: 4 by clip_target   # a further row: the best edit of each case among the first 4 seeds
    metrics: [leak_lpips]       # by default all
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from bench.downloads import fetch_words, needed_by
from bench.edit import EditMethod, EditProtocol, MethodSpec, Runtime, one_line, stable_digest
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
from bench.suite_yaml import KeyPath, SuiteError, dotted, parse_yaml, write_yaml

SHIPPED = Path(__file__).parent / "suites"
"""The folder of the suites that come with this package."""


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
    best_of: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,3} by [A-Za-z0-9_]+)?$")] = ""

    @model_serializer(mode="wrap")
    def _without_absent_choice(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As for the seeds of a suite.
        values: dict[str, Any] = serialize(self)
        if not self.best_of:
            del values["best_of"]
        return values


Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


# Field names are the keys of the file, and defaults are what a missing key means.
class Suite(_Strict):
    """A validated suite file."""

    name: str
    protocols: Annotated[list[ProtocolEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    metrics: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of metrics, or None for all."""
    judges: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    """Options of each judge (``bench.judges.options``), or None for no judge."""
    seed: Seed = 0
    """A signed integer of 64 bits, because score files store it as one. With ``seeds``, the first of them."""
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Every edit is made once with each. They are repeats of a case, not further cases."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Cases per category and protocol, or None for all."""

    @model_validator(mode="before")
    @classmethod
    def _first_seed(cls, values: Any) -> Any:
        seeds = values.get("seeds") if isinstance(values, dict) else None
        if not isinstance(seeds, list) or not seeds:
            return values
        # A stored suite has both.
        if values.get("seed", seeds[0]) != seeds[0]:
            raise ValueError("seed and seeds are both given. Give one of them")
        return {**values, "seed": seeds[0]}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @model_serializer(mode="wrap")
    def _without_absent_seeds(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Absent where there are none, so that the manifests of earlier runs stay as they are.
        values: dict[str, Any] = serialize(self)
        for name in ("seeds", "judges"):
            if values[name] is None:
                del values[name]
        return values

    @model_validator(mode="after")
    def _enough_seeds(self) -> Suite:
        for entry in self.methods:
            count = int(entry.best_of.partition(" ")[0] or 1)
            if entry.best_of and not 2 <= count <= len(self.all_seeds):
                raise ValueError(
                    f"best_of: {entry.best_of}: choose among at least 2 and at most all of the "
                    f"{len(self.all_seeds)} seeds"
                )
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the edits, in order."""
        return tuple(self.seeds or [self.seed])

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
    data, lines = parse_yaml(text, origin)
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


def suite_of_mapping(values: Mapping[str, Any]) -> Suite:
    """The suite that a mapping describes, with the keys of a YAML file. Raises :class:`SuiteError`."""
    # The mapping goes through YAML, so that it meets the same checks and messages as a file.
    return parse_suite(write_yaml(values))


def _messages(error: ValidationError, lines: Mapping[KeyPath, int], origin: str) -> Iterator[str]:
    """One line per problem, with the place in the file."""
    for problem in error.errors():
        path: KeyPath = problem["loc"]
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
            # A problem of the whole suite has no path, and its input is the whole file.
            value = f", got {_short(problem['input'])}" if path else ""
            what = f"{problem['msg'].removeprefix('Value error, ')}{value}."
        yield ": ".join(filter(None, (where, dotted(path), what)))


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
        return frozenset(self.cls.needs_of(self.options))

    def how_to_do_without(self, fields: Collection[str]) -> str:
        """Text after an error about fields that a case lacks: how to do without them, or nothing."""
        hints = [hint for name, hint in self.cls.optional_needs(self.options).items() if name in fields]
        return f" ({'; '.join(hints)})" if hints else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts that the user should know, and that stop no run."""
        return tuple(self.cls.notes(self.options))

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
    best_of: str = "",
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
    # The command that fetches missing files has the same preset and options.
    words = fetch_words(name, preset, options or {})
    problems = tuple(needed_by(words, problem) for problem in problems_of(cls, parsed, where))

    # Identity and remark. They may read weight files, so they are computed only where none is missing.
    full, remark = options_dict(parsed), ""
    if not problems:
        with plugin_code(cls, f"{where}: remark()"):
            remark = one_line(cls.remark(parsed))
        with plugin_code(cls, f"{where}: identity()"):
            identity = cls.identity(parsed)
            if identity is not None:
                full["_identity"] = dict(identity)
                # A value that JSON cannot express raises here, where the message names the plug-in.
                stable_digest(full["_identity"])
    spec = MethodSpec(
        name,
        full,
        label,
        display,
        cite,
        group or _default_group(cls.needs_of(parsed)),
        is_control=cls.is_control,
        best_of=best_of,
        remark=remark,
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
        for method in suite.methods:
            _check_choice(method.best_of, metrics, suite.name)

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
            best_of=entry.best_of,
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


def _check_choice(best_of: str, metrics: Registry, suite: str) -> None:
    """Raises ``UnknownName`` or :class:`SuiteError` for a metric that cannot choose among edits."""
    metric = best_of.partition(" by ")[2]
    if not metric:
        return
    metrics.check(metric)
    cls = metrics.load(metric)
    if cls.kind != "edit" or cls.higher_is_better is None:
        raise SuiteError(
            f"suite {suite}: best_of: {best_of}: {metric} has no best value of a single edit. Name another metric."
        )


def _refuse_twins(suite: str, key: str, names: Sequence[str], remedy: str) -> None:
    # ``names`` are in the order of the suite, so that an index in them is an index in the suite.
    for index, name in enumerate(names):
        first = names.index(name)
        if first != index:
            raise SuiteError(f"suite {suite}: {key}[{first}] and {key}[{index}] are both {name!r}. {remedy}")
