"""What Hypothesis draws for several test files."""

from hypothesis import strategies as st

from edgekit.config.interpolations import INTERPOLATIONS
from edgekit.images.preprocess import CROP_MODES, Preprocessing

UNIT = st.floats(0, 1, allow_subnormal=False)
"""A channel's mean as timm's models have it."""
SPREAD = st.floats(0.05, 1)


def preprocessings(largest: int = 96) -> st.SearchStrategy[Preprocessing]:
    """Every way to crop and scale, for inputs of at most this many pixels a side."""
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
