"""The adapter: the TorchScript's contract, digests, padding, polarity, batches, and what is missing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench.downloads import MissingFiles, WebFile
from bench.edit import EditRequest, Runtime
from bench.images import mask_array, to_array
from bench.registry import OptionError, parse_options
from methods.lama import checkpoint, network
from methods.lama.method import Lama
from tests.methods.conftest import box_mask, picture, request


class Stub(nn.Module):
    """LaMa's call in small: the hole in the mean of what is known, a little brighter than white."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        keep = 1 - mask
        mean = (image * keep).sum(dim=[2, 3], keepdim=True) / keep.sum(dim=[2, 3], keepdim=True)
        # Only what a network that halves three times can take.
        folded = image.view(image.size(0), 3, image.size(2) // 8, 8, image.size(3) // 8, 8)
        return mask * mean + keep * folded.view(image.size()) * 1.0001


class Bright(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return mask * 1.3 - (1 - image) * mask * image[:, :1].round()


class Wrong(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image[:, :, :-1] * mask[:, :, :-1]


Maker = Callable[[nn.Module], Lama]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    def made(module: nn.Module) -> Lama:
        path = tmp_path / f"{type(module).__name__}.pt"
        torch.jit.script(module).save(str(path))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Lama(Lama.Options(weights=str(path), sha256=digest), Runtime())

    return made


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lama")
    network.save(folder, network.Generator(network.GeneratorConfig(width=4, downs=3, blocks=1)))
    return str(folder)


def load(weights: str, **options: Any) -> Lama:
    return Lama(Lama.Options(weights=weights, **options), Runtime())


def inside(image: Image.Image, edit_request: EditRequest) -> Any:
    return to_array(image)[mask_array(edit_request.mask)].astype(int)


def outside(image: Image.Image, edit_request: EditRequest) -> Any:
    return to_array(image)[~mask_array(edit_request.mask)]


def test_naming_it_imports_no_torch() -> None:
    code = (
        "import sys, methods.lama.method as m; m.Lama.problems(m.Lama.Options()); m.Lama.identity(m.Lama.Options());"
        "print([n for n in ('torch', 'scipy', 'diffusers') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [(64, 64), (61, 50), (8, 8), (5, 70)])
def test_any_size_goes_in_and_comes_out(make: Maker, size: tuple[int, int]) -> None:
    """The stub takes multiples of 8 only; its fill is the mean of the padded picture's known part."""
    width, height = size
    edit_request = request(3, box_mask(1, 1, width // 2, height // 2, size), picture(3, size))
    [filled] = make(Stub()).edit([edit_request])
    assert (filled.size, filled.mode) == (size, "RGB")
    assert np.array_equal(outside(filled, edit_request), outside(edit_request.source, edit_request))
    down, right = (max(-side % 8, 16 - side) for side in (height, width))
    pixels = np.pad(to_array(edit_request.source) / 255, ((0, down), (0, right), (0, 0)), mode="symmetric")
    visible = np.pad(~mask_array(edit_request.mask), ((0, down), (0, right)), mode="symmetric")
    expected = np.round(255 * pixels[visible].mean(axis=0))
    assert np.abs(inside(filled, edit_request) - expected).max() <= 1


def test_one_marks_the_hole(make: Maker) -> None:
    """Two halves of different colours: where the mask is 255, the other half's colour appears."""
    source = Image.new("RGB", (32, 32), (200, 40, 40))
    source.paste((10, 20, 240), (0, 0, 16, 32))
    left = request(0, box_mask(0, 0, 16, 32, (32, 32)), source)
    right = request(0, box_mask(16, 0, 32, 32, (32, 32)), source)
    first, second = make(Stub()).edit([left, right])
    assert (to_array(first) == (200, 40, 40)).all()
    assert (to_array(second) == (10, 20, 240)).all()


def test_values_beyond_the_range_are_clipped(make: Maker) -> None:
    """1.3 must become 255 and not wrap around; what is below 0 must become 0."""
    white, black = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    batch = [request(0, box_mask(2, 2, 9, 9, (16, 16)), image) for image in (white, black)]
    for filled, one in zip(make(Bright()).edit(batch), batch, strict=True):
        assert (inside(filled, one) == 255).all()
        assert np.array_equal(outside(filled, one), outside(one.source, one))


def test_a_file_with_another_call_is_named(make: Maker) -> None:
    with pytest.raises(ValueError, match=r"Wrong\.pt: returned \(1, 3, 63, 64\).*LaMa returns"):
        make(Wrong()).edit([request()])


def test_a_traced_generator_is_the_generator(tmp_path: Path, mini: str) -> None:
    """The TorchScript way and the modules' way meet: the same weights, the same pixels, also at another size."""
    generator = network.load(Path(mini))
    path = tmp_path / "traced.pt"
    torch.jit.trace(generator, (torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))).save(str(path))
    traced = load(str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    plain = load(mini)
    batch = [request(seed, box_mask(4, 6 + seed, 40, 50)) for seed in range(3)]
    for a, b, one in zip(traced.edit(batch), plain.edit(batch), batch, strict=True):
        assert np.abs(inside(a, one) - inside(b, one)).max() <= 1
        assert inside(b, one).std() > 0
        with torch.no_grad():
            image = torch.from_numpy(to_array(one.source)).permute(2, 0, 1)[None].float() / 255
            mask = torch.from_numpy(mask_array(one.mask))[None, None].float()
            bare = (generator(image, mask)[0].permute(1, 2, 0) * 255).round().numpy()
        assert np.abs(to_array(b).astype(int) - bare).max() <= 1


def test_does_not_depend_on_the_batch_or_on_earlier_calls(make: Maker, mini: str) -> None:
    batch = [request(seed, box_mask(4, 3 * seed, 40, 20 + 9 * seed)) for seed in range(4)]
    for method in (make(Stub()), load(mini)):
        together = method.edit(batch)
        alone = [method.edit([one])[0] for one in batch]
        backwards = method.edit(batch[::-1])[::-1]
        for a, b, c, one in zip(together, alone, backwards, batch, strict=True):
            assert np.abs(inside(a, one) - inside(b, one)).max() <= 1
            assert np.abs(inside(a, one) - inside(c, one)).max() <= 1
            assert np.array_equal(outside(a, one), outside(one.source, one))
        assert together[0].tobytes() != together[1].tobytes()
        assert [image.tobytes() for image in method.edit(batch)] == [image.tobytes() for image in together]


def test_what_lies_in_the_hole_does_not_matter(mini: str) -> None:
    base = request(1)
    hidden = base.source.copy()
    hidden.paste((255, 0, 255), mask=base.mask)
    method = load(mini)
    covered = EditRequest(**{**vars(base), "source": hidden})
    assert method.edit([base])[0].tobytes() == method.edit([covered])[0].tobytes()


# --- weights -------------------------------------------------------------------------------------------


def test_a_missing_file_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    [problem] = Lama.problems(Lama.Options())
    path = tmp_path / "torch" / "hub" / "checkpoints" / "big-lama.pt"
    for part in (
        f"no file {path}",
        "big-lama.pt",
        "0.21 GB",
        "Apache-2.0",
        "run_bench.py fetch",
    ):
        assert part in problem
    assert isinstance(problem, MissingFiles)
    (file,) = problem.downloads
    assert isinstance(file, WebFile)
    assert file.url == "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt"
    assert (file.path, file.sha256) == (path, checkpoint.PUBLIC_SHA256)
    assert Lama.identity(Lama.Options()) == {"weights": "big-lama.pt"}
    with pytest.raises(ValueError, match=r"lama: .*0\.21 GB"):
        Lama(Lama.Options(), Runtime())
    [problem] = Lama.problems(Lama.Options(weights=str(tmp_path / "mine.pt")))
    assert f"no file {tmp_path / 'mine.pt'}" in problem


def test_the_bare_name_is_right_here_or_where_torchs_hub_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    assert Path(torch.hub.get_dir()) / "checkpoints" / "big-lama.pt" == checkpoint.locate("big-lama.pt")
    (tmp_path / "big-lama.pt").write_bytes(b"x")
    assert checkpoint.locate("big-lama.pt") == Path("big-lama.pt")


def test_a_file_of_another_digest_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big-lama.pt"
    torch.jit.script(Stub()).save(str(path))
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the file was opened"))
    for digest, response in ((None, checkpoint.PUBLIC_SHA256), ("0" * 64, "0" * 64)):
        options = Lama.Options(weights=str(path), sha256=digest)
        [problem] = Lama.problems(options)
        assert str(path) in problem
        assert f"SHA-256 {actual}, not {response}" in problem
        assert "Delete" in problem
        # The file of the user is never replaced.
        assert not isinstance(problem, MissingFiles)
        with pytest.raises(ValueError, match="holds code"):
            Lama(options, Runtime())
    [problem] = Lama.problems(Lama.Options(weights=str(path), sha256="abc"))
    assert "64 hexadecimal digits" in problem


def test_the_digest_is_read_anew_before_the_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed file of the same size and time, as a remembered digest would not see it."""
    import os

    path = tmp_path / "stub.pt"
    torch.jit.script(Stub()).save(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = Lama.Options(weights=str(path), sha256=digest)
    assert Lama.problems(options) == []
    when = path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(when, when))
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the file was opened"))
    with pytest.raises(ValueError, match=f"not {digest}"):
        Lama(options, Runtime())


def test_a_file_that_is_no_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(b"not a model")
    digest = hashlib.sha256(b"not a model").hexdigest()
    with pytest.raises(ValueError, match=r"other\.pt: not a TorchScript file"):
        load(str(path), sha256=digest.upper())


def test_identity_is_the_content(tmp_path: Path, mini: str, make: Maker) -> None:
    import shutil

    shutil.copytree(mini, tmp_path / "copy")
    here, copy_identity = (Lama.identity(Lama.Options(weights=str(w))) for w in (mini, tmp_path / "copy"))
    assert here == copy_identity
    assert len(here["sha256"]) == 64
    network.save(tmp_path / "copy", network.Generator(network.GeneratorConfig(width=6, downs=3, blocks=1)))
    assert Lama.identity(Lama.Options(weights=str(tmp_path / "copy"))) != here
    method = make(Stub())
    path = method.files.path
    assert Lama.identity(Lama.Options(weights=str(path), sha256=method.files.sha256)) == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
    }


def test_folders_and_options_that_do_not_fit(tmp_path: Path, mini: str) -> None:
    [problem] = Lama.problems(Lama.Options(weights=str(tmp_path)))
    assert "lacks config.json and model.safetensors" in problem
    [problem] = Lama.problems(Lama.Options(weights=mini, sha256="0" * 64))
    assert "sha256 is for a TorchScript file" in problem
    [problem] = Lama.problems(Lama.Options(weights="zoo:no_such"))
    assert "no_such" in problem
    with pytest.raises(OptionError, match="weigths"):
        parse_options(Lama, {"weigths": "x"})
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        Lama(Lama.Options(weights=mini), Runtime(dtype="int8"))
    assert parse_options(Lama, Lama.PRESETS["mini"]).weights == "zoo:lama"


def test_a_run_in_half_precision_fills_in_full(mini: str) -> None:
    """The network computes in float32 whatever the run's dtype, so the pixels are the same."""
    batch = [request(1)]
    half = Lama(Lama.Options(weights=mini), Runtime(dtype="bfloat16"))
    assert half.edit(batch)[0].tobytes() == load(mini).edit(batch)[0].tobytes()
