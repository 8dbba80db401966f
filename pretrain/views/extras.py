"""What a method may ask the loader to bring besides views."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretrain.views.crops import Crop


class LoaderExtra(Protocol):
    """Makes one array per image in the loader's workers; it is pickled to them."""

    def __call__(
        self, position: int, size: tuple[int, int], crops: Sequence[Crop], rng: np.random.Generator
    ) -> np.ndarray:
        """Return an array whose shape is the same for all images.

        Args:
            position: of the image in the dataset.
            size: height and width of the image in pixels.
            crops: of its V views.
            rng: source of the randomness, fixed by (seed, epoch, position).
        """
        ...
