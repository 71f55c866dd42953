"""Registries of methods, protocols and metrics: names that map to classes, which are imported on use.

A table maps a name to ``"module:Class"``. Third parties add to it by an entry point of the group
``prompteditbench.methods`` (``protocols``, ``metrics``), or by a plug-in module whose dicts ``METHODS``,
``PROTOCOLS`` and ``METRICS`` are merged by :func:`load_plugin`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from bench.edit import REQUEST_FIELDS, Configurable, EditMethod, EditProtocol
from bench.errors import BenchError

ENTRY_POINT_GROUPS: Mapping[str, str] = {
    "method": "prompteditbench.methods",
    "protocol": "prompteditbench.protocols",
    "metric": "prompteditbench.metrics",
}
"""Entry-point group of each kind."""

_OWN_PACKAGES = frozenset({"bench", "methods", "protocols"})


class UnknownName(BenchError):
    """A name that is not registered. The message has a suggestion and the list of names."""


class PluginError(BenchError):
    """A plug-in that cannot be imported, is malformed, or takes a name that is in use."""


class OptionError(BenchError):
    """An option that does not exist or has a wrong value. The message names it and the remedy."""


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` where an available name is similar to ``name``, else the empty string."""
    # Lower than difflib's default of 0.6: a name of four letters with two wrong ones still gets its suggestion.
    close = difflib.get_close_matches(str(name), list(available), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def describe(failure: BaseException) -> str:
    """Type and first line of an exception, at most 500 characters."""
    # Messages of libraries can be pages long, and records and terminals show one line.
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0]}"[:500] if lines else type(failure).__name__


@contextmanager
def plugin_code(cls: Any, who: str) -> Iterator[None]:
    """Runs code of a class. An exception that a plug-in raises becomes one :class:`PluginError` that names ``who``.

    So does a call of ``sys.exit``, which would end the whole program. Two kinds pass through unchanged: a
    :class:`BenchError`, which has a clear message already, and any exception of a class of this project, which is a
    defect of the project.
    """
    try:
        yield
    except SystemExit as error:
        raise PluginError(
            f"{who}: it calls sys.exit({error.code!r}), which would end the whole program. Raise an error there."
        ) from error
    except Exception as error:
        if isinstance(error, BenchError) or cls.__module__.partition(".")[0] in _OWN_PACKAGES:
            raise
        raise PluginError(
            f"{who}: {describe(error)}. Fix the plug-in. PEB_DEBUG=1 shows the traceback."
        ) from error


def problems_of(cls: Any, argument: Any, who: str) -> tuple[str, ...]:
    """The texts that ``cls.problems(argument)`` lists. A plug-in may return one text, or None for none.

    ``who`` names the class in messages. Raises :class:`PluginError` where a plug-in's ``problems`` raises or lists
    something else.
    """
    with plugin_code(cls, f"{who}: problems()"):
        listed = cls.problems(argument)
        texts = (listed,) if isinstance(listed, str) else tuple(listed or ())
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"it lists {listed!r:.80}, where strings are expected")
        return tuple(text for text in texts if text)


# The shape of a plug-in's class.


def _shape_problems(kind: str, cls: Any) -> list[str]:
    """Reasons why an object is no class of a method, protocol or metric. Empty where it is one."""
    bases = _base_classes(kind)
    if not isinstance(cls, type) or not issubclass(cls, bases):
        names = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        return [f"it does not inherit from {names}"]
    problems = {"method": _method_problems, "protocol": _protocol_problems, "metric": _metric_problems}
    return problems[kind](cls)


def _base_classes(kind: str) -> tuple[type, ...]:
    if kind == "method":
        return (EditMethod,)
    if kind == "protocol":
        return (EditProtocol,)
    # Imported here: it needs numpy, and names are listed without it.
    from bench.metrics.types import Metric, SetMetric

    return (Metric, SetMetric)


def _method_problems(cls: type[EditMethod]) -> list[str]:
    problems = []
    # ``needs`` has no default: a method that forgets it would get cases that it cannot edit.
    needs: Any = getattr(cls, "needs", None)
    expected = f"it is a frozenset of {', '.join(sorted(REQUEST_FIELDS))}"
    if not isinstance(needs, (frozenset, set, tuple, list)):
        problems.append(f"needs is missing or no set; {expected}")
    elif not REQUEST_FIELDS.issuperset(needs):
        unknown = sorted(str(name) for name in set(needs) - REQUEST_FIELDS)
        problems.append(f"needs names {', '.join(unknown)}; {expected}")
    if cls.edit is EditMethod.edit and cls.edit_cases is EditMethod.edit_cases:
        problems.append("it has no method edit(requests)")
    problems += _options_problems(cls)
    if not isinstance(cls.PRESETS, Mapping) or not all(
        isinstance(values, Mapping) for values in cls.PRESETS.values()
    ):
        problems.append("PRESETS is no dict of dicts")
    return problems


def _protocol_problems(cls: type[EditProtocol]) -> list[str]:
    problems = ["it has no method cases()"] if cls.cases is EditProtocol.cases else []
    return problems + _options_problems(cls)


def _options_problems(cls: type[Configurable]) -> list[str]:
    is_dataclass = isinstance(cls.Options, type) and dataclasses.is_dataclass(cls.Options)
    return [] if is_dataclass else ["Options is no dataclass"]


def _metric_problems(cls: Any) -> list[str]:
    from bench.metrics.types import Metric, Pair, SetMetric

    problems = [
        f"{name} is missing or no text"
        for name in ("name", "version", "unit", "summary")
        if not isinstance(getattr(cls, name, None), (str, property))
    ]
    # None is a valid declaration, so 0 stands for a missing one.
    if not isinstance(getattr(cls, "higher_is_better", 0), (bool, property, type(None))):
        problems.append("higher_is_better is missing, or none of True, False and None")
    pair_fields = {field.name for field in dataclasses.fields(Pair)}
    if isinstance(cls.needs, str):
        problems.append("needs is a text; it is a frozenset of names")
    # A mistyped need would leave every case without a value.
    elif unknown := sorted(str(name) for name in set(cls.needs) - pair_fields):
        problems.append(
            f"needs names {', '.join(unknown)}; it is a frozenset of {', '.join(sorted(pair_fields))}"
        )
    if issubclass(cls, Metric) and cls.score is Metric.score:
        problems.append("it has no method score(pairs)")
    if issubclass(cls, SetMetric) and cls.score_set is SetMetric.score_set:
        problems.append("it has no method score_set(edited, reference, clusters)")
    return problems


# Names.


class Registry:
    """Maps the names of one kind, ``"method"``, ``"protocol"`` or ``"metric"``, to their targets ``"module:Class"``."""

    def __init__(self, kind: str, table: Mapping[str, str], entry_point_group: str | None = None) -> None:
        """``entry_point_group`` None stands for the group of the kind, and the empty string for no group."""
        self.kind = kind
        self._group = ENTRY_POINT_GROUPS.get(kind) if entry_point_group is None else entry_point_group
        self._targets: dict[str, str] = {}
        self._entry_points_read = False
        # add() checks each entry, so that a wrong table of this project fails as early as a plug-in's.
        for name, target in table.items():
            self.add(name, target)

    def add(self, name: str, target: str, origin: str = "") -> None:
        """Adds one name. ``origin`` says in messages where it comes from.

        Adding the same target twice is allowed. Raises :class:`PluginError` for another target of a name in use.
        """
        source = f" (from {origin})" if origin else ""
        if not isinstance(name, str) or not name:
            raise PluginError(
                f"a {self.kind}{source} is called {name!r:.80}. Give it a non-empty string as its name."
            )
        if not isinstance(target, str) or target.count(":") != 1 or not all(target.split(":")):
            raise PluginError(
                f"{self.kind} {name!r}{source}: {target!r} is not of the form 'module:Class'. Write it in this form."
            )
        present = self._targets.setdefault(name, target)
        if present != target:
            raise PluginError(
                f"{self.kind} {name!r}{source} would be {target!r}, but is {present!r} already. Rename the new one."
            )

    @property
    def targets(self) -> Mapping[str, str]:
        """``"module:Class"`` by name, with those of installed packages."""
        # Read once and on first use: scanning the installed packages takes longer than importing this module.
        if not self._entry_points_read:
            self._entry_points_read = True
            if self._group:
                from importlib.metadata import entry_points

                for point in entry_points(group=self._group):
                    package = point.dist.name if point.dist is not None else "an installed package"
                    self.add(point.name, point.value.replace(" ", ""), origin=package)
        return self._targets

    def names(self) -> list[str]:
        """Every name, in the order of the table, then plug-ins."""
        return list(self.targets)

    def __contains__(self, name: object) -> bool:
        return name in self.targets

    def check(self, name: str) -> str:
        """``name`` itself. Raises :class:`UnknownName`, with a suggestion and the list, for an unknown one."""
        if name not in self.targets:
            raise UnknownName(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, self.targets)} "
                f"Known: {', '.join(sorted(self.targets)) or 'none'}."
            )
        return name

    def load(self, name: str) -> Any:
        """The class of a name, imported now.

        Raises :class:`UnknownName` for an unknown name, and :class:`PluginError` for a class that cannot be imported
        or is no method, protocol or metric.
        """
        target = self.targets[self.check(name)]
        module_name, _, attribute = target.partition(":")
        loaded = _import(
            module_name,
            f"{self.kind} {name!r}",
            f"there is no module {{}} (of {target!r}). "
            "Install the package that has it, or put its folder on PYTHONPATH.",
        )
        # "module:Outer.Inner" names a nested class.
        for part in attribute.split("."):
            try:
                loaded = getattr(loaded, part)
            except AttributeError as error:
                raise PluginError(
                    f"{self.kind} {name!r}: module {module_name!r} has no {attribute!r}. "
                    f"Correct the target {target!r}."
                ) from error
        # Checked on every load, so that a mistake of a plug-in is one clear error instead of a traceback later.
        problems = _shape_problems(self.kind, loaded)
        if problems:
            raise PluginError(f"{self.kind} {name!r} ({target}): {'; '.join(problems)}. Fix the class.")
        return loaded


def _import(module: str, who: str, if_missing: str) -> Any:
    """Imports a module. Raises :class:`PluginError` that begins with ``who``.

    ``if_missing`` is the message where the module does not exist. ``{}`` in it stands for the missing name.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Either the module itself or a package above it is missing, or a module that it imports.
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise PluginError(f"{who}: {if_missing.replace('{}', repr(error.name))}") from error
        raise PluginError(
            f"{who}: module {module!r} needs {error.name!r}, which is not installed. Install it."
        ) from error
    except (Exception, SystemExit) as error:
        # An import runs the module, so it may raise anything.
        raise PluginError(
            f"{who}: module {module!r} cannot be imported: {describe(error)}. Fix it. PEB_DEBUG=1 shows the traceback."
        ) from error


def load_plugin(module: str, registries: Iterable[Registry]) -> list[str]:
    """Imports ``module`` and merges its dicts ``METHODS``, ``PROTOCOLS`` and ``METRICS`` into the registries.

    Returns the names added, each as ``"kind name"``. Raises :class:`PluginError` for a module that does not exist, has
    none of the dicts, or takes a name that is in use. In these cases nothing is added.
    """
    # Import the module.
    if not all(part.isidentifier() for part in module.split(".")):
        name = ".".join(part for part in PurePath(module.removesuffix(".py")).parts if part.isidentifier())
        example = f", such as {name}," if module.endswith(".py") and name else ""
        raise PluginError(
            f"plug-in {module!r}: not the name of a module. Give its dotted name{example} "
            "from the folder that holds it, or put that folder on PYTHONPATH."
        )
    loaded = _import(
        module,
        f"plug-in {module!r}",
        "there is no module {}. Give a module's dotted name, and put its folder on PYTHONPATH or install it.",
    )

    # Find its dicts.
    tables = {
        registry: vars(loaded)[f"{registry.kind.upper()}S"]
        for registry in registries
        if f"{registry.kind.upper()}S" in vars(loaded)
    }
    if not tables:
        raise PluginError(
            f"plug-in {module!r} adds nothing: it has none of the dicts METHODS, PROTOCOLS, METRICS. "
            'Define one, as METHODS = {"my_method": "my_package.my_module:MyMethod"}.'
        )
    for registry, table in tables.items():
        if not isinstance(table, Mapping):
            raise PluginError(f"plug-in {module!r}: {registry.kind.upper()}S is not a dict. Make it one.")

    # Add its names: first to copies of the registries, so that an error leaves the registries as they were.
    for registry, table in tables.items():
        copy = Registry(registry.kind, registry.targets, "")
        for name, target in table.items():
            copy.add(name, target, origin=module)
    for registry, table in tables.items():
        for name, target in table.items():
            registry.add(name, target, origin=module)
    return [f"{registry.kind} {name}" for registry, table in tables.items() for name in table]


# Options.


def parse_options(cls: type[Configurable], values: Mapping[str, Any], where: str = "") -> Any:
    """An instance of ``cls.Options`` (a dataclass) from plain values, as YAML or JSON gives them.

    Types are checked strictly: no number from text, no int from bool. An int serves as a float, a list as a tuple,
    text as a path or as one of a ``Literal``. Raises :class:`OptionError` that starts with ``where`` (default: the
    name of the class) for a wrong value, an unknown key, with a suggestion, or a key in ``cls.REFUSED``.
    """
    where = where or cls.__name__

    # Check the names.
    names = [field.name for field in dataclasses.fields(cls.Options) if field.init]
    for key in values:
        if key in cls.REFUSED:
            raise OptionError(f"{where}: option {key!r}: {cls.REFUSED[key]}.")
        if key not in names:
            raise OptionError(
                f"{where}: unknown option {key!r}.{did_you_mean(str(key), names)} "
                f"It has: {', '.join(names) or 'no options'}."
            )

    # Check the values. They go through JSON because pydantic's strict mode takes a list for a tuple, and text for a
    # path, from JSON only.
    try:
        text = json.dumps(dict(values), default=_path_text, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{where}: an option's value is not plain data ({error}).") from error
    # Imported here: --help must not wait for it.
    from pydantic import TypeAdapter, ValidationError

    with plugin_code(cls, f"{where}: its Options"):
        try:
            return TypeAdapter(cls.Options).validate_json(text, strict=True)
        except ValidationError as error:
            raise OptionError(_option_message(error, where)) from error


def _option_message(error: Any, where: str) -> str:
    """The first problem of pydantic's ValidationError, as one line."""
    # Only the first problem: it is often the cause of the others.
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if not path:
        return f"{where}: {first['msg'].removeprefix('Value error, ')}."
    value = "" if first["type"] == "missing" else f", got {first['input']!r:.200}"
    return f"{where}: option {path!r}: {first['msg']}{value}."


def options_dict(options: Any) -> dict[str, Any]:
    """Every field of an options dataclass, defaults included, as JSON values. A method's digest is computed from it."""
    from pydantic import TypeAdapter

    # Through pydantic, so that fields marked with ``exclude`` (no part of the digest) are left out.
    plain: dict[str, Any] = TypeAdapter(type(options)).dump_python(options, mode="json")
    return plain


def expand_preset(cls: type[EditMethod], preset: str | None, where: str = "") -> dict[str, Any]:
    """The options of one of ``cls.PRESETS``, empty for None. Raises :class:`UnknownName` with the list."""
    if preset is None:
        return {}
    if preset not in cls.PRESETS:
        raise UnknownName(
            f"{where or cls.__name__}: unknown preset {preset!r}.{did_you_mean(preset, cls.PRESETS)} "
            f"Known: {', '.join(cls.PRESETS) or 'none'}."
        )
    return dict(cls.PRESETS[preset])


def _path_text(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{value!r} is {type(value).__name__}")
