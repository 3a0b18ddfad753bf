"""Archives of arrays: what numpy itself would take memory for, run, or fail at in many ways."""

import io
import zipfile

import numpy as np
import pytest

from ovsdino_runtime.base.arrays import read_arrays


def header(text: str) -> bytes:
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def write(path, data: bytes, *, name="a.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return path


def test_arrays_come_back(tmp_path):
    values = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array(["x", "yz"]),
        "c": np.zeros((0, 3), np.float16),
    }
    np.savez_compressed(tmp_path / "x.npz", **values)
    read = read_arrays(tmp_path / "x.npz", values)
    for name, value in values.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (10**12,)}"), "."),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}"), "expected at most"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000,)}"), "1000000 bytes, 128 are"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}") + b"\0" * 10**6, "should have 2"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}") + b"\0" * 16, "object, expected"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"), "."),
        (b"\x93NUMPY\x09\x00", "."),
        (b"", "."),
        (b"no array", "."),
    ],
)
def test_what_lies_about_its_size_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(write(tmp_path / "x.npz", data), ["a"], max_bytes=10**9)


def test_a_bomb_is_not_unpacked(tmp_path):
    size = 2 << 20
    data = header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}") + bytes(size)
    with pytest.raises(ValueError, match="expected at most 1048576"):
        read_arrays(write(tmp_path / "x.npz", data), ["a"], max_bytes=1 << 20)


def test_what_is_missing_or_damaged_is_refused(tmp_path):
    np.savez(file := io.BytesIO(), a=np.arange(1000))
    data = file.getvalue()
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"There is no item named 'b\.npy'"):
        read_arrays(tmp_path / "x.npz", ["b"])
    for place in range(0, len(data), 97):
        (tmp_path / "x.npz").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            read = read_arrays(tmp_path / "x.npz", ["a"])["a"]
        except ValueError:
            continue
        np.testing.assert_array_equal(read, np.arange(1000))  # a byte that says nothing, or a wrong sum of it
