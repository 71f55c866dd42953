"""The options of a judge, and the identity of what it is asked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from bench.edit import Configurable, stable_digest
from bench.endpoints.client import AnswerCache, Ceiling
from bench.endpoints.servers import Server, find_server, server_problems
from bench.errors import BenchError
from bench.files import cache_folder
from bench.judges import reading
from bench.judges.prices import Prices, Size
from bench.judges.rubrics import RubricError, Wording, load_rubric, word
from bench.metrics.types import LABEL
from bench.registry import options_dict, parse_options

if TYPE_CHECKING:
    from bench.metrics.features import RegionClassifier

WORLD = "world"
"""Name of the server that the attribute classifier of the rendered world answers (``bench.judges.world``)."""
WORLD_MODEL = "attribute-classifier"

# Marks an option that does not change what the judge is asked.
_RunTime = Field(exclude=True)


class JudgeError(BenchError):
    """A judge that cannot work. The message names the remedy."""


@dataclass(frozen=True)
class JudgeOptions:
    """A judge: a rubric, a model, and how it is asked."""

    rubric: str
    """Name of a rubric: masked-edit, viescore or imgedit, or pairs for two edits."""
    model: str
    """Model that the server is asked for. Its answer names the one that answered."""
    server: str = "judge"
    """``openai``, or a name such as ``judge``: its address is in ``PROMPTEDITBENCH_JUDGE_URL``. ``world``: the embedded
    attribute classifier answers, on this machine."""
    prompts: str = ""
    """Folder of the official prompt files, for the rubrics of public benchmarks."""
    temperature: float | None = 0.0
    """None leaves it to the server: some models take no other than their own."""
    seed: int | None = None
    """Sent with each call, increased by one with every pass. None sends none."""
    max_tokens: int = 1400
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name under which ``max_tokens`` is sent. Reasoning models of OpenAI take the second."""
    codec: Literal["png", "jpeg"] = "png"
    """How images are sent. The published judges send JPEG at quality 75, which hides small damage."""
    longest_side: int | None = 1024
    """Images are made smaller to this side before they are sent. None sends them as they are."""

    # From here on the options do not change what is asked.
    passes: Annotated[int, _RunTime] = 1
    """How often each question is asked. The value is the mean over the passes."""
    limit: Annotated[int | None, _RunTime] = None
    """Cases per category and protocol whose edits are judged, chosen as a suite's. None for all."""
    label: Annotated[str, _RunTime] = ""
    """Distinguishes a second judge with the same rubric: its columns are called NAME@LABEL."""
    concurrency: Annotated[int, _RunTime] = 8
    """Calls at one time."""
    requests_per_minute: Annotated[float, _RunTime] = 60.0
    timeout: Annotated[float, _RunTime] = 120.0
    """Seconds without an answer after which a call is tried again."""
    retries: Annotated[int, _RunTime] = 5
    max_requests: Annotated[int | None, _RunTime] = None
    """Ceiling of calls in one run of the command, retries included. None for no ceiling."""
    price_per_call: Annotated[float | None, _RunTime] = None
    """Price of one call, for the estimate and for ``max_cost``. Added to the price of its tokens, if both are given."""
    price_per_million_input: Annotated[float | None, _RunTime] = None
    """Price of a million tokens that are sent, those of images included."""
    price_per_million_output: Annotated[float | None, _RunTime] = None
    """Price of a million tokens of replies."""
    max_cost: Annotated[float | None, _RunTime] = None
    """Ceiling of the cost of one run of the command, in the currency of the prices."""
    cache: Annotated[str, _RunTime] = ""
    """Folder of the replies that all runs share. Empty for the user's cache folder."""

    @property
    def ceiling(self) -> Ceiling:
        return Ceiling(
            self.max_requests, self.max_cost, None if self.prices.by_token else self.price_per_call
        )

    @property
    def prices(self) -> Prices:
        return Prices(self.price_per_call, self.price_per_million_input, self.price_per_million_output)

    @property
    def cache_folder(self) -> Path:
        """Folder of the replies that all runs share."""
        return (
            Path(self.cache).expanduser().absolute() if self.cache else cache_folder().absolute() / "judges"
        )

    def sent_size(self, size: Size) -> Size:
        """(width, height) at which an image of ``size`` is sent."""
        side = self.longest_side
        if side is None or max(size) <= side:
            return size
        width, height = (max(1, round(length * side / max(size))) for length in size)
        return width, height

    @property
    def is_world(self) -> bool:
        """True where the attribute classifier answers. It has neither a price nor a rate limit."""
        return self.server == WORLD


class _Judge(Configurable):
    Options = JudgeOptions
    REFUSED: Mapping[str, str] = dict.fromkeys(
        ("base_url", "url", "key", "api_key", "key_variable"),
        "a suite names a server, whose address and key stand in the environment. Set the option server",
    )


@dataclass(frozen=True)
class Judge:
    """A judge that is ready to be asked."""

    options: JudgeOptions
    wording: Wording
    url: str
    """Address of the server. That of the attribute classifier is ``world:`` and its identity, for any port."""
    server: Server

    @property
    def digest(self) -> str:
        """12 hex digits over everything that a reply depends on, as far as the judge's owner decides it."""
        return stable_digest({**options_dict(self.options), "url": self.url, "rubric": self.wording.digest})

    def version(self, served: str) -> str:
        """The version of the scores of replies by the model ``served``."""
        # The folder of the prompts is not in it: their digest is.
        asked = {**options_dict(self.options), "prompts": "", "rubric": self.wording.digest}
        identity = {**asked, "served": served, "passes": self.options.passes, "reading": reading.VERSION}
        return f"{self.wording.rubric.version}-{stable_digest(identity)[:8]}"

    def column(self, name: str) -> str:
        """Name of the stored scores of a column of the rubric."""
        return column_name(self.options, name)

    def as_json(self) -> dict[str, Any]:
        """Everything that a reader of the replies needs to know, without a secret."""
        return {
            "digest": self.digest,
            "url": self.url,
            "options": dataclasses.asdict(self.options),
            "rubric": self.wording.digest,
            "prompt_files": dict(self.wording.files),
            "columns": [self.column(name) for name in self.wording.rubric.columns],
        }


def column_name(options: JudgeOptions, name: str) -> str:
    """Name of the stored scores of a column of a judge's rubric."""
    return f"{name}{LABEL}{options.label}" if options.label else name


def parse_judge(values: Mapping[str, Any], where: str) -> JudgeOptions:
    """The options of a judge from plain values. Raises OptionError that begins with ``where``."""
    options: JudgeOptions = parse_options(_Judge, values, where)
    return options


def judge_problems(
    options: JudgeOptions, classifier: RegionClassifier | None = None, *, rendered: bool = True
) -> list[str]:
    """Reasons why a judge cannot be asked, each with its remedy. Makes no call.

    ``classifier`` answers for the server ``world``. ``rendered``: whether there are edits of the rendered world.
    """
    if options.is_world:
        problems = _world_problems(options, classifier, rendered)
    else:
        problems = server_problems(options.server)
    try:
        rubric = load_rubric(options.rubric)
        if not rubric.columns and (options.passes != 1 or options.label):
            problems.append(
                "pairs are asked about once in each order, and have no columns: leave passes and label out"
            )
        word(rubric, options.prompts)
    except RubricError as error:
        problems.append(str(error))
    if not options.model:
        problems.append("model is empty: name the one to use")
    for name in ("passes", "concurrency", "max_tokens", "requests_per_minute", "timeout"):
        if getattr(options, name) <= 0:
            problems.append(f"{name} {getattr(options, name)}: expected more than 0")
    if options.retries < 0 or (options.longest_side is not None and options.longest_side < 16):
        problems.append(
            f"retries {options.retries} and longest_side {options.longest_side}: expected at least 0 and 16"
        )
    if options.limit is not None and options.limit < 1:
        problems.append(f"limit {options.limit}: expected at least 1")
    problems += _price_problems(options)
    if not options.is_world:
        problems += AnswerCache(options.cache_folder).problems()
    if options.label and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", options.label):
        problems.append(f"label {options.label!r}: expected letters, digits, _ . and -")
    return problems


def _price_problems(options: JudgeOptions) -> list[str]:
    prices = {
        name: getattr(options, name)
        for name in ("price_per_call", "price_per_million_input", "price_per_million_output")
    }
    problems = [f"{name} {price:g}: expected 0 or more" for name, price in prices.items() if (price or 0) < 0]
    if (options.price_per_million_input is None) != (options.price_per_million_output is None):
        problems.append("price_per_million_input and price_per_million_output belong together: set both")
    if options.max_cost is not None and not any((price or 0) > 0 for price in prices.values()):
        problems.append(
            "max_cost needs price_per_call, the price of one call, or price_per_million_input and "
            "price_per_million_output: set them"
        )
    if options.max_cost is not None and options.max_cost <= 0:
        problems.append(f"max_cost {options.max_cost:g}: expected more than 0")
    if options.max_requests is not None and options.max_requests < 1:
        problems.append(f"max_requests {options.max_requests}: expected at least 1")
    return problems


def _world_problems(options: JudgeOptions, classifier: RegionClassifier | None, rendered: bool) -> list[str]:
    problems = []
    if not rendered:
        problems.append("server world reads the rendered world only, and no protocol shows it. Leave it out")
    if classifier is None:
        problems.append("server world: the checkpoint of the attribute classifier is missing. See doctor")
    if options.rubric not in ("masked-edit", "pairs"):
        problems.append("server world answers the rubrics masked-edit and pairs alone")
    if options.model not in ("", WORLD_MODEL):
        problems.append(f"server world: its model is {WORLD_MODEL}, not {options.model!r}")
    return problems


def make_judge(options: JudgeOptions, classifier: RegionClassifier | None = None) -> Judge:
    """The judge of some options. Raises :class:`JudgeError` that lists every problem.

    ``classifier`` answers for the server ``world``. Only ``bench.judges.world.answered`` gives that an address.
    """
    problems = judge_problems(options, classifier)
    if problems:
        raise JudgeError(f"judge {options.rubric}: " + "; ".join(problems))
    wording = word(load_rubric(options.rubric), options.prompts)
    if classifier is not None and options.is_world:
        return Judge(options, wording, f"world:{classifier.identity}", Server("", "", ""))
    server = find_server(options.server)
    return Judge(options, wording, server.url, server)


def check_judges(judges: Sequence[JudgeOptions]) -> None:
    """Raises :class:`JudgeError` where two judges would write the same columns, or one would write none."""
    for options in judges:
        if not load_rubric(options.rubric).columns:
            raise JudgeError(f"rubric {options.rubric} compares two edits: use judge pairs.")
    names = [(options.rubric, options.label) for options in judges]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise JudgeError(
                f"two judges have the rubric {name[0]} and the same label: give each a label of its own."
            )
