"""Prices of a judge's calls: what they may cost before they are made, and what they did cost by the server's count.

Providers charge by tokens, and each counts an image in its own way. Before a judge has replies, tokens are estimated:

* text: a token for every 4 characters,
* an image: a token for every 28 x 28 pixels that are sent, as Qwen2.5-VL counts,
* a reply: ``max_tokens``, the most that the server may write.

Each reply then says in its ``usage`` how many tokens it took. Later estimates take the mean of these.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.judges.chat import Reply
    from bench.judges.options import JudgeOptions

CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28

Size = tuple[int, int]


@dataclass(frozen=True)
class CallTokens:
    """Tokens of one call, sent and received. Means and estimates need not be whole."""

    input: float
    output: float

    @classmethod
    def by_rule(cls, text: str, sizes: Iterable[Size], max_tokens: int) -> CallTokens:
        """Estimated from the text and the (width, height) of each image as it is sent."""
        images = sum(math.ceil(width * height / PIXELS_PER_TOKEN) for width, height in sizes)
        return cls(math.ceil(len(text) / CHARACTERS_PER_TOKEN) + images, max_tokens)

    @classmethod
    def of_usage(cls, usage: Mapping[str, Any] | None) -> CallTokens | None:
        """As the server counts them. None where it does not say, or says what is no number of tokens."""
        counts = [(usage or {}).get(name) for name in ("prompt_tokens", "completion_tokens")]
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 10**9 for n in counts):
            return None
        return cls(*map(float, counts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Prices:
    """Prices of a provider, in the user's currency. None where it has no such price."""

    call: float | None = None
    """For each call."""
    input: float | None = None
    """For a million tokens that are sent."""
    output: float | None = None
    """For a million tokens of the reply."""

    @property
    def by_token(self) -> bool:
        return self.input is not None and self.output is not None

    @property
    def given(self) -> bool:
        return self.call is not None or self.by_token

    def cost(self, tokens: CallTokens | None) -> float | None:
        """Price of a call of so many tokens. None where it is not known."""
        if not self.given or (self.by_token and tokens is None):
            return None
        by_token = 0.0
        if self.by_token and tokens is not None:
            by_token = (tokens.input * (self.input or 0) + tokens.output * (self.output or 0)) / 1e6
        return (self.call or 0.0) + by_token


@dataclass(frozen=True)
class CallEstimate:
    """Calls that a judge has to make, if none has to be repeated."""

    calls: int
    minutes: float
    """Least duration, by the rate limit."""
    cost: float | None
    """In the currency of the prices. None where none is given."""
    basis: str = ""
    """Basis of an estimate by tokens, in words. Empty for another kind of estimate."""

    def __str__(self) -> str:
        if self.cost is None:
            cost = "cost unknown: set price_per_call, or price_per_million_input and price_per_million_output"
        else:
            cost = f"cost {money(self.cost)}{self.basis}"
        return f"{self.calls} calls, at least {self.minutes:.1f} minutes, {cost}"


def estimate(
    options: JudgeOptions,
    calls: int,
    *,
    text: str = "",
    images: int = 0,
    largest: Size | None = None,
    replies: Iterable[Reply] = (),
) -> CallEstimate:
    """Duration and cost of a number of calls.

    ``text``: the prompt. ``images``: their number in one call. ``largest``: the largest (width, height) of the images,
    None where it is not known: then they count as squares of ``longest_side``. ``replies``: those that came before.
    """
    if options.is_world:
        return CallEstimate(calls, 0.0, 0.0)
    minutes, prices = calls / options.requests_per_minute, options.prices
    if not prices.by_token:
        return CallEstimate(calls, minutes, None if prices.call is None else prices.call * calls)

    # The server's own counts, where it has answered before.
    counted = [tokens for reply in replies if (tokens := CallTokens.of_usage(reply.usage)) is not None]
    if counted:
        tokens = CallTokens(fmean(one.input for one in counted), fmean(one.output for one in counted))
        basis = f"in the mean of the {len(counted)} replies so far"
    else:
        side = options.longest_side or 1024
        tokens = CallTokens.by_rule(
            text, [options.sent_size(largest or (side, side))] * images, options.max_tokens
        )
        basis = "by rule, with replies of max_tokens: an upper estimate"
    cost = prices.cost(tokens)
    assert cost is not None
    words = f" ({tokens.input:.0f} input and {tokens.output:.0f} output tokens a call, {basis})"
    return CallEstimate(calls, minutes, cost * calls, words)


class Bill:
    """Limit and sum of the costs of the calls of one command. Threads share it."""

    def __init__(self, options: JudgeOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        # A server may count more tokens than the rule: the largest ratio so far.
        self._factor = 1.0
        self.input = self.output = 0
        """Tokens of the replies so far, by the server's count."""
        self.cost = 0.0
        """Price of the replies so far."""
        self.uncounted = 0
        """Replies with a price by token and without a count, which have the largest cost that they may have."""

    def reserve(self, text: str, sizes: Sequence[Size]) -> float | None:
        """The most that a call may cost. None without a price."""
        rule = CallTokens.by_rule(text, sizes, self._options.max_tokens)
        with self._lock:
            return self._options.prices.cost(CallTokens(rule.input * self._factor, rule.output))

    def add(
        self, usage: Mapping[str, Any] | None, reserved: float | None, text: str, sizes: Sequence[Size]
    ) -> float:
        """Counts a reply. Returns its price, which is the reserved one where the server does not count."""
        tokens = CallTokens.of_usage(usage)
        cost = self._options.prices.cost(tokens)
        with self._lock:
            if tokens is not None:
                rule = CallTokens.by_rule(text, sizes, self._options.max_tokens)
                self._factor = max(self._factor, tokens.input / max(rule.input, 1))
                self.input += round(tokens.input)
                self.output += round(tokens.output)
            self.uncounted += cost is None and reserved is not None
            price = (reserved or 0.0) if cost is None else cost
            self.cost += price
        return price

    def line(self, calls: int) -> str:
        """The tokens and the cost in words. Empty where nothing is known of them."""
        parts = []
        if self.input or self.output:
            parts.append(f"{self.input} input and {self.output} output tokens")
        if self._options.prices.given and calls:
            bound = f" at most ({self.uncounted} replies without a count)" if self.uncounted else ""
            parts.append(f"cost{bound} {money(self.cost)}")
        return ", ".join(parts)


def money(cost: float) -> str:
    """Two decimals, or three significant digits of a smaller cost."""
    return f"{cost:.2f}" if cost >= 0.1 or cost == 0 else f"{cost:.3g}"


def spent(prices: Prices, replies: Iterable[Reply]) -> dict[str, Any]:
    """Calls, tokens and cost of stored replies that were paid for by this run, for the judge's description."""
    paid = [reply for reply in replies if not reply.shared and reply.text is not None]
    tokens = [CallTokens.of_usage(reply.usage) for reply in paid]
    costs = [prices.cost(one) for one in tokens]
    return {
        "calls": len(paid),
        "input_tokens": round(sum(one.input for one in tokens if one is not None)),
        "output_tokens": round(sum(one.output for one in tokens if one is not None)),
        # Calls without a reply, and replies without a count, are not in it.
        "cost": sum(cost for cost in costs if cost is not None) if prices.given else None,
    }
