"""Estimates that single outliers do not move. Numpy alone: the measuring side needs them, and does without scipy."""

import numpy as np
import numpy.typing as npt


def deviation(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the standard deviation along the last axis that a normal distribution of the same median deviation has."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(1.4826 * np.median(np.abs(array - np.median(array, axis=-1, keepdims=True)), axis=-1))
