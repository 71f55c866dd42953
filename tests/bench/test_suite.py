from __future__ import annotations

import hashlib
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import bench.suite
from bench.edit import EditMethod, MethodSpec
from bench.metrics.choice import metric_registry
from bench.registry import OptionError, Registry, UnknownName
from bench.suite import Suite, configure_suite, load_suite, parse_suite, shipped_suites
from bench.suite_yaml import SuiteError, read_yaml
from tests.bench.fakes import METHOD_REGISTRY, PROTOCOL_REGISTRY, Fake, method, protocol

# The line numbers of the messages below count its lines, the empty first one included.
GOOD = """
name: small
seed: 7
limit: 2
protocols:
  - name: fakes
    options: {count: 4}
methods:
  - oracle
  - method: fake
    preset: weak
    options: {native: 16}
    label: Weak
metrics: [leak_lpips]
"""


def bad(text: str) -> str:
    with pytest.raises(SuiteError) as caught:
        parse_suite(textwrap.dedent(text), "s.yaml")
    return str(caught.value)


def test_a_suite_is_read() -> None:
    suite = parse_suite(GOOD)
    assert (suite.name, suite.seed, suite.limit, suite.metrics) == ("small", 7, 2, ["leak_lpips"])
    assert suite.protocols[0].options == {"count": 4}
    assert [entry.method for entry in suite.methods] == ["oracle", "fake"]
    assert suite.methods[1].preset == "weak"


def test_defaults() -> None:
    suite = parse_suite("{name: a, protocols: [fakes], methods: [oracle]}")
    assert (suite.seed, suite.limit, suite.metrics) == (0, None, None)


def test_seeds_stand_in_place_of_a_seed_and_are_stored_only_where_there_are_some() -> None:
    several = parse_suite(GOOD.replace("seed: 7", "seeds: [4, 0]"))
    assert (several.seed, several.all_seeds) == (4, (4, 0))
    stored = several.model_dump(mode="json")
    assert (stored["seed"], stored["seeds"]) == (4, [4, 0])
    assert Suite.model_validate(stored) == several
    one = parse_suite(GOOD)
    assert one.all_seeds == (7,)
    assert "seeds" not in one.model_dump(mode="json")
    assert all("best_of" not in entry for entry in one.model_dump(mode="json")["methods"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 7", "seed: 7\nseeds: [0, 1]", "seed and seeds are both given"),
        ("seed: 7", "seeds: [1, 1]", "a seed is given twice"),
        ("seed: 7", "seeds: []", "at least 1 item"),
        ("label: Weak", "label: Weak\n    best_of: 2 by leak_lpips", "at most all of the 1 seeds"),
        ("label: Weak", "label: Weak\n    best_of: two by leak_lpips", "should match pattern"),
    ],
)
def test_seeds_and_choices_that_cannot_be_are_named(old: str, new: str, message: str) -> None:
    assert message in bad(GOOD.replace(old, new))


def test_a_problem_of_the_whole_suite_names_no_key_and_does_not_print_the_file() -> None:
    assert bad(GOOD.replace("label: Weak", "label: Weak\n    best_of: 2 by leak_lpips")) == (
        "s.yaml: best_of: 2 by leak_lpips: choose among at least 2 and at most all of the 1 seeds."
    )


def test_a_choice_needs_a_metric_of_single_edits_with_a_direction() -> None:
    def configure(metric: str) -> None:
        text = GOOD.replace("seed: 7", "seeds: [0, 1]").replace("label: Weak", f"best_of: 2 by {metric}")
        configure_suite(parse_suite(text), METHOD_REGISTRY, PROTOCOL_REGISTRY, metric_registry())

    configure("leak_lpips")
    with pytest.raises(SuiteError, match="fid has no best value of a single edit"):
        configure("fid")
    with pytest.raises(UnknownName, match="leak_lpip"):
        configure("leak_lpip")


def test_unknown_keys_name_file_line_path_and_suggest() -> None:
    message = bad(GOOD.replace("preset: weak", "presett: weak"))
    assert message == (
        "s.yaml:11: methods[1].presett: unknown key. Did you mean 'preset'? "
        "Known: method, preset, options, label, display, cite, group, best_of."
    )
    message = bad(GOOD.replace("limit:", "limits:"))
    assert message.startswith("s.yaml:4: limits: unknown key. Did you mean 'limit'?")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 7", "seed: '7'", r"s\.yaml:3: seed: .*integer, got '7'"),
        ("seed: 7", "seed: yes", r"s\.yaml:3: seed: .*integer, got True"),
        ("limit: 2", "limit: 0", r"s\.yaml:4: limit: .*greater than or equal to 1, got 0"),
        ("name: fakes", "options: {}", r"s\.yaml:7: protocols\[0\]\.options: given twice"),
        (
            "  - name: fakes\n    options: {count: 4}",
            "  - options: {}",
            r"s\.yaml:6: protocols\[0\]\.name: missing",
        ),
        ("preset: weak", "preset: 3", r"s\.yaml:11: methods\[1\]\.preset: .*string, got 3"),
        ("name: small", "name: ../small", r"s\.yaml:2: name: .*cannot become a file name"),
        ("name: small\n", "", r"s\.yaml: name: missing"),
        ("seed: 7", "seed: [", r"s\.yaml:\d+: not valid YAML"),
        ("seed: 7", "seed: 7\nseed: 8", r"s\.yaml:4: seed: given twice"),
        ("seed: 7", "seed: !!python/object:os.system 1", "not valid YAML"),
        ("label: Weak", r'label: "a\e[2Jb"', r"s\.yaml:13: methods\[1\]\.label: one line of printable"),
        ("label: Weak", r'label: "a\n# b"', r"s\.yaml:13: methods\[1\]\.label: one line of printable"),
        (
            "seed: 7",
            f"seed: {2**63}",
            r"s\.yaml:3: seed: .*less than 9223372036854775808, got 9223372036854775808",
        ),
        (
            "seed: 7",
            f"seed: {-(2**63) - 1}",
            r"s\.yaml:3: seed: .*greater than or equal to -9223372036854775808",
        ),
        (
            "seed: 7",
            "seed: " + "1" * 5000,
            r"s\.yaml: a value cannot be read: Exceeds the limit \(4300 digits\)",
        ),
        ("seed: 7", "seed: 2026-13-01", r"s\.yaml: a value cannot be read: month must be in 1\.\.12"),
        ("[leak_lpips]", "[]", r"s\.yaml:14: metrics: .*at least 1 item"),
        ("seed: 7", "? [seed]\n: 7", r"s\.yaml:3: a list or a mapping as a key\. Give a name"),
        (
            "{native: 16}",
            "{? {a: 1} : 2}",
            r"s\.yaml:12: methods\[1\]\.options: a list or a mapping as a key",
        ),
        ("seed: 7", "7: 8", r"s\.yaml: \[7\]: Keys should be strings, got 7"),
        ("{native: 16}", "[" * 60 + "]" * 60, r"s\.yaml:12: nested more than 50 levels deep"),
        ("{native: 16}", "[" * 5000 + "]" * 5000, r"s\.yaml: nested more than 50 levels deep"),
        ("{native: 16}", "&a {native: *a}", r"s\.yaml:12: nested more .* or a part that holds itself"),
    ],
)
def test_each_fault_names_its_line(old: str, new: str, message: str) -> None:
    assert old in GOOD

    assert re.search(message, bad(GOOD.replace(old, new)))


def test_aliases_that_multiply_are_refused() -> None:
    """Nine lists of nine, nine levels deep: 394 bytes that stand for 387 million values."""
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "more than 100,000 values once its aliases are expanded" in bad("\n".join(bomb))


def test_aliases_are_read() -> None:
    suite = parse_suite(
        "{name: a, protocols: [fakes], methods: [{method: fake, options: &o {native: 16}}, {method: b, options: *o}]}"
    )
    assert suite.methods[1].options == {"native": 16}


def test_all_faults_are_told_at_once() -> None:
    assert len(bad(GOOD.replace("seed: 7", "seed: x").replace("limit:", "limits:")).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "just text", "[1, 2]"])
def test_what_is_no_mapping_is_no_suite(text: str) -> None:
    assert "not a suite" in bad(text)


def test_shipped_suites_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.suite, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "small.yaml").write_text(GOOD)
    # A shipped suite by its name, and a file by its path.
    (tmp_path / "mine.yaml").write_text(GOOD.replace("seed: 7", "seed: 8"))
    assert list(shipped_suites()) == ["small"]
    assert load_suite("small").seed == 7
    assert load_suite(tmp_path / "mine.yaml").seed == 8
    # Neither a name nor a file, and a file that is no UTF-8.
    with pytest.raises(SuiteError, match=r"unknown suite 'smal'\. Did you mean 'small'\?"):
        load_suite("smal")
    with pytest.raises(SuiteError, match=r"none\.yaml: no such suite file"):
        load_suite(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SuiteError, match=r"latin\.yaml: cannot be read"):
        load_suite(tmp_path / "latin.yaml")


def test_numbers_with_an_exponent_are_numbers() -> None:
    numbers = {"5e-1": 0.5, "5E-1": 0.5, "-1e2": -100.0, "1.5e3": 1500.0, ".5e1": 5.0, "5.0e-1": 0.5, "7": 7}
    for text, value in numbers.items():
        number = read_yaml(f"x: {text}")["x"]
        assert (number, type(number)) == (value, type(value)), text
    # What only looks like a number stays text.
    for text in ("e5", "1e", "1e5x", "0x1e5f", "'5e-1'", "1e5 m"):
        assert not isinstance(read_yaml(f"x: {text}")["x"], float), text
    suite = parse_suite(GOOD.replace("{native: 16}", "{strength: 5e-1}"))
    assert configure_suite(suite, METHOD_REGISTRY, PROTOCOL_REGISTRY)[1][1].options.strength == 0.5


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_suite(tmp_path / "mine.yaml") == parse_suite(GOOD)


def test_every_shipped_suite_is_valid() -> None:
    for name, path in shipped_suites().items():
        assert load_suite(path).name == name


# Configuring


def test_configured_methods_carry_full_options() -> None:
    protocols, methods = configure_suite(parse_suite(GOOD), METHOD_REGISTRY, PROTOCOL_REGISTRY)
    assert [entry.name for entry in protocols] == ["fakes"]
    assert protocols[0].options.count == 4
    weak = methods[1]
    assert weak.spec.name == "fake"
    assert weak.spec.title == "Weak"
    assert weak.options == Fake.Options(strength=0.5, native=16)
    assert weak.spec.options["delay"] == 0.0


def test_what_print_says_of_a_method_changes_no_digest() -> None:
    text = GOOD.replace(
        "label: Weak", "label: Weak\n    display: Ours\n    cite: 'a2026,b:1'\n    group: new"
    )
    plain, labelled = (
        configure_suite(parse_suite(suite), METHOD_REGISTRY, PROTOCOL_REGISTRY)[1] for suite in (GOOD, text)
    )
    spec = labelled[1].spec
    assert (spec.title, spec.display, spec.cite, spec.group) == ("Weak", "Ours", "a2026,b:1", "new")
    assert spec.digest == plain[1].spec.digest
    assert bad(GOOD.replace("label: Weak", "cite: 'x}{'")).startswith("s.yaml:13: methods[1].cite: ")


@pytest.mark.parametrize(
    ("needs", "group"),
    [
        ({"source", "mask", "target_prompt"}, "mask-based"),
        ({"source", "instruction"}, "mask-free"),
        # Edits that were made elsewhere: nobody knows with what.
        ({"source"}, ""),
    ],
)
def test_methods_are_grouped_by_whether_they_take_a_mask(needs: set[str], group: str) -> None:
    assert bench.suite._default_group(needs) == group


def test_golden_digest() -> None:
    """A change here makes every stored edit of every user a stranger: bump nothing without need."""
    spec = MethodSpec("sd_inpainting", {"steps": 50, "scale": 7.5, "_identity": {"a": None}}, "SD")
    text = '{"name":"sd_inpainting","options":{"_identity":{"a":null},"scale":7.5,"steps":50}}'
    assert spec.digest == hashlib.sha256(text.encode()).hexdigest()[:12] == "929a9a3728a7"
    # Three spellings of one method, and another method.
    assert method(native=16, strength=0.5).spec.digest == GOLDEN
    assert method(native=16, preset="weak").spec.digest == GOLDEN, "presets are short for options"
    assert method(native=16, strength=0.5, delay=0.0).spec.digest == GOLDEN, "defaults are spelt out"
    assert method(native=16, strength=0.5, label="x").spec.digest == GOLDEN, "labels are for tables"
    assert method(native=16, strength=0.25).spec.digest != GOLDEN


GOLDEN = "df2e4263f7c4"


class Weighted(EditMethod):
    """Has weights that may be missing."""

    needs = frozenset({"source"})
    weights = "abc"
    missing: tuple[str, ...] = ()
    Options = Fake.Options

    @classmethod
    def problems(cls, options: Any) -> list[str]:
        return list(cls.missing)

    @classmethod
    def identity(cls, options: Any) -> dict[str, str]:
        assert not cls.missing, "asked for the identity of weights that are missing"
        return {"sha256": cls.weights}


def test_identity_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("method", {"weighted": f"{__name__}:Weighted"}, "")
    monkeypatch.setattr(registry, "load", lambda name: Weighted)
    first = bench.suite.configure_method("weighted", registry)
    assert first.spec.options["_identity"] == {"sha256": "abc"}
    # Other weights are another method.
    monkeypatch.setattr(Weighted, "weights", "def")
    assert bench.suite.configure_method("weighted", registry).spec.digest != first.spec.digest
    # Missing weights have no identity, and none is asked for.
    monkeypatch.setattr(Weighted, "missing", ("weights are missing: run `x`",))
    assert bench.suite.configure_method("weighted", registry).problems == ("weights are missing: run `x`",)
    # A suite cannot set it.
    with pytest.raises(OptionError, match="unknown option '_identity'"):
        bench.suite.configure_method("weighted", registry, options={"_identity": {}})


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("- oracle", "- oracl", UnknownName, "unknown method 'oracl'.*'oracle'"),
        ("name: fakes", "name: fake", UnknownName, "unknown protocol 'fake'.*'fakes'"),
        (
            "{native: 16}",
            "{nativ: 16}",
            OptionError,
            r"suite small: methods\[1\]: method 'fake': unknown option 'nativ'\. Did you mean 'native'",
        ),
        (
            "{count: 4}",
            "{count: x}",
            OptionError,
            r"suite small: protocols\[0\]: protocol 'fakes': option 'count'",
        ),
        ("preset: weak", "preset: week", UnknownName, r"suite small: methods\[1\]: .*preset 'week'.*'weak'"),
        ("- oracle", "- {method: fake, preset: weak, options: {native: 16}}", SuiteError, "same options"),
        (
            "- oracle",
            "- {method: oracle, label: Weak}",
            SuiteError,
            r"methods\[0\] and methods\[1\] are both 'Weak'",
        ),
        (
            "- name: fakes",
            "- fakes\n  - name: fakes",
            SuiteError,
            r"protocols\[0\] and protocols\[1\] are both",
        ),
    ],
)
def test_what_a_suite_names_is_checked(old: str, new: str, error: type[ValueError], message: str) -> None:
    assert old in GOOD
    with pytest.raises(error, match=message):
        configure_suite(parse_suite(GOOD.replace(old, new)), METHOD_REGISTRY, PROTOCOL_REGISTRY)


def test_metrics_are_checked_where_a_registry_is_given() -> None:
    metrics = Registry("metric", {"leak_psnr": "a:B"}, "")
    with pytest.raises(UnknownName, match="unknown metric 'leak_lpips'"):
        configure_suite(parse_suite(GOOD), METHOD_REGISTRY, PROTOCOL_REGISTRY, metrics)


def test_create_makes_instances() -> None:
    from bench.edit import Runtime

    assert isinstance(method(native=16).create(Runtime()), Fake)
    assert method(native=16).needs == Fake.needs
    assert method("oracle").wants_truth
    assert not method().wants_truth
    assert protocol(count=3).create().cases()[2].id == "case-002"
