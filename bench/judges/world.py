"""``server: world``: the attribute classifier of the rendered world behind the interface of a judge.

It needs no download, no key and no network. A server on a free port of 127.0.0.1 answers chat completions for as long
as a run is judged, so that the demo goes the same way as a judge of a provider. It is no language model. It answers the
rubric ``masked-edit`` from what the classifier reads:

==========  ==============================================================================================
score       10 times
==========  ==============================================================================================
``follow``  the probability of the values that the request names, inside the mask. An object with a colour needs both.
            The mean over the parts of the request
``keep``    1 - the distance of the readings of original and edit outside the mask (total variation, the mean over all
            attributes). The inside is the original's in both
``real``    1 - the probability of ``other``, a region that shows no value of the attribute, inside the mask. The mean
            over the parts of the request
==========  ==============================================================================================

The rubric ``pairs`` shows no mask. The area that either edit changed clearly stands for it, the same for both edits.
The edit with the larger score of ``follow`` wins, where these are equal of ``keep``, then of ``real``. The verdict does
not depend on the order.

Requests are read by the phrases of the rendered world's level 1. Any other request is refused.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.endpoints.client import MAX_ANSWER
from bench.endpoints.servers import Server
from bench.errors import BenchError
from bench.files import parse_json
from bench.images import decode, to_array
from bench.judges.options import WORLD_MODEL, Judge
from bench.judges.rubrics import load_rubric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import AttributeProbabilities, RegionClassifier

Part = tuple[tuple[str, str], ...]
"""One part of a request: the values of attributes that one place has to show."""

# The classifier's value of a region that shows none of an attribute's values.
_OTHER = "other"
_COLORS = "red|orange|yellow|green|blue|purple|pink"
_OBJECTS = "car|bus|boat|cup|bottle|sports ball|ball|kite|surfboard|umbrella|suitcase"
_PLACES = "meadow|beach|snow|desert|room"
# Phrase -> the values that it asks for. ``{1}`` is the phrase's first group.
_PHRASES: tuple[tuple[str, Part], ...] = (
    (r"make (?:his|her) hair (black|blond|brown|gray)", (("hair_color", "{1}"),)),
    (r"make (?:him|her) smile", (("mouth", "smile"),)),
    (r"open (?:his|her) mouth", (("mouth", "open"),)),
    (r"close (?:his|her) mouth", (("mouth", "neutral"),)),
    (rf"make the ({_OBJECTS}) ({_COLORS})", (("category", "{1}"), ("color", "{2}"))),
    (rf"into an? ({_COLORS}) ({_OBJECTS})", (("color", "{1}"), ("category", "{2}"))),
    (rf"(?:put (?:him|her) (?:in|on)|change the background to) (?:an? |the )?({_PLACES})", (("background", "{1}"),)),
    (r"make it night", (("background", "night"),)),
    (r"\b(eyeglasses|hat|earrings|lipstick)\b", (("{1}", "yes"),)),
)  # fmt: skip
# Words of the request -> names of the classifier.
_NAMES = {
    "ball": "sports ball",
    "eyeglasses": "Eyeglasses",
    "hat": "Wearing_Hat",
    "earrings": "Wearing_Earrings",
    "lipstick": "Wearing_Lipstick",
}


class WorldRefusal(BenchError):
    """A question that the attribute classifier cannot answer. The message says why."""


@contextmanager
def answered(judge: Judge, classifier: RegionClassifier | None) -> Iterator[Judge]:
    """The judge with the address of a server that answers it. The server ends with the context.

    A judge of another server is given back as it is.
    """
    if not judge.options.is_world or classifier is None:
        yield judge
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(classifier))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield replace(judge, server=Server(url, "", ""))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(classifier: RegionClassifier) -> type[BaseHTTPRequestHandler]:
    # One question at a time: the network's own threads use the processor already.
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/v1/chat/completions" or not 0 < length <= MAX_ANSWER:
                self._send(
                    404, {"error": {"message": "POST /v1/chat/completions with a body is all there is"}}
                )
                return
            try:
                body = parse_json(self.rfile.read(length))
                with lock:
                    answer = chat_completion(body, classifier)
            except (BenchError, ValueError, KeyError, TypeError, IndexError) as error:
                self._send(400, {"error": {"message": str(error), "code": "invalid_request"}})
                return
            self._send(200, answer)

        def _send(self, status: int, value: Mapping[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Writes no line per request to standard error."""

    return Handler


# -- answers ------------------------------------------------------------------------------------


def chat_completion(body: Mapping[str, Any], classifier: RegionClassifier) -> dict[str, Any]:
    """The answer to the JSON of one chat completion. Raises :class:`WorldRefusal` for another rubric."""
    content = body["messages"][0]["content"]
    text = "".join(part["text"] for part in content if part["type"] == "text")
    images = [_pixels(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
    rated, compared = request_of(text), request_of(text, "pairs")
    request = compared if rated is None else rated
    if request is None or len(images) != 3:
        raise WorldRefusal("the attribute classifier answers the rubrics masked-edit and pairs alone")
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    parts = read_parts(request)
    if parts:
        shown = "; ".join(" and ".join(f"{name} {value}" for name, value in part) for part in parts)
        answer: dict[str, Any] = {"reasoning": f"read: {shown}"}
        if rated is None:
            source, first, second = images
            answer["winner"] = better(classifier, source, first, second, parts)
        else:
            source, edited, mask = images
            answer["score"] = score(classifier, source, edited, mask[..., 0] >= 128, parts)
        message["content"] = json.dumps(answer)
    else:
        message["refusal"] = "the request is none of the rendered world's phrases"
    return {
        "object": "chat.completion",
        "model": f"{WORLD_MODEL}-{classifier.identity}",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def request_of(text: str, rubric: str = "masked-edit") -> str | None:
    """The request in a question of a rubric with one question. None for any other text."""
    (question,) = load_rubric(rubric).questions
    before, _, after = question.prompt.partition("<request>")
    if not (text.startswith(before) and text.endswith(after)):
        return None
    return text[len(before) : len(text) - len(after)]


def read_parts(request: str) -> list[Part]:
    """The parts of a request, in the order of :data:`_PHRASES`. Empty where no phrase is in it.

    A description of the whole image ("The image should show: ...") has no parts: it does not say what changes.
    """
    if request.startswith("The image should show"):
        return []
    parts = []
    for pattern, values in _PHRASES:
        for match in re.finditer(pattern, request):
            words = {f"{{{i + 1}}}": _NAMES.get(word, word) for i, word in enumerate(match.groups())}
            parts.append(tuple((words.get(name, name), words.get(value, value)) for name, value in values))
    return parts


def score(
    classifier: RegionClassifier,
    source: NDArray[np.uint8],
    edited: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    parts: Sequence[Part],
) -> list[int]:
    """Follow, keep and real, whole numbers of 0 to 10. Images uint8 (H, W, 3), mask bool (H, W)."""
    # Several objects have a region each: the whole mask and each of its connected parts are read.
    places = _places(mask)
    outside = ~mask
    # The same inside twice, so that only the outside can differ.
    kept = np.where(mask[..., None], source, edited)
    before, after, *inside = classifier(
        np.stack([source, kept, *[edited] * len(places)]), np.stack([outside, outside, *places])
    )
    follows, real = zip(*(_part(part, inside) for part in parts), strict=True)
    # Nothing is outside where an edit changed the whole image.
    kept_share = 1 - _distance(before, after) if outside.any() else 1.0
    return [round(10 * float(value)) for value in (np.mean(follows), kept_share, np.mean(real))]


def better(
    classifier: RegionClassifier,
    source: NDArray[np.uint8],
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    parts: Sequence[Part],
) -> str:
    """``A`` where the first edit is better, ``B`` where the second is, or ``tie``. Images uint8 (H, W, 3)."""
    area = changed_area(source, [first, second])
    if not area.any():
        return "tie"
    scores = [score(classifier, source, edited, area, parts) for edited in (first, second)]
    if scores[0] == scores[1]:
        return "tie"
    return "A" if scores[0] > scores[1] else "B"


# Smallest difference of a channel that counts as a change. An autoencoder changes every pixel by less.
CHANGE = 40


def changed_area(source: NDArray[np.uint8], edits: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Bool (H, W): where any of the edits differs clearly from the source."""
    from scipy.ndimage import label

    difference = np.max([np.abs(edited.astype(int) - source).max(axis=2) for edited in edits], axis=0)
    numbers, count = label(difference >= CHANGE)
    # Parts below a twentieth of the largest are noise.
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    area: NDArray[np.bool_] = (sizes >= max(sizes.max() / 20, 1))[numbers]
    return area


def _places(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    from scipy.ndimage import label

    numbers, count = label(mask)
    return [mask, *(numbers == number for number in range(1, count + 1))] if count > 1 else [mask]


def _part(part: Part, readings: Sequence[AttributeProbabilities]) -> tuple[float, float]:
    """How far a part of the request is shown, and how far anything is: both at the place that shows it best."""
    return max(
        (
            min(reading[name][value] for name, value in part),
            min(1 - reading[name].get(_OTHER, 0.0) for name, _ in part),
        )
        for reading in readings
    )


def _distance(one: AttributeProbabilities, other: AttributeProbabilities) -> float:
    """Total variation distance of two readings in 0..1, the mean over the attributes."""
    return float(
        np.mean(
            [
                sum(abs(p - other[name][value]) for value, p in values.items()) / 2
                for name, values in one.items()
            ]
        )
    )


def _pixels(url: str) -> NDArray[np.uint8]:
    return to_array(decode(base64.b64decode(url.partition(",")[2]), "image"))
