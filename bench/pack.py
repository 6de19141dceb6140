"""CIFAR-10 in half the room, without loss: `python -m bench.pack FOLDER PACKED`, and back: `... --unpack PACKED FOLDER`.

For machines that take a data set in small parcels: each batch file of 10,000 images becomes a lossless WebP mosaic with a
text chunk of its labels, 17 MB in place of 31. What is unpacked is byte for byte what was packed, and the loader checks its
sha256. Other data sets here are small as they come (Fashion-MNIST: 31 MB).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.cifar import RECORD, TEST, TRAIN, parse_batch
from bench.data.whole import read_whole
from bench.script import answered
from bench.store import write_atomic
from paradigms.errors import BadInput

__all__ = ["pack", "unpack"]

SIDE = 32
LARGEST = 10_000 * RECORD + (1 << 20)  # bytes of a batch, packed or not


def pack(batch: bytes, where: str) -> bytes:
    """A binary batch as one file: 4 bytes with the number of images, their labels, and the mosaic, one column of images.

    Raises BadInput for what is no batch.
    """
    pixels, labels = parse_batch(batch, where)
    n = len(pixels)
    across = _across(n)
    tiles = pixels.reshape(n // across, across, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    mosaic = Image.fromarray(np.ascontiguousarray(tiles.reshape(n // across * SIDE, across * SIDE, 3)), "RGB")
    buffer = io.BytesIO()
    mosaic.save(buffer, "WEBP", lossless=True, quality=50, method=4)
    return n.to_bytes(4, "big") + labels.tobytes() + buffer.getvalue()


def unpack(packed: bytes, where: str) -> bytes:
    """The binary batch that `pack` was given. Raises BadInput for what it did not write."""
    n = int.from_bytes(packed[:4], "big")
    labels = np.frombuffer(packed[4 : 4 + n], np.uint8)
    try:
        if not n or len(labels) != n:
            raise ValueError
        mosaic = np.asarray(Image.open(io.BytesIO(packed[4 + n :]), formats=("WEBP",)).convert("RGB"))
        across = _across(n)
        tiles = mosaic.reshape(n // across, SIDE, across, SIDE, 3).transpose(0, 2, 4, 1, 3)
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError):
        raise BadInput(f"{where} is damaged, or was not packed by this program; pack the batch again") from None
    return np.concatenate([labels[:, None], tiles.reshape(n, -1)], axis=1).tobytes()


def _across(n: int) -> int:
    """Images in a row of the mosaic: the largest divisor of n up to 100, as no side may be longer than 16,383 pixels."""
    return next(k for k in range(100, 0, -1) if n % k == 0)


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="a folder with batches, whole or packed; those that it has are taken")
    parser.add_argument("to", type=Path, help="a folder")
    parser.add_argument("--unpack", action="store_true")
    given = parser.parse_args(arguments)
    done = 0
    for name in (*TRAIN, *TEST):
        packed = Path(name).with_suffix(".packed").name
        source, to = (
            (given.source / packed, given.to / name) if given.unpack else (given.source / name, given.to / packed)
        )
        if not source.exists():
            continue
        data = (unpack if given.unpack else pack)(read_whole(source, LARGEST), str(source))
        write_atomic(to, data)
        print(f"{to}: {len(data):,} bytes")
        done += 1
    if not done:
        kind = "packed batches" if given.unpack else "batches of CIFAR-10's binary version"
        raise BadInput(f"{given.source} has no {kind} ({', '.join((*TRAIN, *TEST))})")


if __name__ == "__main__":
    sys.exit(main())
