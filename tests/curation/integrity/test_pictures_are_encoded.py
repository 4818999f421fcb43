"""A picture that was decoded is stored, or the job stops: a file that was not written is not a picture."""

from __future__ import annotations

import numpy as np
import pytest

from curation.images.decode import MAX_SIDE, encode
from pairmill.errors import IntegrityError


def test_a_picture_that_cannot_be_encoded_stops_the_job() -> None:
    too_wide = np.zeros((1, MAX_SIDE["webp"] + 1, 3), np.uint8)
    with pytest.raises(IntegrityError, match=r"must be encodable.*16384.* as webp"):
        encode(too_wide, format="webp", quality=90, chroma="444")
