"""Whatever a pipeline hands back becomes float frames in 0..1."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bwcache.measure.frames import as_frames

BYTES = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
EXPECTED = BYTES.astype(np.float32) / 255


@pytest.mark.parametrize(
    "video",
    [EXPECTED, EXPECTED.astype(np.float64), BYTES, list(EXPECTED), [Image.fromarray(frame) for frame in BYTES]],
    ids=["float32", "float64", "bytes", "list of arrays", "pictures"],
)
def test_a_video_of_any_kind(video):
    found = as_frames(SimpleNamespace(frames=[video]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)


def test_a_picture_is_a_video_of_one_frame():
    np.testing.assert_allclose(as_frames(SimpleNamespace(images=[Image.fromarray(BYTES[0])])), EXPECTED[:1], atol=1e-6)


def test_what_is_no_video_says_its_shape():
    with pytest.raises(ValueError, match=r"shape \(3, 2, 4, 5\)"):
        as_frames(SimpleNamespace(frames=[EXPECTED.transpose(3, 0, 1, 2)]))
