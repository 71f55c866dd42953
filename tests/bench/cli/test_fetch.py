"""``fetch``, and what ``doctor``, ``--dry-run`` and a refused run say about files that can be downloaded."""

from __future__ import annotations

import hashlib
import io
import shlex
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from bench.cli import fetch, info
from bench.cli.options import key_values
from bench.downloads import HubFiles, MissingFiles, WebFile, describe
from bench.errors import BenchError
from bench.metrics.networks import lpips_weights, weights
from bench.registry import Registry
from bench.suite import configure_method, shipped_suites
from bench.transfer import RemoteFile
from methods import METHODS
from methods.diffusion.stable_diffusion import SdInpainting
from tests.bench.hub_server import HubServer, serving
from tests.command_line import run

PLUGIN = ("--plugin", "cli_plugin")
SQUEEZENET = b"squeeze" * 500
SUITE = """
name: fetched
protocols: [dots]
methods:
  - copy_input
  - {method: sd_inpainting, options: {weights: some/model, steps: 1}}
  - {method: sd_inpainting, options: {weights: some/closed, steps: 1}, label: closed}
metrics: [leak_psnr, pie_lpips]
"""


# An inpainting pipeline as it lies on the hub, with a pickle and a card beside what is read. The check of weights reads
# their configurations alone.
MODEL = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"sample_size": 32, "in_channels": 9}',
    "unet/diffusion_pytorch_model.safetensors": b"tensors" * 300,
    "unet/diffusion_pytorch_model.bin": b"pickle" * 300,
    "vae/config.json": b'{"block_out_channels": [8, 16]}',
    "vae/diffusion_pytorch_model.safetensors": b"tensors" * 200,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"tensors" * 400,
    "tokenizer/tokenizer.json": b"[]",
    "scheduler/scheduler_config.json": b"{ }",
    "README.md": b"card",
}


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub and a web server. All caches are empty folders in ``place``."""
    monkeypatch.setenv("HOME", str(place / "home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROMPTEDITBENCH_WEIGHTS", str(place / "weights"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    state = HubServer(
        repositories={"some/model": MODEL, "some/closed": MODEL},
        plain={"/squeeze.pth": SQUEEZENET},
        gated={"some/closed"},
    )
    with serving(state):
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        sha256 = hashlib.sha256(SQUEEZENET).hexdigest()
        file = weights.WeightFile("squeeze.pth", sha256, f"{state.url}/squeeze.pth", (), "BSD-3-Clause", 3500)
        monkeypatch.setattr(lpips_weights, "SQUEEZENET", file)
        (place / "fetched.yaml").write_text(SUITE)
        yield state


def problems() -> list[str]:
    return SdInpainting.problems(SdInpainting.Options(weights="some/model"))


def test_it_shows_asks_and_downloads_what_a_method_lacks(
    hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("fetch", "sd_inpainting", "-m", "weights=some/model")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run(*command) == 1
    shown = capsys.readouterr().out
    for text in ("some/model at", "licence: openrail; open to everybody", "unet/config.json", "to download:"):
        assert text in shown
    # One form of the tensors, and no file that nobody reads.
    assert "unet/diffusion_pytorch_model.safetensors" in shown
    assert "diffusion_pytorch_model.bin" not in shown
    assert "README" not in shown
    assert not (place / "hub").exists()
    assert isinstance(problems()[0], MissingFiles)

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(*command) == 0
    assert problems() == []
    assert "9 of 9 files downloaded and checked" in capsys.readouterr().out
    before = len(hub.requests)
    assert run(*command, "--yes") == 0
    assert "all files are here" in capsys.readouterr().out
    assert len(hub.requests) == before


def test_a_question_that_nobody_answers_names_the_option(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("fetch", "pie_lpips") == 2
    assert "Give the answer as an option" in capsys.readouterr().err


def test_a_metrics_file_comes_where_the_metric_looks(
    hub: HubServer, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", "pie_lpips", "--yes") == 0
    assert (place / "weights" / "squeeze.pth").read_bytes() == SQUEEZENET
    assert lpips_weights.problems("squeeze") == []
    assert "licence: BSD-3-Clause; open to everybody" in capsys.readouterr().out


def test_a_suites_one_command_is_named_wherever_it_is_refused(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    one = "python run_bench.py fetch fetched.yaml"
    assert run("run", "fetched.yaml", *PLUGIN) == 2
    refused = capsys.readouterr().err
    assert run("run", "fetched.yaml", *PLUGIN, "--dry-run") == 0
    planned = capsys.readouterr().out
    for text in (refused, planned):
        assert text.count(one) == 1
        assert "'some/model' at revision main are not on this machine (licence: see its page)" in text


def test_a_suite_gets_all_that_is_open_and_says_what_is_not(
    hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", "fetched.yaml", *PLUGIN, "--dry-run") == 0
    assert not (place / "hub").exists()
    capsys.readouterr()
    # What is gated stays out, with the remedy, and does not stop the rest.
    assert run("fetch", "fetched.yaml", *PLUGIN, "--yes") == 1
    out = capsys.readouterr().out
    assert "some/closed is gated: accept its licence" in out
    assert "HF_TOKEN" in out
    assert problems() == []
    assert (place / "weights" / "squeeze.pth").exists()
    monkeypatch.setenv("HF_TOKEN", "good")
    assert run("fetch", "fetched.yaml", *PLUGIN, "--yes") == 0
    assert "good" not in capsys.readouterr().out
    assert run("run", "fetched.yaml", *PLUGIN, "--dry-run") == 0
    assert "not ready" not in capsys.readouterr().out


def test_one_failed_file_does_not_stop_the_others(
    hub: HubServer, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.plain["/squeeze.pth"] = SQUEEZENET + b"?"
    command = ("fetch", "pie_lpips", "magicbrush_l1", "fetched.yaml", *PLUGIN, "--yes")
    assert run(*command) == 1
    out = capsys.readouterr().out
    assert "failed: squeeze.pth" in out
    assert "is not the published file" in out
    assert problems() == []
    assert not (place / "weights" / "squeeze.pth").exists()


def test_a_server_that_does_not_answer_stops_nothing_else(
    hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run("fetch", "fetched.yaml", *PLUGIN, "--yes") == 1
    out = capsys.readouterr().out
    assert "not downloaded: http://127.0.0.1:9/some/model: " in out
    assert (place / "weights" / "squeeze.pth").exists()


def test_a_file_that_two_methods_need_is_planned_once(hub: HubServer) -> None:
    part = HubFiles("some/model", "main", ("vae/*",))
    plan = fetch.make_fetch_plan([part, HubFiles("some/model", "main", ("vae/*", "unet/*")), part])
    assert [list(files) for _, _, files in plan.parts] == [
        ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"],
        ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
        [],
    ]


def test_data_sets_are_named_and_not_downloaded(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fetch", "gedit") == 0
    out = capsys.readouterr().out
    assert "not downloaded: data/GEdit-Bench: missing" in out
    assert "get it from the data set stepfun-ai/GEdit-Bench" in out
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sd_inpaintin",), "Did you mean 'sd_inpainting'"),
        (("absent.yaml",), "no such suite file"),
        (("pie_lpips", "--preset", "mini"), "is no method"),
        (("sd_inpainting", "lama", "-m", "steps=2"), "Give one name"),
        (("sd_inpainting", "-m", "step=2"), "step"),
        (("sd_inpainting", "-m", "weights=no model"), "weights 'no model': expected owner/name"),
    ],
)
def test_a_wrong_name_or_option_is_told(
    hub: HubServer, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code = run("fetch", *arguments)
    shown = capsys.readouterr()
    assert message in shown.err + shown.out
    assert code == (0 if "not downloaded" in shown.out else 2)
    assert not hub.requests


def test_a_disk_without_room_is_told_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(100, 90, 10))
    files = [RemoteFile("http://x/a", tmp_path / "below" / name, name, size=6) for name in "ab"]
    with pytest.raises(BenchError, match=r"are needed and .* are free"):
        fetch.check_room(files)
    # What came already needs no room.
    (tmp_path / "below").mkdir()
    files[0].partial.write_bytes(b"1234")
    fetch.check_room(files)


def test_doctor_has_one_line_for_files_that_several_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = MissingFiles(
        "weights 'a/b' are not on this machine", [HubFiles("a/b", "main", ("vae/*",), "MIT", 10**8)]
    )
    missing = MissingFiles(
        "weights 'a/b' are not on this machine", [HubFiles("a/b", "main", ("*",), "MIT", 10**9)]
    )
    checks = [
        {"name": name, "ok": False, "detail": "", "remedies": [missing.needed_by(name)]}
        for name in ("one", "two")
    ]
    # A third one needs another part of the same weights: its command gets other files.
    checks.append({"name": "three", "ok": False, "detail": "", "remedies": [part.needed_by("three")]})
    monkeypatch.setattr(info, "diagnose", lambda session: {"methods": checks})
    assert run("doctor") == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  no  one, two: weights 'a/b' are not on this machine (1.00 GB, licence: MIT). "
        "Get it with: python run_bench.py fetch one",
        "  no  three: weights 'a/b' are not on this machine (0.10 GB, licence: MIT). "
        "Get it with: python run_bench.py fetch three",
    ]


def test_the_command_of_a_method_names_its_preset_and_options() -> None:
    registry = Registry("method", METHODS)
    method = configure_method(
        "sd_inpainting", registry, options={"weights": "nobody/a-model", "steps": 3, "revision": "12"}
    )
    (problem,) = method.problems
    command = """fetch sd_inpainting -m weights=nobody/a-model -m steps=3 -m 'revision="12"'"""
    assert problem.endswith(command)
    # The words mean the same options: the revision stays a text.
    values = key_values(shlex.split(command)[3::2])
    assert values == {"weights": "nobody/a-model", "steps": 3, "revision": "12"}


def test_a_description_states_size_licence_and_access() -> None:
    file = WebFile("https://x/a", Path("a"), "MIT", 250_000)
    closed = HubFiles("a/b", "main", ("*",), "FLUX dev", 23_800_000_000, gated=True)
    assert describe([file]) == "0.2 MB, licence: MIT"
    assert describe([closed, file]) == "23.80 GB, licence: FLUX dev and MIT, gated"
    # An unknown part makes the sum unknown.
    assert describe([file, HubFiles("c/d", "main", ("*",))]) == "licence: MIT and see its page"


def test_no_name_means_two_things() -> None:
    """``fetch`` takes names of all three kinds."""
    import run_bench

    session = run_bench.PROGRAM.session()
    kinds = [set(shipped_suites()), set(session.methods.names()), set(session.metrics.names())]
    assert len(set.union(*kinds)) == sum(map(len, kinds))
