from __future__ import annotations

import io
import shutil
import struct
import threading
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.files import sha256_bytes
from bench.images import ImageError, from_array, png_bytes, read_mask, read_rgb, to_array
from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.images import (
    BUCKET,
    ImageChanged,
    ImageServer,
    PngShelf,
    fill_png,
    outline,
    trial_images,
)
from bench.study.interface import VoteRefused
from bench.study.store import StudyStore
from bench.study.types import GROUND_TRUTH, NOISE, QUESTIONS, SOURCE, StudyCase, Trial
from bench.study.words import words_of
from tests.bench.fakes import noise, square


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


@pytest.fixture
def taste(store: StudyStore, copy: Path) -> StudyStore:
    options = DesignOptions(raters=3, trials=12, repeats=2, attention=2, practice=1)
    store.create("taste", build([copy], options))
    return store


def decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.info == {}  # no metadata
        return np.array(image)


def pictures(design: Design, case: StudyCase, trial: Trial) -> list[Image.Image]:
    return [load() for _, load in trial_images(design, case, trial)]


def chunks(png: bytes) -> list[tuple[bytes, int]]:
    parts, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            kind + data
        )
        parts.append((kind, length))
        place += 12 + length
    return parts


def fetch(server: ImageServer, rater: str, trial: str) -> dict[str, bytes]:
    """The PNGs of a trial by address, as a browser gets them: source, outlined source, candidates."""
    return {address: server.find(*address.split("/")) for address in server.prepare(rater, trial).addresses}


def every_trial(store: StudyStore, rater: str):
    """Each trial of a rater, its content, and its PNGs by address."""
    server = ImageServer(store)
    while (trial := store.next_trial(rater)) is not None:
        yield trial, store.unblinded(rater, trial.id).trial, fetch(server, rater, trial.id)
        store.vote(rater, trial.id, 0, 500)


def test_the_images_are_the_pixels_of_the_files_in_the_order_of_the_trial(taste: StudyStore) -> None:
    design = taste.study("taste").design
    for open_trial, trial, pngs in every_trial(taste, taste.register("taste").rater):
        case = design.case_by_key[trial.case]
        source = to_array(read_rgb(design.path(case.source)))
        # The source comes first, then the source with the outline, then the candidates.
        first, outlined, *candidates = pngs.values()
        np.testing.assert_array_equal(decoded(first), source)
        assert len(candidates) == open_trial.candidates == len(trial.candidates)
        for title, png in zip(trial.candidates, candidates, strict=True):
            if not title.startswith(NOISE):
                expected = to_array(read_rgb(design.path(design.image_of(case, title))))
                np.testing.assert_array_equal(decoded(png), expected)
        # Inside the mask, the outline changes nothing.
        inside = np.array(read_mask(design.path(case.mask))) == 255
        np.testing.assert_array_equal(decoded(outlined)[inside], source[inside])


def test_nothing_but_the_pixels_tells_images_apart(taste: StudyStore) -> None:
    design = taste.study("taste").design
    stored = {ref.sha256 for _, ref in design.images()}
    # Words that would tell which method made an image.
    words = [title.encode() for title in design.methods if len(title) > 1]
    words += [digest.encode() for digest in design.method_digests.values()]
    words += [b"fake-", b".png", b"oracle", b"control"]
    addresses: list[str] = []
    pngs: list[bytes] = []
    for _ in range(3):
        for _, _, by_address in every_trial(taste, taste.register("taste").rater):
            addresses += by_address
            pngs += by_address.values()
    # Images of one size in pixels have one size in bytes and one structure, over all trials.
    assert {len(png) for png in pngs} == {BUCKET}
    assert {tuple(kind for kind, _ in chunks(png)) for png in pngs} == {(b"IHDR", b"IDAT", b"nsEd", b"IEND")}
    assert not any(word in png for word in words for png in pngs)
    # No address and no hash comes twice, though repeats, attention checks and sources show images again.
    assert len(set(addresses)) == len(addresses)
    hashes = {sha256_bytes(png) for png in pngs}
    assert len(hashes) == len(pngs)
    assert not stored & hashes


def test_the_same_trial_is_the_same_bytes(taste: StudyStore) -> None:
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    server = ImageServer(taste)
    pngs = fetch(server, rater, trial.id)
    assert fetch(ImageServer(taste, keep=1), rater, trial.id) == pngs
    with pytest.raises(VoteRefused, match="there is no"):
        server.find(next(iter(pngs)).partition("/")[0], "x")


def test_only_ones_own_trials_have_images(taste: StudyStore) -> None:
    rater, other = taste.register("taste").rater, taste.register("taste").rater
    trial = taste.next_trial(rater)
    with pytest.raises(VoteRefused):
        ImageServer(taste).prepare(other, trial.id)


@pytest.mark.parametrize("target", ["edit", "source", "mask", "missing", "truth"])
def test_a_changed_file_is_refused_and_not_shown(taste: StudyStore, target: str) -> None:
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    while taste.unblinded(rater, trial.id).trial.role != ("attention" if target == "truth" else "trial"):
        taste.vote(rater, trial.id, 0, 500)
        trial = taste.next_trial(rater)
    content = taste.unblinded(rater, trial.id)
    design = content.study.design
    case = design.case_by_key[content.trial.case]
    title = GROUND_TRUTH if target == "truth" else content.trial.candidates[0]
    path = design.path({"source": case.source, "mask": case.mask}.get(target) or design.image_of(case, title))
    server = ImageServer(taste)
    address = server.prepare(rater, trial.id).addresses[0]
    if target == "missing":
        path.unlink()
    else:
        # Change one pixel of a valid image.
        pixels = np.array(Image.open(path))
        pixels.flat[0] ^= 255
        path.write_bytes(png_bytes(Image.fromarray(pixels)))
    # Before the trial is shown, and after it was prepared.
    for work in (lambda: server.prepare(rater, trial.id), lambda: server.find(*address.split("/"))):
        with pytest.raises(ImageChanged) as caught:
            work()
        assert str(path) in str(caught.value)
        # The text for raters names neither the file nor the method.
        said = words_of("en", {}).error(caught.value)
        assert said.startswith("Something went wrong")
        assert path.name not in said + caught.value.public
        assert "fake" not in said + caught.value.public


def test_an_edit_of_another_size_is_brought_to_the_sources(copy: Path) -> None:
    design = build([copy], DesignOptions(raters=1, trials=6, repeats=0, attention=0, practice=0))
    trial = design.trials[0]
    case = design.case_by_key[trial.case]
    ref = case.edits[trial.candidates[1]]
    # An edit of 48 px for a source of 32 px, with its new hash in the design.
    png = png_bytes(noise("large", 48))
    design.path(ref).write_bytes(png)
    case = replace(case, edits={**case.edits, trial.candidates[1]: replace(ref, sha256=sha256_bytes(png))})
    images = pictures(design, case, trial)
    assert [image.size for image in images] == [(32, 32)] * 4
    expected = noise("large", 48).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(to_array(images[3]), to_array(expected))


def test_noise_is_deterministic_and_unlike_any_edit(design: Design) -> None:
    # The same place of the same trial has the same noise.
    trial = next(t for t in design.trials if t.role == "attention")
    case = design.case_by_key[trial.case]
    place = 2 + trial.candidates.index(NOISE)
    first, second = (to_array(pictures(design, case, trial)[place]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # Another case has other noise.
    other = next(t for t in design.trials if t.role == "attention" and t.case != trial.case)
    image = pictures(design, design.case_by_key[other.case], other)[2 + other.candidates.index(NOISE)]
    assert (to_array(image) != first).mean() > 0.9


def test_the_outline_lies_around_the_mask_and_nowhere_else() -> None:
    source, mask = noise("x", 64), square(64, (20, 20, 40, 36))
    before, after = to_array(source), to_array(outline(source, mask))
    changed = (before != after).any(axis=2)
    assert not changed[20:36, 20:40].any()
    # Two pixels around the mask, and nowhere else.
    ring = np.zeros((64, 64), dtype=bool)
    ring[18:38, 18:42] = True
    assert not changed[~ring].any()
    # Each side of the rectangle has both colours.
    for y, x in ((19, 30), (36, 30), (28, 19), (28, 40)):
        assert tuple(after[y, x]) == (230, 0, 90)
    for y, x in ((18, 30), (37, 30), (28, 18), (28, 41)):
        assert tuple(after[y, x]) == (255, 255, 255)


def test_filling_keeps_the_pixels_and_adds_the_bytes() -> None:
    image = noise("x", 16)
    png = png_bytes(image)
    filled = fill_png(png, b"\x00" * 1000)
    assert len(filled) == len(png) + 1012
    assert chunks(filled)[-2:] == [(b"nsEd", 1000), (b"IEND", 0)]
    np.testing.assert_array_equal(decoded(filled), to_array(image))
    with pytest.raises(ImageError):
        fill_png(b"x" * 100, b"")


def test_images_larger_than_a_bucket_share_the_next_multiple(taste: StudyStore) -> None:
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    pngs = fetch(ImageServer(taste, bucket=1000), rater, trial.id).values()
    largest = max(len(png_bytes(from_array(decoded(png)))) for png in pngs) + 12
    assert {len(png) for png in pngs} == {-(-largest // 1000) * 1000}


def test_large_images_come_at_display_size_first_and_whole_on_demand(
    taste: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    assert trial is not None
    server = ImageServer(taste)
    small = server.prepare(rater, trial.id)
    assert small.full == ()
    whole = [decoded(server.find(*address.split("/"))) for address in small.addresses]
    monkeypatch.setattr("bench.study.images.DISPLAY", 16)
    server = ImageServer(taste)
    large = server.prepare(rater, trial.id)
    assert large.size == small.size == whole[0].shape[1::-1]
    assert len(large.full) == len(large.addresses) == 4
    assert not set(large.full) & set(large.addresses)
    shown, full = (
        [server.find(*address.split("/")) for address in addresses]
        for addresses in (large.addresses, large.full)
    )
    assert {max(decoded(png).shape[:2]) for png in shown} == {16}
    for png, pixels in zip(full, whole, strict=True):
        assert np.array_equal(decoded(png), pixels)
    # Neither kind tells one image from another by its length.
    assert len({len(png) for png in shown}) == len({len(png) for png in full}) == 1


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """The images that were encoded so far."""
    images: list[Image.Image] = []

    def counted(image: Image.Image) -> bytes:
        images.append(image)
        return png_bytes(image)

    monkeypatch.setattr("bench.study.images.png_bytes", counted)
    return images


def test_an_image_is_encoded_once_for_all_raters(taste: StudyStore, encoded: list[Image.Image]) -> None:
    server = ImageServer(taste)
    answers: dict[str, bytes] = {}
    for _ in range(3):
        rater = taste.register("taste").rater
        while (trial := taste.next_trial(rater)) is not None:
            answers |= fetch(server, rater, trial.id)
            taste.vote(rater, trial.id, 0, 500)
    design = taste.study("taste").design
    shown = {
        (trial.case, candidate)
        for trial in design.trials
        for candidate in (*trial.candidates, SOURCE, "outline")
    }
    # Several raters see most of the images, and no image is encoded twice.
    assert len(encoded) <= len(shown) < len(answers)


def test_raters_who_come_together_wait_for_one_encoding(
    taste: StudyStore, encoded: list[Image.Image]
) -> None:
    design = taste.study("taste").design
    server = ImageServer(taste)
    trial = design.trials[0]
    parts = trial_images(design, design.case_by_key[trial.case], trial)
    together = threading.Barrier(8)

    def ask() -> list[bytes]:
        together.wait(60)
        return [server._plain_png(name, load, full=False) for name, load in parts]

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len(encoded) == len(parts) == 4
    assert all(answer == answers[0] for answer in answers)


def names(design: Design, trials: Iterable[Trial]) -> set[object]:
    """What tells the different images of trials apart."""
    return {name for one in trials for name, _ in trial_images(design, design.case_by_key[one.case], one)}


def test_what_is_prepared_at_the_start_is_not_encoded_for_the_raters(
    taste: StudyStore, encoded: list[Image.Image]
) -> None:
    design = taste.study("taste").design
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    assert trial is not None
    ready, cold = ImageServer(taste), ImageServer(taste)
    ready.warm(design)
    assert len(encoded) == len(names(design, design.trials))
    assert fetch(ready, rater, trial.id) == fetch(cold, rater, trial.id)
    # Only the other server had something to encode: the four images of the trial.
    assert len(encoded) == len(names(design, design.trials)) + 4
    # It stops where the memory is full.
    encoded.clear()
    ImageServer(taste, shelf_bytes=30_000).warm(design)
    assert sum(len(png_bytes(image)) for image in encoded) < 60_000


def test_an_image_that_was_changed_is_not_prepared_and_the_others_are(
    taste: StudyStore, encoded: list[Image.Image]
) -> None:
    design = taste.study("taste").design
    changed = design.case_by_key[design.trials[0].case].source
    path = design.path(changed)
    path.write_bytes(path.read_bytes() + b"x")
    ImageServer(taste).warm(design)
    # Cases share a source.
    others = [one for one in design.trials if design.case_by_key[one.case].source != changed]
    assert len(encoded) == len(names(design, others)) > 0


def test_without_memory_for_images_the_bytes_are_the_same(taste: StudyStore) -> None:
    rater = taste.register("taste").rater
    trial = taste.next_trial(rater)
    assert trial is not None
    pngs = fetch(ImageServer(taste), rater, trial.id)
    assert fetch(ImageServer(taste, shelf_bytes=0, trial_bytes=0), rater, trial.id) == pngs


def test_a_shelf_holds_no_more_than_its_bytes_and_the_latest_entry() -> None:
    shelf = PngShelf(10)
    shelf.put("a", {"x": b"1234", "y": b"12"})
    shelf.put("b", {"x": b"1234"})
    assert shelf.get("a") == {"x": b"1234", "y": b"12"}
    # `b` is the one that was not used for longest.
    shelf.put("c", {"x": b"1"})
    assert shelf.get("b") is None
    assert shelf.get("a") is not None
    # An entry that takes the place of another counts once.
    shelf.put("c", {"x": b"123"})
    assert shelf.get("a") is not None
    shelf.put("d", {"x": b"12345678901234"})
    assert [shelf.get(key) is not None for key in "acd"] == [False, False, True]


def test_a_case_without_a_mask_has_no_outline_and_no_hint_of_one(design: Design) -> None:
    trial = next(trial for trial in design.trials if not any("noise" in name for name in trial.candidates))
    case = design.case_by_key[trial.case]
    bare = replace(case, mask=None)
    source, outlined, *candidates = pictures(design, bare, trial)
    assert outlined.tobytes() == source.tobytes()
    assert len(candidates) == len(trial.candidates)
    assert pictures(design, case, trial)[1].tobytes() != source.tobytes()
    words = words_of("en", {})
    for question in QUESTIONS:
        assert "outline" not in words(f"question.{question}.hint_without_outline")


def test_a_screen_gets_the_hint_that_fits_its_case(memory: Path, design: Design) -> None:
    words = words_of("en", {})
    bare = replace(design, cases=tuple(replace(case, mask=None) for case in design.cases))
    for number, (given, hint) in enumerate(((design, "hint"), (bare, "hint_without_outline"))):
        with StudyStore.open(memory / f"{number}.db") as store:
            store.create("taste", given)
            trial = store.next_trial(store.register("taste").rater)
            assert trial is not None
            assert trial.hint == words(f"question.overall.{hint}")
