"""Pairs of INT8 weights whose products x86 processors without VNNI add in 16 bits.

Their instruction VPMADDUBSW multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits, where a
sum beyond 32767 saturates. A pair of weights can't saturate for any input if the sum of both is within ±128, because
255 * 128 fits into 16 bits and 255 * 129 does not.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST_SUM = 128
"""Largest absolute sum of two weights that can't saturate."""
_MEMORY_BYTES = 1 << 26
"""Memory for the sums of the output channels that are counted at once."""


def pairings(shape: Sequence[int], groups: int = 1) -> list[NDArray[np.int64]]:
    """The pairs that kernels make of the inputs of a layer whose weight has this shape, [out,in] or [out,in,*kernel].

    Each pairing is an array [pairs,2] of indices into `weight.reshape(out, -1)`, within a group. Kernels put channels
    last. Some of them count inputs through all positions of a convolution's kernel, others start anew at each position,
    which is another pairing if the number of channels is odd. A depthwise convolution is computed in 32 bits, so it has
    no pairs.
    """
    if shape[1] == 1 and shape[0] == groups > 1:
        return []
    channels, positions = shape[1], math.prod(shape[2:])
    inputs = np.arange(channels * positions).reshape(channels, positions).T
    through, anew = (rows[:, : rows.shape[1] // 2 * 2].reshape(-1, 2) for rows in (inputs.reshape(1, -1), inputs))
    return [through] if np.array_equal(through, anew) else [through, anew]


def count_saturating(levels: NDArray[np.int8], groups: int = 1) -> int:
    """Number of pairs that can saturate in a layer with these INT8 weights, [out,in] or [out,in,*kernel]."""
    ways = pairings(levels.shape, groups)
    pairs = np.unique(np.concatenate(ways), axis=0) if ways else np.empty((0, 2), np.int64)
    rows = levels.reshape(len(levels), -1)
    at_once = max(1, _MEMORY_BYTES // max(1, 2 * rows.shape[1]))
    count = 0
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once].astype(np.int16)
        count += int((np.abs(part[:, pairs[:, 0]] + part[:, pairs[:, 1]]) > LARGEST_SUM).sum())
    return count
