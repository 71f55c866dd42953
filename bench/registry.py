"""Names of methods, protocols and metrics, and what stands behind them, imported on use.

A table maps a name to ``"module:Attribute"``. Third parties add to it by an entry point in the group
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
"""The entry-point group of each kind of thing."""


class UnknownName(BenchError):
    """A name that no table holds. The message has a suggestion and the list."""


class PluginError(BenchError):
    """A plug-in that cannot be imported, is malformed, or takes a name that is taken."""


class OptionError(BenchError):
    """An option that does not exist or has a wrong value. The message names it and the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` where one of ``known`` is close to ``name``, else the empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


_OWN = frozenset({"bench", "methods", "protocols"})


def describe(failure: BaseException) -> str:
    """Type and first line of an exception, at most 500 characters."""
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0]}"[:500] if lines else type(failure).__name__


@contextmanager
def plugin_code(cls: Any, who: str) -> Iterator[None]:
    """Runs code of a class: what code of a plug-in raises becomes one :class:`PluginError` that names ``who``.

    So does a call of ``sys.exit``, whoever makes it: it would end the program as if all were done. Errors that this
    project words itself pass through, and so does whatever its own classes raise.
    """
    try:
        yield
    except SystemExit as error:
        raise PluginError(
            f"{who}: it calls sys.exit({error.code!r}), which would end the whole program. Raise an error there."
        ) from error
    except Exception as error:
        own_class = str(getattr(cls, "__module__", "")).partition(".")[0] in _OWN
        if own_class or isinstance(error, BenchError):
            raise
        raise PluginError(
            f"{who}: {describe(error)}. Mend the plug-in; PEB_DEBUG=1 shows the place."
        ) from error


def problems_of(cls: Any, argument: Any, who: str) -> tuple[str, ...]:
    """The texts that ``cls.problems(argument)`` lists. A plug-in may return one text, or None for none.

    ``who`` names the class in messages. Raises :class:`PluginError` where a plug-in's ``problems`` raises or lists
    something else.
    """
    if not hasattr(cls, "problems"):
        return ()
    with plugin_code(cls, f"{who}: problems()"):
        listed = cls.problems(argument)
        texts = (listed,) if isinstance(listed, str) else tuple(listed or ())
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"it lists {listed!r:.80}, where texts are due")
        return tuple(text for text in texts if text)


def _malformed(kind: str, cls: Any) -> list[str]:
    """Reasons why a plug-in's object is no method, protocol or metric. Empty where it is one."""
    base = {"method": EditMethod, "protocol": EditProtocol}.get(kind, object)
    if not isinstance(cls, type) or not issubclass(cls, base):
        return [f"it does not inherit from {base.__module__}.{base.__name__}"]
    reasons = []
    if issubclass(cls, EditMethod):
        reasons += _malformed_needs(cls)
        if cls.edit is EditMethod.edit and cls.edit_cases is EditMethod.edit_cases:
            reasons.append("it has no method edit(requests)")
        if not isinstance(cls.PRESETS, Mapping) or not all(
            isinstance(values, Mapping) for values in cls.PRESETS.values()
        ):
            reasons.append("PRESETS is no dict of dicts")
    if issubclass(cls, EditProtocol) and cls.cases is EditProtocol.cases:
        reasons.append("it has no method cases()")
    if issubclass(cls, Configurable) and not (
        isinstance(cls.Options, type) and dataclasses.is_dataclass(cls.Options)
    ):
        reasons.append("Options is no dataclass")
    if kind == "metric":
        reasons += _malformed_metric(cls)
    return reasons


def _malformed_needs(cls: type[EditMethod]) -> list[str]:
    expected = f"it is a frozenset of {', '.join(sorted(REQUEST_FIELDS))}"
    needs: Any = getattr(cls, "needs", None)
    if not isinstance(needs, (frozenset, set, tuple, list)):
        return [f"needs is missing or no set; {expected}"]
    unknown = sorted(str(name) for name in needs if name not in REQUEST_FIELDS)
    return [f"needs names {', '.join(unknown)}; {expected}"] if unknown else []


def _malformed_metric(cls: Any) -> list[str]:
    reasons = [
        f"{name} is missing or no text"
        for name in ("name", "version", "unit", "summary")
        if not isinstance(getattr(cls, name, None), (str, property))
    ]
    if not isinstance(getattr(cls, "higher_is_better", 0), (bool, property, type(None))):
        reasons.append("higher_is_better is missing, or none of True, False and None")
    if isinstance(getattr(cls, "needs", ()), str):
        reasons.append("needs is a text; it is a frozenset of names")
    if not any(callable(getattr(cls, name, None)) for name in ("score", "score_set")):
        reasons.append("it has no method score(pairs) or score_set(edited, reference, clusters)")
    return reasons


class Registry:
    """The names of one kind: ``"method"``, ``"protocol"`` or ``"metric"``; it names a plug-in's dict too."""

    def __init__(self, kind: str, table: Mapping[str, str], entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._group = ENTRY_POINT_GROUPS.get(kind) if entry_point_group is None else entry_point_group
        self._targets: dict[str, str] = {}
        self._installed_read = False
        for name, target in table.items():
            self.add(name, target)

    def add(self, name: str, target: str, origin: str = "") -> None:
        """Adds one name. The same target twice is fine; another for a name raises :class:`PluginError`."""
        by = f" (from {origin})" if origin else ""
        if not isinstance(name, str) or not name:
            raise PluginError(f"a {self.kind}{by} is called {name!r:.80}. Name it by a text.")
        if not isinstance(target, str) or target.count(":") != 1 or not all(target.split(":")):
            raise PluginError(
                f"{self.kind} {name!r}{by}: {target!r} is not of the form 'module:Class'. Write it so."
            )
        taken = self._targets.get(name)
        if taken is not None and taken != target:
            raise PluginError(
                f"{self.kind} {name!r}{by} would be {target!r}, but is {taken!r} already. Rename the new one."
            )
        self._targets[name] = target

    def _all(self) -> dict[str, str]:
        # Looked up once and late: scanning what is installed costs more than importing this module.
        if not self._installed_read:
            self._installed_read = True
            if self._group:
                from importlib.metadata import entry_points

                for point in entry_points(group=self._group):
                    package = point.dist.name if point.dist is not None else "an installed package"
                    self.add(point.name, point.value.replace(" ", ""), origin=package)
        return self._targets

    def names(self) -> list[str]:
        """Every name, in the order of the table, then plug-ins."""
        return list(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def check(self, name: str) -> str:
        """``name`` itself; raises :class:`UnknownName`, with a suggestion and the list, where it is none."""
        known = self._all()
        if name not in known:
            raise UnknownName(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, known)} "
                f"Known: {', '.join(sorted(known)) or 'none'}."
            )
        return name

    def load(self, name: str) -> Any:
        """The class behind ``name``, imported now. Raises :class:`UnknownName`, and :class:`PluginError` for what
        cannot be imported or is no method, protocol or metric.
        """
        target = self._all()[self.check(name)]
        module_name, _, attribute = target.partition(":")
        found: Any = _imported(
            module_name,
            f"{self.kind} {name!r}",
            f"there is no module {{}} (of {target!r}). "
            "Install the package that has it, or put its folder on PYTHONPATH.",
        )
        for part in attribute.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as error:
                raise PluginError(
                    f"{self.kind} {name!r}: module {module_name!r} has no {attribute!r}. "
                    f"Mend the target {target!r}."
                ) from error
        wrong = _malformed(self.kind, found)
        if wrong:
            raise PluginError(f"{self.kind} {name!r} ({target}): {'; '.join(wrong)}. Mend the class.")
        return found


def _imported(module: str, who: str, absent: str) -> Any:
    """The module. Raises :class:`PluginError` that begins with ``who``; ``absent`` says what to do without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise PluginError(f"{who}: {absent.replace('{}', repr(error.name))}") from error
        raise PluginError(
            f"{who}: module {module!r} needs {error.name!r}, which is not installed. Install it."
        ) from error
    except (Exception, SystemExit) as error:
        # An import runs the module: it may raise anything.
        raise PluginError(
            f"{who}: module {module!r} cannot be imported: {describe(error)}. Mend it; PEB_DEBUG=1 shows the place."
        ) from error


def load_plugin(module: str, registries: Iterable[Registry]) -> list[str]:
    """Imports ``module`` and merges its dicts ``METHODS``, ``PROTOCOLS`` and ``METRICS`` into the registries.

    Returns the names added, each as ``"kind name"``. Raises :class:`PluginError` for a module that does not
    exist, has none of the dicts, or takes a name that is taken; then nothing of it has been added.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        name = ".".join(part for part in PurePath(module.removesuffix(".py")).parts if part.isidentifier())
        example = f", such as {name}," if module.endswith(".py") and name else ""
        raise PluginError(
            f"plug-in {module!r}: not the name of a module. Give its dotted name{example} "
            "from the folder that holds it, or put that folder on PYTHONPATH."
        )
    loaded = _imported(
        module,
        f"plug-in {module!r}",
        "there is no module {}. Give a module's dotted name, and put its folder on PYTHONPATH or install it.",
    )
    tables = {registry: getattr(loaded, registry.kind.upper() + "S", None) for registry in registries}
    if all(table is None for table in tables.values()):
        raise PluginError(
            f"plug-in {module!r} adds nothing: it has none of the dicts METHODS, PROTOCOLS, METRICS. "
            'Define one, as METHODS = {"my_method": "my_package.my_module:MyMethod"}.'
        )
    for dry in (True, False):
        for registry, table in tables.items():
            if table is None:
                continue
            if not isinstance(table, Mapping):
                raise PluginError(f"plug-in {module!r}: {registry.kind.upper()}S is not a dict. Make it one.")
            into = Registry(registry.kind, registry._all(), "") if dry else registry
            for name, target in table.items():
                into.add(name, target, origin=module)
    return [f"{registry.kind} {name}" for registry, table in tables.items() if table for name in table]


def parse_options(cls: type[Configurable], values: Mapping[str, Any], where: str = "") -> Any:
    """An instance of ``cls.Options`` (a dataclass) from plain values, as YAML or JSON gives them.

    Types are held strictly: no number from text, no int from bool; an int serves as a float, a list as a
    tuple, text as a path or as one of a ``Literal``. Raises :class:`OptionError` that starts with ``where``
    (default: the class's name) for an unknown key, with a suggestion, or a wrong value. ``cls.REFUSED`` maps keys
    that a user might look for, and must not give here, to the reason and the remedy.
    """
    where = where or cls.__name__
    option_names = [field.name for field in dataclasses.fields(cls.Options) if field.init]
    for key in values:
        if key in cls.REFUSED:
            raise OptionError(f"{where}: option {key!r}: {cls.REFUSED[key]}.")
        if key not in option_names:
            raise OptionError(
                f"{where}: unknown option {key!r}.{did_you_mean(str(key), option_names)} "
                f"It has: {', '.join(option_names) or 'no options'}."
            )
    try:
        text = json.dumps(dict(values), default=_plain, allow_nan=False)
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
    """One line of pydantic's ValidationError."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if not path:
        return f"{where}: {first['msg'].removeprefix('Value error, ')}."
    given = "" if first["type"] == "missing" else f", got {first['input']!r:.200}"
    return f"{where}: option {path!r}: {first['msg']}{given}."


def options_dict(options: Any) -> dict[str, Any]:
    """Every field of an options dataclass, defaults included, as JSON values: what a digest is made of."""
    from pydantic import TypeAdapter

    plain: dict[str, Any] = TypeAdapter(type(options)).dump_python(options, mode="json")
    return plain


def expand_preset(cls: type[EditMethod], preset: str | None, where: str = "") -> dict[str, Any]:
    """The options of one of ``cls.PRESETS``; empty for None. Raises :class:`UnknownName` with the list."""
    if preset is None:
        return {}
    if preset not in cls.PRESETS:
        raise UnknownName(
            f"{where or cls.__name__}: unknown preset {preset!r}.{did_you_mean(preset, cls.PRESETS)} "
            f"Known: {', '.join(cls.PRESETS) or 'none'}."
        )
    return dict(cls.PRESETS[preset])


def _plain(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{value!r} is {type(value).__name__}")
