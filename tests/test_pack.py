"""CIFAR-10 packed and unpacked is byte for byte what it was."""

from __future__ import annotations

import numpy as np
import pytest

from bench import pack
from bench.data.cifar import RECORD
from paradigms.errors import BadInput


def batch(n: int) -> bytes:
    """Smooth images, as photographs are, with labels."""
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(n, 3, 32, 32)).cumsum(2).cumsum(3)
    low, high = fields.min((1, 2, 3), keepdims=True), fields.max((1, 2, 3), keepdims=True)
    pixels = (255 * (fields - low) / (high - low)).astype(np.uint8)
    labels = rng.integers(10, size=(n, 1)).astype(np.uint8)
    return np.concatenate([labels, pixels.reshape(n, -1)], axis=1).tobytes()


@pytest.mark.parametrize("n", [200, 150, 7])
def test_nothing_is_lost_and_room_is_saved(n):
    whole = batch(n)
    packed = pack.pack(whole, "data_batch_1.bin")
    assert pack.unpack(packed, "data_batch_1.packed") == whole
    assert len(whole) == n * RECORD
    assert len(packed) < 0.7 * len(whole)


def test_the_program_packs_what_is_there_and_unpacks_it(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for name in ("data_batch_2.bin", "test_batch.bin"):
        (tmp_path / "a" / name).write_bytes(batch(100))
    assert pack.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert pack.main(["--unpack", str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    for name in ("data_batch_2.bin", "test_batch.bin"):
        assert (tmp_path / "c" / name).read_bytes() == batch(100)
    assert pack.main([str(tmp_path / "b"), str(tmp_path / "d")]) == 2
    assert "has no batches" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x05abc", b"\0\0\0\x01\x03no image"])
def test_what_was_not_packed_is_refused(data):
    with pytest.raises(BadInput, match="pack the batch again"):
        pack.unpack(data, "x.packed")
