"""Hypothesis strategies that several test files use."""

from hypothesis import strategies as st

from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS
from edgekit.images.preprocess import Preprocessing

UNIT = st.floats(0, 1, allow_subnormal=False)
"""Means of a channel in the range of timm's models."""
SPREAD = st.floats(0.05, 1)
"""Standard deviations of a channel."""


def preprocessings(largest: int = 96) -> st.SearchStrategy[Preprocessing]:
    """All kinds of preprocessing for inputs of at most `largest` pixels per side."""
    side = st.integers(8, largest)
    return st.builds(
        Preprocessing,
        height=side,
        width=side,
        interpolation=st.sampled_from(INTERPOLATIONS),
        crop_pct=st.floats(0.5, 1.0),
        crop_mode=st.sampled_from(CROP_MODES),
        mean=st.tuples(UNIT, UNIT, UNIT),
        std=st.tuples(SPREAD, SPREAD, SPREAD),
    )
