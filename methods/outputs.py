"""Edits from elsewhere: from a closed system, a colleague's model or another run. They are read and checked.

``path`` is one of

* a folder with one image per case, named by the case's id (``<id>.png``), such as the folder of a method in a run
* a JSONL file with one object per line, ``{"case": "<id>", "file": "<image>"}``. The file is relative to the JSONL's
  own folder.

A suite with several seeds needs one of them for each seed: ``edits/seed-{seed}`` stands for ``edits/seed-0`` and so on.

The ids are those of the exported cases (``cases.jsonl``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from bench import images
from bench.edit import EditMethod, image_seed
from bench.files import BrokenText, parse_json, sha256_file, whole_text
from methods.runtime import refuse

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditCase, EditRequest, Runtime

# Number of files that a message names.
_NAMED = 3

# Images with an alpha channel that are decoded before a run. The others are decoded with their case.
_DECODED = 16


class Outputs(EditMethod):
    """Gets whole cases (``wants_cases``), because a request does not say which case it belongs to."""

    summary = "edits made elsewhere, read from a folder or a JSONL file"
    needs: frozenset[str] = frozenset({"source"})
    wants_cases = True
    in_driver = True

    @dataclass(frozen=True)
    class Options:
        path: str = ""
        """A folder, or a ``.jsonl`` file. ``{seed}`` in it stands for each of the suite's seeds."""
        resize: bool = False
        """Resize images of another size to the source's, by Lanczos, for models with a resolution of their own. It
        does not undo a crop. If False, another size is an error."""

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        """SHA-256 over every case's image. Other images are another method."""
        digest = hashlib.sha256()
        for seed, path in by_seed(options.path).items():
            if seed is not None:
                digest.update(f"seed {seed}\n".encode())
            # Sorted: the order of a folder's entries differs between file systems.
            for case, file in sorted(listed(path).items()):
                digest.update(f"{case}\0{sha256_file(file)}\n".encode())
        return {"sha256": digest.hexdigest()}

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        """Missing files, files whose headers are not those of images, and transparent images. Needs no cases."""
        try:
            paths = by_seed(options.path)
            return [problem for path in paths.values() for problem in _file_problems(path, listed(path))]
        except ValueError as error:
            return [str(error)]

    @classmethod
    def seed_problems(cls, options: Options, seeds: Sequence[int]) -> list[str]:
        """A problem where several seeds share one folder, and where a seed has none."""
        paths = by_seed(options.path)
        if None in paths:
            if len(seeds) == 1:
                return []
            return [
                f"{options.path}: it has one edit of each case, and the suite has {len(seeds)} seeds. Give a folder "
                "for each seed, such as path: edits/seed-{seed}, or one seed"
            ]
        missing = [str(seed) for seed in seeds if seed not in paths]
        return [f"{options.path}: there is none for seed {', '.join(missing)}. Export it"] if missing else []

    @classmethod
    def case_problems(cls, options: Options, cases: Sequence[str], size: tuple[int, int] | None) -> list[str]:
        """A problem where no image has the id of one of the planned cases, and where images are of another size."""
        return [
            problem
            for path in by_seed(options.path).values()
            for problem in _case_problems(options, path, cases, size)
        ]

    def __init__(self, options: Options, runtime: Runtime) -> None:
        del runtime
        refuse("outputs", self.problems(options))
        self.options = options
        self.files = {seed: listed(path) for seed, path in by_seed(options.path).items()}

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        raise ValueError(
            "outputs cannot answer a request, which does not name its case: it runs inside a benchmark only"
        )

    def edit_cases(self, cases: Sequence[EditCase]) -> list[Image]:
        """The image of each case, RGB, of its source's size.

        Raises ValueError that names the first case without an image and the file that was expected, or the
        image that cannot be read or has another size than the source.
        """
        return [self._read(case) for case in cases]

    def _read(self, case: EditCase) -> Image:
        seed = self._seed(case)
        file = self.files[seed].get(case.id)
        if file is None:
            raise ValueError(f"outputs: no image for case {case.id!r}: {self._expected(case.id, seed)}")
        image = images.read_rgb(file)
        size = case.request.source.size
        if image.size == size:
            return image
        if self.options.resize:
            return images.resize(image, size)
        raise ValueError(
            f"outputs: {file}: {image.width}x{image.height} pixels, the source of case {case.id!r} has "
            f"{size[0]}x{size[1]}. Export it at that size, or set resize: true"
        )

    def _seed(self, case: EditCase) -> int | None:
        """The suite's seed whose edit of the case is asked for. None where all seeds share one folder."""
        # A request has the seed of its image, which is made of the suite's seed and the case's id.
        for seed in self.files:
            if seed is None or image_seed(seed, case.id) == case.request.seed:
                return seed
        raise ValueError(f"outputs: {self.options.path}: there is none for the seed of case {case.id!r}.")

    def _expected(self, case: str, seed: int | None) -> str:
        path = Path(_of_seed(self.options.path, seed)).expanduser()
        if path.is_dir():
            return f"expected {path / (case + '.png')}"
        return f'expected a line {{"case": "{case}", "file": ...}} in {path}'


_SEED = "{seed}"


def by_seed(path: str) -> dict[int | None, str]:
    """The path of each seed, in order. None stands for the only path, where ``path`` has no ``{seed}``.

    Raises ValueError where no seed has one.
    """
    if _SEED not in path:
        return {None: path}
    folder, name = Path(path).expanduser().parent, Path(path).name
    if name.count(_SEED) != 1 or _SEED in str(folder):
        raise ValueError(
            f"path {path!r}: {_SEED} stands once, in the last part, as in edits/seed-{_SEED}. Correct it"
        )
    before, after = map(re.escape, name.split(_SEED))
    number = re.compile(before + r"(0|-?[1-9]\d*)" + after)
    entries = folder.iterdir() if folder.is_dir() else ()
    seeds = sorted(int(match[1]) for entry in entries if (match := number.fullmatch(entry.name)))
    if not seeds:
        raise ValueError(
            f"path {path!r}: there is none, such as {_of_seed(path, 0)} for seed 0. Check the path"
        )
    return {seed: _of_seed(path, seed) for seed in seeds}


def _of_seed(path: str, seed: int | None) -> str:
    return path if seed is None else path.replace(_SEED, str(seed))


def _file_problems(path: str, files: Mapping[str, Path]) -> list[str]:
    """Missing files, files whose headers are not those of images, and transparent images."""
    missing = [f"{file} (case {case!r})" for case, file in files.items() if not file.is_file()]
    if missing:
        return [f"{path}: names files that are not there: {_some(missing)}"]

    # Headers of all files, and the pixels of some that have an alpha channel.
    unreadable, with_alpha = [], []
    for file in files.values():
        try:
            if images.probe(file):
                with_alpha.append(file)
        except images.ImageError:
            unreadable.append(str(file))
    if unreadable:
        return [f"not images: {_some(unreadable)}. Export them as PNG, or take them out"]
    try:
        for file in with_alpha[:_DECODED]:
            images.read_rgb(file)
    except images.ImageError as error:
        return [str(error)]
    return []


def _case_problems(
    options: Outputs.Options, path: str, cases: Sequence[str], size: tuple[int, int] | None
) -> list[str]:
    files = listed(path)
    planned = [files[case] for case in cases if case in files]
    if planned:
        # Where each source has its own size, an edit of another size fails its case.
        return [] if options.resize or size is None else _of_another_size(planned, size)
    return [
        f"{path}: none of its images ({_some(sorted(files))}) is named by one of the {len(cases)} cases "
        f"({_some(sorted(cases))}). Name them by the ids in the cases.jsonl that was exported with the same options"
    ]


def _of_another_size(files: Sequence[Path], size: tuple[int, int]) -> list[str]:
    sizes = {file: images.header_size(file) for file in files}
    # A camera's rotation swaps width and height when a file is decoded. The edit itself is then checked.
    wrong = [f"{file} ({w}x{h})" for file, (w, h) in sizes.items() if size not in ((w, h), (h, w))]
    if not wrong:
        return []
    return [
        f"images of another size than the sources, {size[0]}x{size[1]}: {_some(wrong)}. Export them at that size, "
        "or set resize: true"
    ]


def listed(path: str) -> dict[str, Path]:
    """Case id -> the file of its edit. Raises ValueError that names the fault and the remedy."""
    if not path:
        raise ValueError("option path is missing: give a folder of images named by case id, or a .jsonl file")
    location = Path(path).expanduser()
    if location.is_dir():
        return _files_of_folder(location)
    if location.suffix != ".jsonl":
        raise ValueError(f"path {path!r}: neither a folder nor a .jsonl file. Check the path")
    return _files_of_jsonl(location)


def _files_of_folder(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in images.image_files(folder):
        # a.png and a.jpg, for example.
        if file.stem in files:
            raise ValueError(
                f"{folder}: {files[file.stem].name} and {file.name} would both be the edit of case "
                f"{file.stem!r}. Keep one"
            )
        files[file.stem] = file
    if not files:
        raise ValueError(f"{folder}: holds no images. Put one there for each case, as <case id>.png")
    return files


def _files_of_jsonl(place: Path) -> dict[str, Path]:
    try:
        # Editors on Windows begin a file with a byte order mark.
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: cannot be read ({error}). Check the path; it must be UTF-8") from error
    files: dict[str, Path] = {}
    # Not splitlines: a name may hold U+2028, which it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{place}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: not valid JSON ({error})") from error
        # Both must be texts that a file can hold.
        case, file = (row.get("case"), row.get("file")) if isinstance(row, dict) else (None, None)
        if not isinstance(case, str) or not isinstance(file, str) or not case or not file:
            raise ValueError(f'{where}: expected {{"case": "<id>", "file": "<image>"}}, got {line[:80]}')
        try:
            whole_text(case, f"{where}: the case")
            whole_text(file, f"{where}: the file's name")
        except BrokenText as error:
            raise ValueError(str(error)) from None
        if case in files:
            raise ValueError(f"{where}: case {case!r} was named before. Keep one line")
        # Names from data never leave their folder: neither up, nor to a root or a drive.
        parts = PurePosixPath(file.replace("\\", "/")).parts
        if ".." in parts or file.startswith(("/", "\\", "~")) or PureWindowsPath(file).drive:
            raise ValueError(
                f"{where}: file {file!r} leaves the folder of the JSONL. Put the images beside or below it, "
                "and name them relative to it"
            )
        files[case] = place.parent.joinpath(*parts)
    if not files:
        raise ValueError(f"{place}: names no images. Write one line for each case")
    return files


def _some(lines: Sequence[str]) -> str:
    more = f", and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return ", ".join(lines[:_NAMED]) + more
