"""Attribution of every operation that ran to the product that it belongs to.

A layer in INT8 brings conversions, changes of layout and activations with it, which often take longer than the layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.runtime.profile import Profile


@dataclass(frozen=True)
class Ran:
    """An operation that ran, in a list that is in the order in which they ran."""

    ms: float
    """Time of one run in milliseconds."""
    inputs: Sequence[int]
    """Positions in the list of the operations that make its inputs."""
    product: int | None
    """Position in `Profile.ops` if it is a product."""
    moves: bool
    """Whether it only converts, pads or rearranges values."""
    converted: int = 0
    """Number of values that it converts between float and 8 bits."""


def with_surroundings(profile: Profile, ran: Sequence[Ran]) -> Profile:
    """Add the time of every operation that ran to the product that it belongs to.

    What only moves values belongs to the product that reads them. Everything else, and what moves values to something
    else than a product, belongs to the last product before it, or at the start of a network to the first one after it.
    The time of an operation that no product makes or reads stays in `time_by_kind` alone.
    """
    makers: list[int | None] = []
    for index, op in enumerate(ran):
        makers.append(index if op.product is not None else _last(makers, op.inputs))
    readers, next_products = _first_readers(ran, only_moves=True), _first_readers(ran, only_moves=False)
    around = [0.0] * len(profile.ops)
    for index, op in enumerate(ran):
        owners = (readers[index] if op.moves else None, makers[index], next_products[index])
        owner = next((ran[place].product for place in owners if place is not None), None)
        if op.product is None and owner is not None:
            around[owner] += op.ms
    ops = tuple(replace(op, around_ms=ms) for op, ms in zip(profile.ops, around, strict=True))
    values = sum(op.converted for op in ran)
    spent = sum(op.ms for op in ran if op.converted)
    return replace(profile, ops=ops, conversion_ns=spent * 1e6 / values if spent else None)


def _last(makers: Sequence[int | None], inputs: Sequence[int]) -> int | None:
    known = (makers[place] for place in inputs if place < len(makers))
    return max((maker for maker in known if maker is not None), default=None)


def _first_readers(ran: Sequence[Ran], only_moves: bool) -> list[int | None]:
    """Position of the first product that reads what each operation makes, through others or only through moves."""
    first: list[int | None] = [None] * len(ran)
    for index in reversed(range(len(ran))):
        op = ran[index]
        reader = index if op.product is not None else first[index] if op.moves or not only_moves else None
        for place in op.inputs if reader is not None else ():
            first[place] = reader if (earlier := first[place]) is None else min(earlier, reader)
    return first
