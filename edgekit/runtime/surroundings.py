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
    """Time of one run in milliseconds, without that of a product's own kernel."""
    inputs: Sequence[int]
    """Positions in the list of the operations that make its inputs."""
    product: int | None
    """Position in `Profile.ops` if it is a product."""
    moves: bool
    """Whether it only converts, pads or rearranges values."""
    converted: int = 0
    """Number of values that it converts between float and 8 bits."""


def with_surroundings(profile: Profile, ran: Sequence[Ran]) -> Profile:
    """Add the time of every operation to its product; what has none stays in `time_by_kind` alone."""
    around = [0.0] * len(profile.ops)
    for op, owner in zip(ran, owners(ran), strict=True):
        if owner is not None:
            around[owner] += op.ms
    ops = tuple(replace(op, around_ms=ms) for op, ms in zip(profile.ops, around, strict=True))
    values = sum(op.converted for op in ran)
    spent = sum(op.ms for op in ran if op.converted)
    return replace(profile, ops=ops, conversion_ns=spent * 1e6 / values if spent else None)


def owners(ran: Sequence[Ran]) -> list[int | None]:
    """Position in `Profile.ops` of the product to which each operation belongs; None for one without a product near it.

    What only moves values belongs to the product that reads them. Everything else, and what moves values to something
    else than a product, belongs to the last product before it, or at the start of a network to the first one after it.
    """
    makers: list[int | None] = []
    for index, op in enumerate(ran):
        before = [makers[place] for place in op.inputs if place < index]
        last = max((maker for maker in before if maker is not None), default=None)
        makers.append(last if op.product is None else index)
    movers = [replace(op, inputs=op.inputs if op.moves or op.product is not None else ()) for op in ran]
    readers, followers = _first_readers(movers), _first_readers(ran)
    choices = (
        (index,) if op.product is not None else (readers.get(index) if op.moves else None, maker, followers.get(index))
        for index, (op, maker) in enumerate(zip(ran, makers, strict=True))
    )
    return [next((ran[place].product for place in places if place is not None), None) for places in choices]


def _first_readers(ran: Sequence[Ran]) -> dict[int, int]:
    """Position of the first product that reads what an operation makes, also through others, by the operation's."""
    first: dict[int, int] = {}
    for index in reversed(range(len(ran))):
        reader = first.get(index) if ran[index].product is None else index
        if reader is not None:
            first.update((place, min(reader, first.get(place, reader))) for place in ran[index].inputs)
    return first
