"""The handwritten digits that ship with scikit-learn: real data that needs no download.

1,797 images of 8x8 pixels with grey levels 0..16, the test part of "Optical Recognition of Handwritten
Digits" (Alpaydin & Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0).
"""

import numpy as np

from nenni_core.data.raw import RawDataset
from nenni_core.errors import InputError

TEST_IMAGES = 540
LEVELS = 16


def load_digits() -> RawDataset:
    """The digits with grey levels scaled to 0..255: `round(v * 255 / 16)`.

    The split is fixed: the last 540 images, in the order of the file, are the test images. The file
    goes writer by writer, so they are mostly from writers that the first 1,257 do not have, which a
    random split would not give.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as embedded_digits
    except ImportError as error:
        raise InputError(
            "data set 'digits' needs scikit-learn, which is not installed; expected: pip install scikit-learn"
        ) from error
    bunch = embedded_digits()
    levels = np.asarray(bunch.images)
    assert levels.shape == (1797, 8, 8), levels.shape
    assert levels.min() >= 0
    assert levels.max() <= LEVELS
    images = np.rint(levels * (255 / LEVELS)).astype(np.uint8)[:, None]
    labels = np.asarray(bunch.target).astype(np.int64)
    return RawDataset(
        name="digits",
        train_images=images[:-TEST_IMAGES].copy(),
        train_labels=labels[:-TEST_IMAGES].copy(),
        test_images=images[-TEST_IMAGES:].copy(),
        test_labels=labels[-TEST_IMAGES:].copy(),
        class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        source="Optical Recognition of Handwritten Digits, as embedded in scikit-learn",
    )
