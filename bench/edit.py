"""The edit interface: requests, cases, records, and the base classes of methods and protocols.

This module imports no image library, no tensor library and nothing else of this project, so that a plug-in can depend
on it alone.

Conventions, which ``bench.images`` enforces and all other code relies on:

* An image is a ``PIL.Image.Image`` of mode ``RGB``.
* A mask is a ``PIL.Image.Image`` of mode ``L`` of the same size, 255 = edit, 0 = keep, nothing between.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

CATEGORIES: tuple[str, ...] = ("attribute", "replacement", "background", "multi_object")
"""The four edit categories of the paper, in the order in which every table shows them."""

ALL = "all"
"""The category of a value that covers all categories."""

# ``seed`` is not among them: every request has one.
REQUEST_FIELDS: frozenset[str] = frozenset(
    {
        "source",
        "mask",
        "source_prompt",
        "target_prompt",
        "region_prompt",
        "instruction",
        "edit_words",
        "regions",
        "references",
    }
)
"""Fields of :class:`EditRequest` that ``EditMethod.needs`` may name."""


# eq=False for values that hold images: comparing two of them would compare pixels, or raise.
@dataclass(frozen=True, eq=False)
class Region:
    """One part of a multi-object edit."""

    mask: Image
    prompt: str
    """Description of the edited region."""
    words: tuple[str, ...] = ()
    """Words of the target prompt that belong to this region."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """All that a method may see of a case. The ground truth is not in it, so it cannot leak."""

    source: Image
    mask: Image | None
    """None where the benchmark has no mask for the case. A method whose ``needs`` name it never gets None."""
    source_prompt: str
    """Description of the source, possibly empty."""
    target_prompt: str
    """Description of the whole edited image. It may be empty where there is an instruction."""
    region_prompt: str
    """Description of the edited region alone, possibly empty."""
    instruction: str
    """The edit as a command: "make the car red". It may be empty where there is a target prompt."""
    edit_words: tuple[str, ...] = ()
    """Words of the target prompt that the edit adds or changes."""
    regions: tuple[Region, ...] = ()
    """The parts of a multi-object edit. Their union is the mask. Empty where there is no mask."""
    references: tuple[Image, ...] = ()
    """Further input images that the instruction speaks of, such as a style or an object. ``RGB``, each of its own size.
    The runner does not resize them."""
    seed: int = 0
    """Seed of this image's random generator."""

    @property
    def needed_mask(self) -> Image:
        """The mask, for code that cannot do without it. Raises ValueError where there is none."""
        if self.mask is None:
            raise ValueError("the case has no mask, and one is needed here.")
        return self.mask


@dataclass(frozen=True)
class Claim:
    """One expected attribute change, in the vocabulary of the data set's annotations.

    Examples: ``Claim("Eyeglasses", "no", "yes")``, ``Claim("color", "red", "blue", region=1)``. Where ``before``
    equals ``after``, the value has to stay, such as the colour of an object that becomes another object. Judges with
    an attribute classifier check it. Methods never see it.
    """

    attribute: str
    before: str
    after: str
    region: int = 0
    """Index into the case's :attr:`~EditCase.areas`. Without regions, 0 means the whole mask, which must exist."""


@dataclass(frozen=True, eq=False)
class ScoredAreas:
    """Exact mask and regions for metrics, where the request's are imprecise on purpose or leave the regions out."""

    mask: Image
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, eq=False)
class EditCase:
    """One case of a benchmark: the request for a method, and what scoring needs besides."""

    id: str
    category: str
    request: EditRequest
    source_id: str
    """Id of the source image. Cases of one source are one cluster in every interval."""
    claims: tuple[Claim, ...] = ()
    """Expected attribute changes."""
    truth: Image | None = None
    """Ground truth: the ideal edit, where the protocol has one."""
    tags: Mapping[str, str] = field(default_factory=dict)
    scored: ScoredAreas | None = None
    """Where metrics look. None: the request's own mask and regions. Methods never see it."""

    @property
    def areas(self) -> tuple[Image, ...]:
        """The masks that :attr:`Claim.region` indexes: one for each scored region, or else the whole scored mask.

        Empty where there is no mask.
        """
        where = self.scored or self.request
        whole = () if where.mask is None else (where.mask,)
        return tuple(region.mask for region in where.regions) or whole


@dataclass(frozen=True)
class Runtime:
    """Where and how a method runs. It is not part of the method's digest.

    ``dtype`` changes pixels slightly. It is stored in the run folder's manifest, and a method resumes only with the
    dtype that it began with.
    """

    device: str = "cpu"
    """Name of a torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    dtype: str = "float32"
    """``float32``, ``float16`` or ``bfloat16``."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a class that declares none."""


class Configurable:
    """Common base of methods and protocols: options that are checked before any model or data is loaded."""

    summary: str = ""
    """One line for ``list``."""
    # A subclass nests a dataclass of the same name, or keeps this one.
    Options: type[Any] = NoOptions
    """A frozen dataclass of all options. The suite's values are checked against its types."""
    REFUSED: Mapping[str, str] = {}
    """Options that a user may look for but must not set in a suite, each with the reason and the remedy."""

    @classmethod
    def problems(cls, options: Any) -> Sequence[str]:
        """Reasons why it cannot run with these options, such as missing files, each with its remedy.

        Loads nothing. Empty where it can run.
        """
        del options
        return ()


@dataclass(frozen=True)
class PixelArea:
    """A working size by its number of pixels, for models that take any aspect ratio."""

    pixels: int
    """Width times height, about."""
    multiple: int = 8
    """Each side is a multiple of it."""

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of about these pixels, with the aspect ratio of ``source`` as far as multiples allow."""
        # width * height = pixels and width / height = source's ratio.
        scale = math.sqrt(self.pixels / (source[0] * source[1])) / self.multiple
        width, height = (max(1, round(side * scale)) * self.multiple for side in source)
        return width, height


@dataclass(frozen=True)
class NearestSize:
    """A working size from a fixed list, for models that have no other sizes."""

    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each."""

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) whose aspect ratio is nearest to that of ``source``."""
        # Logarithms: twice as wide is as far away as twice as high.
        ratio = source[0] / source[1]
        return min(self.sizes, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))


class EditMethod(Configurable):
    """Base class of every editing method.

    A method implements its paper and nothing else. The runner does seeding, resizing, timing and storing. A subclass
    declares ``needs`` and implements :meth:`edit`. Everything else has a default.
    """

    needs: frozenset[str]
    """Fields of :class:`EditRequest` that the method uses. Every method declares it."""
    native_size: int | tuple[int, int] | PixelArea | NearestSize | None = None
    """Size in pixels of the images that :meth:`edit` expects: the side of a square, (width, height), an area with the
    source's aspect ratio, or the nearest of a list. None for any size. The runner resizes to it and back without
    distortion: it mirrors the borders of an image of another aspect ratio, and crops the edit."""
    is_control: bool = False
    """True for a reference method whose result is known in advance (copy of the input, ground truth, noise). Tables
    list controls apart and never mark them as the best."""
    wants_truth: bool = False
    """True for a method that must see the ground truth. The runner calls :meth:`edit_cases` with whole cases."""
    wants_cases: bool = False
    """True for a method that must know which case it edits. The runner calls :meth:`edit_cases` with cases that have
    no ground truth, claims and tags."""
    in_driver: bool = False
    """True for a method that stays in the process of the command where others run in workers: it reads local files, or
    counts calls that cost money."""
    PRESETS: Mapping[str, Mapping[str, Any]] = {}
    """Named sets of options."""

    def __init__(self, options: Any, runtime: Runtime) -> None:
        """Loads the model. A subclass that loads nothing can keep this constructor."""
        del runtime
        self.options = options

    @classmethod
    def needs_of(cls, options: Any) -> frozenset[str]:
        """The fields that the method uses with these options, where they differ from :attr:`needs`. Loads nothing."""
        del options
        return cls.needs

    @classmethod
    def optional_needs(cls, options: Any) -> Mapping[str, str]:
        """Fields of :meth:`needs_of` that one option asks for -> how to do without them. Errors print it."""
        del options
        return {}

    @classmethod
    def notes(cls, options: Any) -> Sequence[str]:
        """Facts about these options that the user should know, and that stop no run. Loads nothing."""
        del options
        return ()

    @classmethod
    def remark(cls, options: Any) -> str:
        """Remark that every table prints beside the name, such as "under-trained". Empty for none.

        It is called only where :meth:`problems` is empty.
        """
        del options
        return ""

    @classmethod
    def identity(cls, options: Any) -> Mapping[str, Any] | None:
        """Facts beyond the options that change pixels, such as the SHA-256 of weights.

        They become part of the method's digest. None where the options say all. It is called only where
        :meth:`problems` is empty.
        """
        # None and not {}: an empty identity is part of the digests of stored runs, no identity is not.
        del options
        return None

    @classmethod
    def case_problems(cls, options: Any, cases: Sequence[str], size: tuple[int, int] | None) -> Sequence[str]:
        """Reasons why the method cannot edit the planned cases of a protocol. Called before any edit.

        ``cases`` are their ids, ``size`` is the (width, height) of their sources, None where each has its own.
        """
        del options, cases, size
        return ()

    @classmethod
    def seed_problems(cls, options: Any, seeds: Sequence[int]) -> Sequence[str]:
        """Reasons why the method cannot make edits with the suite's seeds. Called before any edit."""
        del options, seeds
        return ()

    @classmethod
    def estimate(cls, options: Any, edits: int) -> object | None:
        """Cost of ``edits`` edits for ``--dry-run``, printed by ``str``. None where the method costs nothing."""
        del options, edits
        return None

    def edit(self, requests: Sequence[EditRequest]) -> Sequence[Image]:
        """Edits a batch of sources of one size. Returns as many images of that size, in the same order.

        Each result depends on its own request alone: its ``seed`` feeds its own random generator. The rest of the
        batch may change it by floating-point rounding only.
        """
        raise NotImplementedError

    def edit_cases(self, cases: Sequence[EditCase]) -> Sequence[Image]:
        """As :meth:`edit`, for methods with ``wants_truth`` or ``wants_cases``."""
        # Every method has edit_cases: code without a runner calls this one for all methods.
        return self.edit([case.request for case in cases])


@dataclass(frozen=True)
class MethodSpec:
    """The identity of a method: its name and its options.

    Device, batch size and everything else that changes only rounding are not part of it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """Name in the tables. Neither it nor any field below is part of the digest."""
    display: str = ""
    """Name in LaTeX tables, in place of the title."""
    cite: str = ""
    """BibTeX keys that LaTeX tables cite after the name, joined by commas."""
    group: str = ""
    """Heading above its rows in printed tables."""
    is_control: bool = False
    """As :attr:`EditMethod.is_control`."""
    best_of: str = ""
    """``N by METRIC``: tables get a further row, of the best edit of each case among the first N seeds."""
    remark: str = ""
    """As :meth:`EditMethod.remark`."""

    @property
    def digest(self) -> str:
        """12 hex digits of SHA-256 over the canonical JSON of name and options."""
        # 48 bits: folder names stay short, and a collision of two methods of one run is practically impossible.
        return stable_digest({"name": self.name, "options": dict(self.options)})

    @property
    def title(self) -> str:
        """The label, else the name, as one printable line for terminals, Markdown, CSV and LaTeX."""
        return one_line(self.label) or self.name


@dataclass(frozen=True)
class EditKey:
    """The identity of one edit. Two edits with equal keys are the same edit."""

    protocol: str
    protocol_version: str
    method: str
    """Digest of the method."""
    case: str
    seed: int

    @property
    def digest(self) -> str:
        # A list has a fixed order and no field names: renaming a field does not change the digest.
        return stable_digest([self.protocol, self.protocol_version, self.method, self.case, self.seed])


@dataclass(frozen=True)
class EditRecord:
    """The outcome of one edit. Exactly one of ``file`` and ``error`` is set."""

    key: EditKey
    file: str | None
    """Path of the lossless PNG, relative to the run folder, with forward slashes."""
    sha256: str | None
    """SHA-256 of the PNG's bytes."""
    seconds: float | None
    """Wall time of the batch, divided by the edits in it."""
    error: str | None = None
    peak_memory: int | None = None
    """Peak memory in bytes, where the accelerator reports it."""
    is_refused: bool = False
    """True where the method was never asked, because the case lacks what it needs. ``error`` has the reason. This is no
    failure."""


@dataclass(frozen=True)
class ScoreRecord:
    """One value of one metric for one edit. A value that could not be computed is None with a reason."""

    key: EditKey
    metric: str
    metric_version: str
    value: float | None
    reason: str | None = None
    edit: str | None = None
    """SHA-256 of the PNG that was scored, empty where there was none. None where it is unknown."""


@dataclass(frozen=True)
class ExpectedCases:
    """The cases that a protocol selects from complete data, as far as its options say."""

    canvas: int | tuple[int, int] | None
    """As :attr:`EditProtocol.canvas`."""
    per_category: int
    """Number of cases in each category."""


class EditProtocol(Configurable):
    """Base class of every protocol: a benchmark's cases, and the real images that realism is measured against.

    The constructor takes an instance of ``Options``.
    """

    name: str
    version: str
    """Increased whenever the cases change."""
    categories: Sequence[str] = CATEGORIES
    """Categories of its cases, in the order of the tables."""
    ceilings: Mapping[str, float] = {}
    """Category -> expected success of the best guess of a method that sees neither the regions nor the source inside
    the mask. Empty where no such bound is known."""
    canvas: int | tuple[int, int] | None
    """Pixels of every source, mask and ground truth: the side of a square, or (width, height). None where each source
    has its own size."""
    rendered: bool = False
    """True where the rendered world draws every image. The embedded networks (the mini CLIP, the attribute
    classifier) have seen nothing else, and score no other protocol."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def expected(cls, options: Any) -> ExpectedCases | None:
        """Size and number of the cases, for ``--dry-run`` without the data. None where they depend on the data.

        It is called only where :meth:`problems` is not empty. It reads no file.
        """
        del options
        return None

    @property
    def digest(self) -> str:
        """12 hex digits that change whenever any case changes."""
        raise NotImplementedError

    def cases(self) -> Sequence[EditCase]:
        """All cases, in a fixed order."""
        raise NotImplementedError

    def reference(self) -> Iterator[Image]:
        """The real images for FID, at the canvas's size, if it has one. A fresh iterator each time."""
        raise NotImplementedError

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> Mapping[str, str]:
        """The files of one edit in the benchmark's own layout of outputs, which its official scorer reads.

        ``row`` is the case's line of ``cases.jsonl``. Maps each path, below the method's folder, to ``"edit"`` or
        ``"source"``. ``{method}`` in a path stands for the name of that folder. Empty where the benchmark has no such
        layout.
        """
        del row
        return {}


def image_seed(seed: int, case_id: str) -> int:
    """Seed of one image's random generator, 63 bits: the same on every machine, for every method.

    ``EditRecord.key.seed`` is one of the suite's seeds. This one is in ``EditRequest.seed``.
    """
    # The method is not part of it: all methods start from the same noise.
    digest = hashlib.sha256(f"{seed}/{case_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def one_line(text: str) -> str:
    """``text`` as one line of printable characters. Everything else becomes a space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def stable_digest(value: Any) -> str:
    """12 hex digits of SHA-256 over canonical JSON. Raises TypeError for a value that JSON cannot express."""
    # Canonical: sorted keys, no spaces, ASCII. Stored runs depend on it.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
