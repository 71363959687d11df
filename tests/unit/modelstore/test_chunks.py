"""Where models are cut: everything once, nothing twice, and at the same places when something else has changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError
from builder.modelstore.chunks import cut, gguf_boundaries, pieces
from builder.modelstore.manifest import Chunk
from tests import gguf


def check_cover(content: bytes, sha256: str, chunks: tuple[Chunk, ...]) -> None:
    assert hashlib.sha256(content).hexdigest() == sha256
    assert b"".join(content[chunk.off : chunk.off + chunk.len] for chunk in chunks) == content
    assert [chunk.off for chunk in chunks] == sorted({chunk.off for chunk in chunks})
    for chunk in chunks:
        assert hashlib.sha256(content[chunk.off : chunk.off + chunk.len]).hexdigest() == chunk.sha256


@given(st.sets(st.integers(1, 5000)), st.integers(5001, 9000), st.integers(1, 3000))
def test_pieces_cover_everything_once(boundaries: set[int], size: int, longest: int) -> None:
    found = list(pieces([0, *sorted(boundaries)], size, longest))
    assert [offset for offset, _ in found] == [0, *(offset + length for offset, length in found)][:-1]
    assert sum(length for _, length in found) == size
    assert all(0 < length <= longest for _, length in found)
    assert boundaries <= {offset for offset, _ in found}


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 700))
def test_any_file_is_cut_whole(content: bytes, fixed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.bin"
        path.write_bytes(content)
        sha256, chunks = cut(path, fixed=fixed)
    check_cover(content, sha256, chunks)
    assert all(chunk.len <= fixed for chunk in chunks)


@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=8),
    st.text(max_size=300),
    st.integers(0, 40),
    st.integers(64, 512),
)
def test_any_gguf_file_is_cut_at_its_tensors(sizes: list[int], template: str, words: int, longest: int) -> None:
    weights = {f"t{number}": os.urandom(size) for number, size in enumerate(sizes)}
    weights["last"] = b"end"
    with tempfile.TemporaryDirectory() as directory:
        path = gguf.write(Path(directory) / "model.gguf", weights, template=template, words=words)
        content = path.read_bytes()
        sha256, chunks = cut(path, longest=longest)
    check_cover(content, sha256, chunks)
    begins = {content[chunk.off :][:900] for chunk in chunks}
    for weight in weights.values():
        assert not weight or any(begin.startswith(weight[: min(len(weight), longest)]) for begin in begins)


@given(st.binary(max_size=200))
def test_garbage_after_the_magic_is_told_or_cut(garbage: bytes) -> None:
    content = b"GGUF" + struct.pack("<I", 3) + garbage
    with contextlib.suppress(InputError):
        boundaries = gguf_boundaries(io.BytesIO(content), len(content))
        assert boundaries is None or boundaries == sorted({0, *boundaries})


def test_a_changed_header_and_a_changed_tensor_leave_the_others_alone(tmp_path: Path) -> None:
    weights = gguf.tensors(8, 5000)
    old = cut(gguf.write(tmp_path / "1.gguf", weights, words=9000))[1]
    weights["blk.3.weight"] = os.urandom(5000)
    new = cut(gguf.write(tmp_path / "2.gguf", weights, words=9000, template="longer than before"))[1]
    assert len({chunk.off for chunk in old} & {chunk.off for chunk in new}) == 1
    lacking = [chunk for chunk in new if chunk.sha256 not in {chunk.sha256 for chunk in old}]
    assert sum(chunk.len for chunk in lacking) < 5000 + 1000  # the vocabulary alone is longer


def test_a_large_tensor_is_split(tmp_path: Path) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(2, 10_000))
    lengths = [chunk.len for chunk in cut(path, longest=4096)[1]]
    assert lengths[1:] == [4096, 4096, 1824, 4096, 4096, 1824]  # each tensor is padded to 10,016


@pytest.mark.parametrize("version", [1, 4, 0x03000000])
def test_other_versions_are_cut_at_fixed_lengths(version: int, tmp_path: Path) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(2, 10_000), version=version)
    assert {chunk.len for chunk in cut(path, fixed=1000)[1][:-1]} == {1000}


@pytest.mark.parametrize("kept", [30, 100, 200, 330, -100])
def test_a_file_that_is_broken_off_is_refused(kept: int, tmp_path: Path) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(2, 10_000))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a whole GGUF file"):
        cut(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.gguf"
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        cut(path)
