"""Samples as a picture and as files: a grid, an archive, a folder of PNGs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data import Dataset
from bench.scores.pools import Pool
from bench.store import put, write_atomic, write_manifest
from paradigms.core.data import Space
from paradigms.standardise import column_units
from reports.layout import GRID, SAMPLES

__all__ = ["grid_png", "in_columns", "keep", "kept_of", "write_samples"]

KEPT_IMAGES = 64  # samples kept of images
KEPT_VECTORS = 2_000  # and of vectors, for the report's scatter plots


def in_columns(x: Tensor, found: Dataset) -> Tensor:
    """Vectors (N, D) in units of the training part's columns, as float64; images as they are."""
    if found.space.is_image:
        return x
    o, u = column_units(found.train.x)
    return (x.double() - o) / u


def grid_png(x: Tensor, space: Space, columns: int = 8, size: int = 640) -> bytes:
    """Images (N, C, H, W), integers, as a PNG `columns` wide, enlarged by a whole factor to about `size` pixels.

    Vectors (N, D), in units of the data's columns: their first two coordinates as dots.
    """
    if not space.is_image:
        return _png(Image.fromarray(_scatter(x.double().numpy(), size)))
    n, channels, height, width = x.shape
    rows = -(-n // columns)
    tiles = torch.full((rows * columns, channels, height + 1, width + 1), 255, dtype=torch.uint8)
    tiles[:n, :, :height, :width] = to_bytes(x, space)
    page = tiles.view(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    page = page.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    array = page.expand(-1, -1, 3).numpy() if channels == 1 else page.numpy()
    image = Image.fromarray(np.ascontiguousarray(array))
    factor = max(1, size // image.width)
    return _png(image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST))


def to_bytes(x: Tensor, space: Space) -> Tensor:
    """Integers 0 ... L - 1 to grey values 0 ... 255, evenly spread; bytes stay what they are."""
    return (x.double() * 255 / (space.levels - 1)).round().to(torch.uint8)


def _scatter(points: np.ndarray, size: int, reach: float = 2.5) -> np.ndarray:
    """Dots in [-reach, reach]^2, darker where more of them fall; (N, 1) in the middle of it."""
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=size // 2, range=[[-reach, reach]] * 2)
    grey = 1 - np.minimum(1.0, counts[::-1] / max(1.0, np.quantile(counts[counts > 0], 0.9) if counts.any() else 1.0))
    shade = np.stack([grey, 0.35 + 0.65 * grey, 0.6 + 0.4 * grey], axis=-1)
    return np.repeat(np.repeat((255 * shade).astype(np.uint8), 2, axis=0), 2, axis=1)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """A compressed archive of the arrays, as `numpy.savez_compressed` writes it."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def write_samples(pool: Pool, space: Space, to: Path, units: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """Writes a pool into a grid (.png), an archive (.npz: samples, labels) or, without a suffix, a folder of one PNG each."""
    if to.suffix.lower() == ".png":
        write_atomic(to, grid_png(units(pool.x), space, columns=max(1, math.isqrt(len(pool.x) - 1) + 1)))
    elif to.suffix.lower() == ".npz":
        write_atomic(to, npz(**_arrays(pool, len(pool.x))))
    else:
        digits = max(5, len(str(len(pool.x) - 1)))
        for index, image in enumerate(to_bytes(pool.x, space)):
            array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
            write_atomic(to / f"{index:0{digits}d}.png", _png(Image.fromarray(array)))


def _arrays(pool: Pool, n: int) -> dict[str, np.ndarray]:
    return {"samples": pool.x[:n].numpy()} | ({} if pool.y is None else {"labels": pool.y[:n].numpy()})


def kept_of(found: Dataset) -> int:
    """How many samples of such data are kept."""
    return KEPT_IMAGES if found.space.is_image else KEPT_VECTORS


def keep(folder: Path, pool: Pool, found: Dataset) -> None:
    """Keeps the first samples of a pool, not chosen, in a folder: as a picture and as numbers for the report."""
    kept = kept_of(found)
    grid, numbers = grid_png(in_columns(pool.x[:kept], found), found.space), npz(**_arrays(pool, kept))
    write_manifest(folder, {GRID: put(folder / GRID, grid), SAMPLES: put(folder / SAMPLES, numbers)})
