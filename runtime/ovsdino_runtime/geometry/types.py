"""Array types that the rooms of the runtime share."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Photo = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]  # (H, W): a class, from 0
Scores = npt.NDArray[np.float16]  # (H, W): confidence in 0..1
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Truth = npt.NDArray[np.int32]  # (H, W): a class, or IGNORED
