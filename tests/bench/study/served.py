"""Studies for the app's tests: titles that can be looked for, and texts that a page could stumble over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.edit import EditCase
from bench.executors import LocalExecutor
from bench.plan import make_plan
from bench.registry import Registry
from bench.runner import run
from bench.store import RunStore
from bench.suite import configure_protocol
from tests.bench.fakes import Fakes, make_case, method

# Titles of the compared methods. No library's code contains them.
TITLES = ("Zebrafish Diffusion", "Quokka Inpainting", "Wombat Transformer")

# Markup, emoji with joiners and flags, right-to-left text, mixed text, 2,000 characters, and white space.
ODD = (
    "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script> **bold** $x^2$ & </p>",
    "\U0001f9d1‍\U0001f680 a red hat \U0001f3a9 on a dog \U0001f415 \U0001f1eb\U0001f1ee",
    "אישה עם כובע אדום and עברית",
    "صورة لامرأة ترتدي قبعة حمراء",
    ("a very long text of many words, " * 80)[:1999] + "!",
    "two\nlines   and   spaces",
)


class Odd(Fakes):
    """Every case has one of the odd texts as its target prompt and, reversed in order, as its instruction."""

    name = "odd"

    def cases(self) -> Sequence[EditCase]:
        return [
            make_case(
                index,
                self.canvas,
                target_prompt=ODD[index % len(ODD)],
                instruction=ODD[-1 - index % len(ODD)],
                edit_words=(),
            )
            for index in range(self.options.count)
        ]


REGISTRY = Registry("protocol", {"odd": "tests.bench.study.served:Odd"}, "")


def odd_run(path: Path, *, cases: int = 6) -> Path:
    """A finished run of ``TITLES`` and the oracle on ``Odd``."""
    methods = [method("fake", label=title, strength=1 - 0.3 * index) for index, title in enumerate(TITLES)]
    plan = make_plan(
        [configure_protocol("odd", REGISTRY, options={"count": cases})], [*methods, method("oracle")]
    )
    with RunStore.open(path, create=True) as store:
        assert run(plan, store, LocalExecutor(batch_size=16)).failed == 0
    return path
