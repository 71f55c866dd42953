"""The arrows of the house, and what is never in a file: held by reading the files, not by running them."""

from __future__ import annotations

import ast
import builtins
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("bench", "methods", "protocols", "reports", "run_bench", "tests")
ALLOWED = {
    "bench": {"bench"},
    "methods": {"methods", "bench"},
    "protocols": {"protocols", "bench"},
    "reports": {"reports", "bench"},
}
"""Everybody may import ``bench``. ``bench`` imports none of the others. The others never import each other."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file. Several tests look at every file of the project."""
    return tuple(ast.walk(tree_of(path)))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of this project in a file, inside functions and types too."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it leads"
            module = node.module or ""
            # `from bench import images` imports bench.images; `from bench.edit import EditCase` bench.edit.
            names = [f"{module}.{alias.name}" for alias in node.names] if module in PARTS else [module]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] in PARTS)


def allowed(name: str, part: str) -> bool:
    return any(name == good or name.startswith(good + ".") for good in ALLOWED[part])


def files(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_every_import_follows_the_arrows(part: str) -> None:
    assert files(part), f"no file in {part}: the test looks in the wrong place"
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(part)
        for line, name in imports(path)
        if not allowed(name, part)
    ]
    assert not wrong, f"{part} may import {sorted(ALLOWED[part])} alone"


def test_the_arrow_test_sees_a_wrong_import(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "from reports import build\nfrom bench.edit import EditCase\n\ndef f():\n    import methods.weights\n"
    )
    forbidden = [name for _, name in imports(path) if not allowed(name, "protocols")]
    assert forbidden == ["reports.build", "methods.weights"]


@cache
def run_time_graph() -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports when it runs, inside functions too."""
    paths = [ROOT / "run_bench.py", *(path for part in ALLOWED for path in files(part))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        # Imports for type checkers alone do not run.
        typing_only = {
            id(child)
            for node in nodes_of(path)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        graph[name] = set()
        for node in nodes_of(path):
            if id(node) in typing_only:
                continue
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & modules.keys()
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            # `from bench import images` imports bench.images, `from bench.edit import EditCase` bench.edit.
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
            graph[name] |= submodules or ({node.module} & modules.keys())
    return graph


@pytest.mark.parametrize(
    "part",
    [
        "bench",
        "methods",
        "protocols",
        "reports",
    ],
)
def test_no_modules_import_each_other_in_a_circle(part: str) -> None:
    """Parts import each other in one direction, so a circle lies within one part."""
    graph = run_time_graph()
    assert graph["run_bench"] >= {"bench.session", "methods", "protocols"}, "the graph lacks imports"
    inside = {
        name: {target for target in targets if target.split(".")[0] == part}
        for name, targets in graph.items()
        if name.split(".")[0] == part
    }
    try:
        graphlib.TopologicalSorter(inside).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_interface_and_the_base_of_errors_have_no_dependency_at_all() -> None:
    for name in ("edit.py", "errors.py"):
        assert not list(imports(ROOT / "bench" / name))


def test_every_error_of_the_project_derives_from_the_one_base() -> None:
    """Else the command line shows its traceback."""
    paths = [ROOT / "run_bench.py", *(path for part in ALLOWED for path in files(part))]
    classes = [
        (f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}", {ast.unparse(base) for base in node.bases})
        for path in paths
        for node in nodes_of(path)
        if isinstance(node, ast.ClassDef)
    ]
    assert sum("BenchError" in bases for _, bases in classes) >= 25
    builtin = {name for name in dir(builtins) if name.endswith(("Error", "Exception"))}
    apart = [name for name, bases in classes if bases & builtin]
    assert [name.rpartition(" ")[2] for name in apart] == ["BenchError"], apart


SHARED_NAMES = {"Options"}
"""``Options`` is what each configurable class calls its own options."""


def test_no_two_classes_have_one_name() -> None:
    """Else a reader who searches for a class finds another one."""
    places: dict[str, list[str]] = {}
    for path in (ROOT / "run_bench.py", *(path for part in ALLOWED for path in files(part))):
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places["Options"]) > 10, "the test looks in the wrong place"
    twice = {name: lines for name, lines in places.items() if len(lines) > 1 and name not in SHARED_NAMES}
    assert not twice


RUN = 6
"""Lines of code that two files of ``methods/`` must not share in one run."""


def own_code(path: Path) -> list[tuple[int, str]]:
    """(line number, text without indentation) of the lines of code that a file could share with another.

    Left out: comments, docstrings, imports, signatures with their decorators, the tables of presets, which are data,
    and lines of brackets alone.
    """
    left_out: set[int] = set()
    for node in nodes_of(path):
        end = 0
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            end = node.end_lineno or 0
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            end = node.body[0].lineno - 1
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PRESETS":
            end = node.end_lineno or 0
        else:
            continue
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        left_out.update(range(start, end + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    stripped = [(number, line.strip()) for number, line in lines if number not in left_out]
    return [
        (number, line) for number, line in stripped if re.search(r"\w", line) and not line.startswith("#")
    ]


def shared_runs(paths: list[Path]) -> list[str]:
    """Places where two files share ``RUN`` consecutive lines of their own code."""
    places: dict[tuple[str, ...], dict[Path, int]] = {}
    for path in paths:
        code = own_code(path)
        for i in range(len(code) - RUN + 1):
            run = tuple(line for _, line in code[i : i + RUN])
            places.setdefault(run, {}).setdefault(path, code[i][0])
    return [
        " and ".join(f"{path}:{line}" for path, line in lines.items())
        for lines in places.values()
        if len(lines) > 1
    ]


def test_no_two_methods_share_a_run_of_code() -> None:
    """A correction of one copy would miss the other."""
    assert not shared_runs(files("methods"))


def test_the_test_of_shared_runs_sees_a_copied_body(tmp_path: Path) -> None:
    body = "".join(f"    value = step_{i}(value)\n" for i in range(RUN))
    (tmp_path / "a.py").write_text(f"import os\n\ndef first(value):\n{body}    return value\n")
    (tmp_path / "b.py").write_text(
        f"import os\n\ndef second(value):\n    # Copied.\n{body}    return -value\n"
    )
    assert shared_runs([tmp_path / "a.py", tmp_path / "b.py"]) == [f"{tmp_path}/a.py:4 and {tmp_path}/b.py:5"]


def test_only_the_cluster_imports_ray() -> None:
    using = [
        path.relative_to(ROOT).as_posix()
        for part in ALLOWED
        for path in files(part)
        if re.search(r"^\s*(import ray\b|from ray\b)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert using == ["bench/workers/cluster.py"]


def test_every_name_in_the_list_of_slow_tests_is_that_of_a_test() -> None:
    """A file that moved would be fast by mistake."""
    tests = [path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in SLOW if not any(test.startswith(name) for test in tests)] == []


HEAVY = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip",
    "pandas",
    "scipy",
    "matplotlib",
    "pycocotools",
    "sqlalchemy",
    "alembic",
    "streamlit",
)


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has imported after ``code``."""
    probe = f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import run_bench, bench.edit, bench.registry, bench.suite, bench.metrics, methods, protocols",
        "import bench.tables.latex, reports.tables.standard, reports.write",
        "import run_bench as r; [r.main(['list', k]) for k in ('methods', 'metrics', 'protocols', 'suites')]",
        "import run_bench as r; assert r.main(['run', '--help']) == 0",
    ],
    ids=["modules", "reports", "list", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert loaded_after(code) == set()


def test_the_import_probe_sees_a_heavy_import() -> None:
    assert loaded_after("import pandas") >= {"pandas"}


# Spelt in pieces, so that this file does not hold what it looks for.
HOSTS = ("py" + "pi.org", "python" + "hosted", "npm" + "js", "deb" + "ian.org", "an" + "aconda.org")


def tracked() -> list[Path]:
    """Files that git has or would take; without git, all but the usual litter."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return [p for p in ROOT.rglob("*") if p.is_file() and not p.relative_to(ROOT).parts[0].startswith(".")]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    offences = []
    for path in tracked():
        data = path.read_bytes()
        offences += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host.encode() in data]
    assert not offences


def test_no_file_has_the_marks_of_an_unfinished_merge() -> None:
    mark = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)
    assert not [path for path in tracked() if mark.search(path.read_bytes())]


@pytest.mark.parametrize(("name", "least"), [("base", 50), ("dev", 50), ("ray", 5)])
def test_requirements_are_pins_with_hashes_and_nothing_else(name: str, least: int) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    entries = re.sub(r" \\\n\s*", " ", text).splitlines()
    entries = [entry for entry in entries if entry.strip() and not entry.startswith("#")]
    assert len(entries) > least
    form = r"[a-z0-9._-]+==[^ ;]+( ; [^#]*?)?( --hash=sha256:[0-9a-f]{64})+"
    assert [entry for entry in entries if not re.fullmatch(form, entry)] == []


def test_pinned_packages_cover_what_the_package_declares() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ;]", line)[0].lower().replace("_", "-") for line in requirements}

    def pinned(name: str) -> set[str]:
        lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        return names([line for line in lines if "==" in line])

    assert names(declared["dependencies"]) <= pinned("base")
    assert names(declared["optional-dependencies"]["dev"]) <= pinned("dev")
    assert names(declared["optional-dependencies"]["ray"]) <= pinned("ray")
    assert pinned("base") <= pinned("dev")
