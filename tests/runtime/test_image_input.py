"""Every form of a photo that Python callers have gives the same pixels, or is refused by name."""

from io import BytesIO, StringIO

import numpy as np
import pytest
import torch
from PIL import Image

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.image_input import as_photo


def png(photo):
    Image.fromarray(photo).save(file := BytesIO(), "PNG")
    return file.getvalue()


def test_forms_of_one_photo(flag, flag_file):
    with flag_file.open("rb") as file:
        forms = [
            *(flag, flag.copy(order="F"), flag_file, str(flag_file), png(flag), bytearray(png(flag)), file),
            *(BytesIO(png(flag)), Image.fromarray(flag), torch.from_numpy(flag)),
            *(torch.from_numpy(flag).permute(2, 0, 1), memoryview(png(flag))),
        ]
        for form in forms:
            np.testing.assert_array_equal(as_photo(form), flag)


def test_bgr_is_turned_to_rgb(flag):
    np.testing.assert_array_equal(as_photo(flag[:, :, ::-1], channels="bgr"), flag)
    np.testing.assert_array_equal(as_photo(torch.from_numpy(flag[:, :, ::-1].copy()), channels="bgr"), flag)
    grey = flag[:, :, 0]
    np.testing.assert_array_equal(as_photo(grey, channels="bgr"), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "the photo is NoneType: expected a path, a URL, bytes"),
        (3, "the photo is int"),
        ({"a": 1}, "the photo is dict"),
        (b"", "the file is empty; get it again"),
        (b"hello", "not a photo, or of a format that Pillow cannot read; convert it to PNG or JPEG"),
        (StringIO("text"), "the file is open in text mode"),
        (np.zeros((4, 4, 3)), "the array is float64 with shape"),
        (np.zeros((3, 4, 4), np.uint8), r"the array is uint8 with shape \(3, 4, 4\)"),
        (torch.zeros(4, 4, 3), "the array is float32 with shape"),
        (torch.zeros(4, 4, 3, dtype=torch.bfloat16), "the tensor cannot be read"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"), "the tensor cannot be read"),
    ],
)
def test_what_is_no_photo(image, message):
    with pytest.raises(PhotoError, match=message):
        as_photo(image)


def test_channels_that_cannot_be(flag, flag_file):
    with pytest.raises(PhotoError, match="channels='bgr' is for arrays and tensors, got"):
        as_photo(flag_file, channels="bgr")
    with pytest.raises(PhotoError, match="channels are 'gbr': expected 'rgb' or 'bgr'"):
        as_photo(flag, channels="gbr")
