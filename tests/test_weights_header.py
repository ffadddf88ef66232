"""The header of a safetensors file, compared with the library that defines it."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cvft.weights.header import ShortFileError, make_header, read_header

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.zeros((0, 4), np.float16),
    "ü": np.ones((), np.float64),
}
NAMES = {"float16": "F16", "float32": "F32", "float64": "F64"}


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "np"})
    header = read_header(path)
    assert header.metadata == {"format": "np"}
    assert (header.find_gap(), header.end, header.num_file_bytes) == (None, path.stat().st_size, path.stat().st_size)
    data = path.read_bytes()
    for entry in header.entries:
        array = TENSORS[entry.name]
        assert (entry.shape, entry.dtype, data[entry.begin : entry.end]) == (
            array.shape,
            NAMES[array.dtype.name],
            array.tobytes(),
        )
    assert len(header.entries) == len(TENSORS)


@pytest.mark.parametrize("num_bytes", [None, 4096])
def test_what_is_made_is_read_by_the_library(tmp_path, num_bytes):
    path = tmp_path / "x.safetensors"
    described = [(name, NAMES[array.dtype.name], array.shape) for name, array in TENSORS.items()]
    head = make_header(described, {"format": "np"}, num_bytes=num_bytes)
    assert len(head) == (num_bytes or len(head))
    assert len(head) % 8 == 0
    path.write_bytes(head + b"".join(array.tobytes() for array in TENSORS.values()))
    loaded = load_file(path)
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in TENSORS.items()}
    assert read_header(path).num_bytes == len(head)


def test_a_header_that_needs_more_room_is_refused():
    with pytest.raises(ValueError, match=r"a header of \d+ bytes, with room for 8"):
        make_header([("a", "F32", (1,))], {}, num_bytes=16)


def as_file(text: str, more: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + more


@pytest.mark.parametrize(
    "data",
    [
        as_file(""),
        as_file("[]"),
        as_file("{}" + "[" * 10**5),
        as_file("[" * 10**5),
        as_file('{"a": 1}'),
        as_file('{"a": {"dtype": "F32", "shape": [1]}}'),
        as_file('{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}'),
        as_file('{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}'),
        as_file('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}'),
        (4).to_bytes(8, "little") + b"\xff\xff\xff\xff",
    ],
)
def test_what_is_no_header_is_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all that may come out
        read_header(tmp_path / "x")
    assert type(caught.value) is not ShortFileError


@pytest.mark.parametrize("data", [b"", b"12345", (10**18).to_bytes(8, "little") + b"{}", as_file("{}")[:-1]])
def test_a_file_without_a_whole_header_is_told_from_a_broken_one(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ShortFileError, match=f"{len(data)} bytes, too few for its header"):
        read_header(tmp_path / "x")


def test_a_gap_is_found(tmp_path):
    text = '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'
    (tmp_path / "x").write_bytes(as_file(text, bytes(8)))
    header = read_header(tmp_path / "x")
    assert header.find_gap() == (header.entries[0], header.num_bytes)
