"""Checks a paper for contradictions: its cells are compared with each other and with its sentences."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal

from reports.tables.paper import Paper, Reported, Statement


def check_paper(paper: Paper) -> list[str]:
    """One line per inconsistency, with both values and their places.

    They are, in this order:

    * cells of one quantity that differ by more than rounding, or that are figures of different kinds,
    * values without a data set that equal none of those with one,
    * shares that do not add up,
    * ratios that no two cells have,
    * compared methods that no table has.
    """
    return [
        *_contradictions(paper),
        *_values_without_data_set(paper),
        *_sums(paper),
        *(
            line
            for statement in paper.statements
            # A sentence with a number is checked against the cells, one without against the methods of the tables.
            for line in (_ratios if statement.ratio is not None else _compared)(statement, paper)
        ),
    ]


def agree(a: Reported, b: Reported) -> bool:
    """True where two values may be the same number, rounded to different digits."""
    # Two values of equally many digits were rounded alike, so they must be equal. Else the coarser one may be off
    # by half a unit of its last digit.
    same_digits = a.decimals == b.decimals
    return abs(a.value - b.value) <= (0 if same_digits else max(a.rounding, b.rounding))


def _contradictions(paper: Paper) -> Iterator[str]:
    """Cells of the same quantity, category, method and data set that differ."""
    groups: dict[tuple[str, str | None, str, str | None], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        # The place is not in the key: the same number in two places is what is compared.
        key = (paper.one_name(cell.quantity), cell.category, paper.one_name(cell.method), cell.dataset)
        groups[key].append(cell)
    for a, b in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups.values()):
        # A share of votes and a share of comparisons can both be right, so their values are not compared.
        if a.kind != b.kind:
            yield (
                f"{_name(a)}: {_value(a, paper)} ({a.where}) and {_value(b, paper)} ({b.where}) are figures of "
                f"different kinds: {a.kind or 'not said which'}; {b.kind or 'not said which'}"
            )
        elif not agree(a, b):
            other_name = f" ({b.method})" if b.method != a.method else ""
            yield f"{_name(a)}: {_value(a, paper)} in {a.where}, but {_value(b, paper)} in {b.where}{other_name}"


def _values_without_data_set(paper: Paper) -> Iterator[str]:
    for cell in paper.cells:
        # An abstract often leaves the data set out. Its value must then be that of one of the data sets.
        if cell.dataset is not None:
            continue
        candidates = [
            other
            for other in paper.cells
            if other.dataset is not None
            and _identity(other, paper) == _identity(cell, paper)
            and other.kind == cell.kind
        ]
        if candidates and not any(agree(cell, other) for other in candidates):
            values = "; ".join(f"{_value(o, paper)} on {o.dataset} ({o.where})" for o in candidates)
            yield f"{_name(cell)}: {_value(cell, paper)} in {cell.where}, which no data set has: {values}"


def _identity(cell: Reported, paper: Paper) -> tuple[str, str, str | None]:
    return paper.one_name(cell.method), paper.one_name(cell.quantity), cell.category


def _sums(paper: Paper) -> Iterator[str]:
    """Shares of one choice that do not add up."""
    # Where one place gives shares of one choice, another place's values of the same quantity must be shares too.
    totals = {
        paper.one_name(name): (quantity.sums_to, name)
        for name, quantity in paper.quantities.items()
        if quantity.sums_to is not None
    }
    groups: dict[tuple[str, str, str | None, str | None, str], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        groups[cell.place, cell.quantity, cell.dataset, cell.category, cell.kind].append(cell)
    for (_, quantity, dataset, _, _), cells in groups.items():
        expected, shares = totals.get(paper.one_name(quantity), (None, ""))
        # A single share is not the whole choice.
        if expected is None or len(cells) < 2:
            continue
        # Each value may be off by its rounding.
        total = sum((cell.value for cell in cells), Decimal(0))
        slack = sum((cell.rounding for cell in cells), Decimal(0))
        if abs(total - expected) > slack:
            on = f" on {dataset}" if dataset else ""
            yield (
                f"{quantity}{on}: the values of {cells[0].where} sum to {total}; shares, as {shares} is, "
                f"to {expected}"
            )


def _ratios(statement: Statement, paper: Paper) -> Iterator[str]:
    """A line where no two cells have the stated ratio, to the digits of the statement."""
    assert statement.ratio is not None
    # The method's own values of the quantity, under any of its names.
    quantity = paper.one_name(statement.quantity)
    method = paper.one_name(statement.method)
    own = [
        cell
        for cell in paper.cells
        if (paper.one_name(cell.method), paper.one_name(cell.quantity)) == (method, quantity)
    ]
    # The method's value over that of every other method beside it.
    ratios = [
        (cell.value / other.value, other)
        for cell in own
        for other in paper.cells
        if (other.place, other.quantity, other.dataset, other.category)
        == (cell.place, cell.quantity, cell.dataset, cell.category)
        and paper.one_name(other.method) != method
        # Nothing is a multiple of 0.
        and other.value > 0
    ]
    # The statement's digits say how exactly a ratio must agree.
    exponent = statement.ratio.as_tuple().exponent
    half = Decimal(5).scaleb((exponent if isinstance(exponent, int) else 0) - 1)
    # One ratio that agrees is enough, since such a sentence rarely says which data set it is about.
    if ratios and all(abs(ratio - statement.ratio) > half for ratio, _ in ratios):
        computed = "; ".join(
            f"{ratio:.1f} to {other.method}{f' on {other.dataset}' if other.dataset else ''} ({other.where})"
            for ratio, other in ratios
        )
        yield f'"{statement.quote}" ({statement.place}): the ratios of {quantity} are {computed}'


def _compared(statement: Statement, paper: Paper) -> Iterator[str]:
    """A line where the sentence names methods that no table has a value of."""
    tabled = list(dict.fromkeys(paper.one_name(cell.method) for cell in paper.cells))
    absent = [name for name in statement.compared if paper.one_name(name) not in tabled]
    if absent:
        # `paper.methods` are those that the suite has, the paper's own method among them.
        rest = [name for name in tabled if name not in paper.methods and name not in statement.compared]
        yield (
            f'"{statement.quote}" ({statement.place}): no table has a value of {", ".join(absent)}; '
            f"the tables compare with {', '.join(rest) or 'no other method'}"
        )


def _name(cell: Reported) -> str:
    on = f" on {cell.dataset}" if cell.dataset else ""
    category = f" ({cell.category.replace('_', '-')})" if cell.category else ""
    return f"{cell.quantity}{category} of {cell.method}{on}"


def _value(cell: Reported, paper: Paper) -> str:
    return f"{cell.value} {paper.quantities[cell.quantity].unit}".strip()
