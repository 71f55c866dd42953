from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from bench.edit import EditMethod
from bench.registry import (
    OptionError,
    PluginError,
    Registry,
    UnknownName,
    expand_preset,
    load_plugin,
    options_dict,
    parse_options,
    problems_of,
)


class Thing(EditMethod):
    @dataclass(frozen=True)
    class Options:
        steps: int = 50
        scale: float = 7.5
        kind: Literal["a", "b"] = "a"
        sides: tuple[int, ...] = (64,)
        folder: Path | None = None
        fast: bool = False

        def __post_init__(self) -> None:
            if self.steps < 1:
                raise ValueError("steps must be at least 1")

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"mini": {"steps": 20}}


class Bare(EditMethod): ...


METHOD = """\
from bench.edit import EditMethod, EditProtocol
class Method(EditMethod):
    needs = frozenset({'source'})
    def edit(self, requests): ...
"""
BAD = "from bench.edit import EditMethod, EditProtocol\nclass Bad(EditMethod):\n"
METRIC = (
    "from bench.metrics import Metric\nclass Judge(Metric):\n"
    "    name, version, unit, summary, higher_is_better = 'judge', '1', '', '', True\n"
    "    def score(self, pairs): ...\n"
)


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))


# Names


def test_load_imports_on_use_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "lazy_mod_a", METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("method", {"lazy": "lazy_mod_a:Method"}, "")
    assert registry.names() == ["lazy"]
    assert "lazy_mod_a" not in sys.modules
    assert registry.load("lazy").__name__ == "Method"
    assert "lazy_mod_a" in sys.modules


def test_unknown_name_suggests_and_lists() -> None:
    registry = Registry("method", {"sd_inpainting": "a:B", "copy_input": "a:C"}, "")
    with pytest.raises(
        UnknownName,
        match=r"unknown method 'sd_inpaint'\. Did you mean 'sd_inpainting'\? Known: copy_input, sd_inp",
    ):
        registry.load("sd_inpaint")
    with pytest.raises(UnknownName) as caught:
        registry.load("zzz")
    assert "Did you mean" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_name_is_taken_once() -> None:
    registry = Registry("method", {"a": "m:A"}, "")
    registry.add("a", "m:A")
    with pytest.raises(PluginError, match=r"method 'a' \(from x\) would be 'm:B', but is 'm:A' already"):
        registry.add("a", "m:B", origin="x")
    with pytest.raises(PluginError, match="'module:Class'"):
        registry.add("b", "m.B")


def test_missing_module_and_attribute_name_the_remedy() -> None:
    registry = Registry("method", {"a": "no_such_module_x:A", "b": "bench.edit:Nothing"}, "")
    with pytest.raises(PluginError, match=r"there is no module 'no_such_module_x'.*PYTHONPATH"):
        registry.load("a")
    with pytest.raises(PluginError, match=r"'bench\.edit' has no 'Nothing'"):
        registry.load("b")


def test_a_missing_dependency_of_a_method_is_not_mistaken_for_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "needs_more", "import no_such_dependency_y")
    monkeypatch.syspath_prepend(tmp_path)
    message = "module 'needs_more' needs 'no_such_dependency_y', which is not installed"
    with pytest.raises(PluginError, match=message):
        Registry("method", {"a": "needs_more:A"}, "").load("a")


# Plug-ins


def test_entry_points_of_installed_packages_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "third_party_mod", METHOD + METRIC)
    # What an installer leaves of a package.
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[prompteditbench.methods]\nmine = third_party_mod:Method\n"
        "[prompteditbench.metrics]\njudge = third_party_mod:Judge\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    # Registries without a group of their own read that of their kind.
    methods = Registry("method", {"copy_input": "a:B"})
    assert methods.names() == ["copy_input", "mine"]
    assert methods.load("mine").__name__ == "Method"
    assert Registry("metric", {}).names() == ["judge"]
    assert "mine" not in Registry("protocol", {}).names()
    with pytest.raises(PluginError, match=r"method 'mine' \(from third-party\)"):
        Registry("method", {"mine": "other:Mine"}).names()


def test_plugin_module_merges_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        tmp_path,
        "plug_a",
        METHOD + METRIC + 'METHODS = {"plugged": "plug_a:Method"}\nMETRICS = {"measured": "plug_a:Judge"}\n',
    )
    monkeypatch.syspath_prepend(tmp_path)
    methods, protocols, metrics = (Registry(kind, {}, "") for kind in ("method", "protocol", "metric"))
    added = load_plugin("plug_a", [methods, protocols, metrics])
    assert added == ["method plugged", "metric measured"]
    assert (methods.load("plugged").__name__, metrics.load("measured").__name__) == ("Method", "Judge")
    # A plug-in may be named twice, on the command line and in the environment.
    assert load_plugin("plug_a", [methods, metrics]) == added, "loading it twice changes nothing"


def test_plugin_that_clashes_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "plug_b", 'METHODS = {"new": "plug_b:M", "copy_input": "plug_b:M"}')
    write_module(tmp_path, "plug_c", "x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    methods = Registry("method", {"copy_input": "a:B"}, "")
    # One name clashes: the other is not added either.
    with pytest.raises(PluginError, match=r"'copy_input' \(from plug_b\)"):
        load_plugin("plug_b", [methods])
    assert methods.names() == ["copy_input"]
    with pytest.raises(PluginError, match=r"'plug_c' adds nothing.*METHODS"):
        load_plugin("plug_c", [methods])
    with pytest.raises(PluginError, match="there is no module 'no_such_plugin_z'"):
        load_plugin("no_such_plugin_z", [methods])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(0)", r"cannot be imported: SystemExit: 0"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError: division by zero"),
        ("def broken(", r"cannot be imported: SyntaxError: "),
        ("from bench.edit import nothing", r"cannot be imported: ImportError: cannot import name 'nothing'"),
        ("import no_such_dependency_y", r"needs 'no_such_dependency_y', which is not installed"),
        ("METHODS = ['a']", r"METHODS is not a dict"),
        ("METHODS = {5: 'a:B'}", r"a method \(from .*\) is called 5"),
        ("METHODS = {'a': 5}", r"method 'a' \(from .*\): 5 is not of the form"),
    ],
)
def test_a_plugin_that_cannot_be_read_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    write_module(tmp_path, "plug_bad", text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plug_bad", raising=False)
    with pytest.raises(PluginError, match=message):
        load_plugin("plug_bad", [Registry("method", {}, "")])
    monkeypatch.delitem(sys.modules, "plug_bad", raising=False)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("./foo.py", "such as foo, from the folder"),
        ("pkg/foo.py", "such as pkg.foo, from the folder"),
        ("", "Give its dotted name from the folder"),
        ("..", "Give its dotted name from the folder"),
        ("a b", "Give its dotted name from the folder"),
    ],
)
def test_a_plugin_that_is_no_name_of_a_module_is_told_the_name(name: str, remedy: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugin(name, [Registry("method", {}, "")])
    assert str(caught.value).startswith(f"plug-in {name!r}: not the name of a module.")
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("method", "def Bad(): ...", "it does not inherit from bench.edit.EditMethod"),
        ("protocol", "class Bad: ...", "it does not inherit from bench.edit.EditProtocol"),
        (
            "method",
            BAD + "    def edit(self, requests): ...",
            "needs is missing or no set; it is a frozenset of",
        ),
        (
            "method",
            BAD + "    needs = 'mask'\n    def edit(self, requests): ...",
            "needs is missing or no set",
        ),
        (
            "method",
            BAD + "    needs = {'maks'}\n    def edit(self, requests): ...",
            "needs names maks;",
        ),
        ("method", BAD + "    needs = {'mask'}", r"it has no method edit\(requests\)"),
        (
            "method",
            METHOD.replace("class Method", "class Bad") + "    Options = dict",
            "Options is no dataclass",
        ),
        (
            "method",
            METHOD.replace("class Method", "class Bad") + "    PRESETS = {'a': 1}",
            "PRESETS is no dict of dicts",
        ),
        ("protocol", BAD.replace("EditMethod)", "EditProtocol)") + "    ...", r"it has no method cases\(\)"),
        (
            "metric",
            "class Bad: ...",
            "it does not inherit from bench.metrics.types.Metric or bench.metr",
        ),
        (
            "metric",
            "from bench.metrics import Metric\nclass Bad(Metric): ...",
            "name is missing or no text; version is missing or no text; unit",
        ),
        (
            "metric",
            METRIC.replace("class Judge", "class Bad").replace("score", "rate"),
            r"it has no method score\(pairs\)",
        ),
        (
            "metric",
            METRIC.replace("class Judge", "class Bad").replace("True", "'up'"),
            "higher_is_better is missing, or none of",
        ),
        (
            "metric",
            METRIC.replace("class Judge", "class Bad") + "    needs = {'maks'}",
            "needs names maks; it is a frozenset of case, category, ",
        ),
    ],
)
def test_a_malformed_class_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: str, message: str
) -> None:
    write_module(tmp_path, "plug_shape", text)
    monkeypatch.syspath_prepend(tmp_path)
    # Python keeps modules by name, and every case writes another one.
    monkeypatch.delitem(sys.modules, "plug_shape", raising=False)
    with pytest.raises(PluginError, match=rf"{kind} 'a' \(plug_shape:Bad\): .*{message}"):
        Registry(kind, {"a": "plug_shape:Bad"}, "").load("a")
    monkeypatch.delitem(sys.modules, "plug_shape", raising=False)


@pytest.mark.parametrize(
    ("listed", "problems"),
    [("no weights: fetch them", ("no weights: fetch them",)), (None, ()), (["a", "b"], ("a", "b")), ("", ())],
)
def test_problems_may_be_one_text_or_none(listed: object, problems: tuple[str, ...]) -> None:
    class OneText(EditMethod):
        @classmethod
        def problems(cls, options: object) -> object:
            return listed

    assert problems_of(OneText, None, "method 'x'") == problems


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(0), r"it calls sys\.exit\(0\), which would end the whole program"),
        (ValueError("bad"), r"method 'x': problems\(\): ValueError: bad\. Fix the plug-in"),
        (OptionError("said well"), "^said well$"),
    ],
)
def test_what_a_plugin_raises_is_one_error_that_names_it(error: BaseException, message: str) -> None:
    class Raises(EditMethod):
        @classmethod
        def problems(cls, options: object) -> list[str]:
            raise error

    with pytest.raises((PluginError, OptionError), match=message):
        problems_of(Raises, None, "method 'x'")


# Options


def test_defaults_and_plain_values_become_typed_ones() -> None:
    options = parse_options(Thing, {"scale": 3, "sides": [32, 64], "folder": "x/y"})
    assert options == Thing.Options(scale=3.0, sides=(32, 64), folder=Path("x/y"))
    assert type(options) is Thing.Options
    assert isinstance(options.scale, float)
    assert options_dict(options) == {
        "steps": 50,
        "scale": 3.0,
        "kind": "a",
        "sides": [32, 64],
        "folder": "x/y",
        "fast": False,
    }


def test_parsing_what_options_dict_gives_is_the_identity() -> None:
    options = parse_options(Thing, {"sides": [1, 2], "kind": "b", "folder": Path("z")})
    assert parse_options(Thing, options_dict(options)) == options


def test_misspelt_option_suggests() -> None:
    with pytest.raises(
        OptionError,
        match=r"methods\[1\]: unknown option 'stepz'\. Did you mean 'steps'\? It has: steps, scale",
    ):
        parse_options(Thing, {"stepz": 3}, "methods[1]")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "20"}, "'steps': .*integer, got '20'"),
        ({"steps": True}, "'steps': .*integer, got True"),
        ({"steps": 2.5}, "'steps'"),
        ({"scale": "7"}, "'scale': .*number, got '7'"),
        ({"fast": 1}, "'fast': .*boolean, got 1"),
        ({"kind": "c"}, "'kind': .*'a' or 'b', got 'c'"),
        ({"sides": [1, "x"]}, r"'sides\.1'"),
        ({"scale": float("nan")}, "not plain data"),
        ({"folder": object()}, "not plain data"),
        ({"steps": 0}, r"Thing: steps must be at least 1\."),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_options(Thing, values)


def test_a_class_without_options_takes_none() -> None:
    parse_options(Bare, {})
    with pytest.raises(OptionError, match="It has: no options"):
        parse_options(Bare, {"x": 1})


def test_presets() -> None:
    assert expand_preset(Thing, None) == {}
    assert expand_preset(Thing, "mini") == {"steps": 20}
    with pytest.raises(UnknownName, match=r"unknown preset 'mni'\. Did you mean 'mini'\? Known: mini"):
        expand_preset(Thing, "mni")
    with pytest.raises(UnknownName, match="Known: none"):
        expand_preset(Bare, "mini")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, bench.edit, bench.images, bench.registry, bench.suite, bench.casefile, bench.store, "
        "bench.executors, bench.runner\n"
        "heavy = {'torch', 'pandas', 'scipy', 'diffusers', 'transformers', 'matplotlib', 'ray', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
