"""How many images a claim about accuracy needs, as a table for the guide that helps to choose."""

from docs.generate.markdown import table
from edgekit.measure.statistics import images_needed

EXAMPLE = 10_000
"""Images of the imagined evaluation from which the shares below are taken."""


def images_table() -> str:
    """Images to confirm a bound, by the share of images whose answer changes and the drop that is measured."""
    rows = []
    for changed, drop in ((1, 0.0), (1, 0.2), (2, 0.0), (2, 0.2), (4, 0.0), (4, 0.2)):
        lost, won = (round((changed + sign * drop) / 200 * EXAMPLE) for sign in (1, -1))
        counts = (images_needed(lost, won, EXAMPLE, bound / 100) for bound in (2, 1, 0.5))
        rows.append((f"{changed} %", f"{drop:.1f}", *(f"{count:,}" for count in counts)))
    heads = ("answers that change", "measured loss, points", "for 2 points", "for 1 point", "for 0.5 points")
    return table(heads, rows) + "\n"
