"""A folder of anyone's images as a data set: `folder:PATH` or `folder:PATH@SIZE`.

What is done to an image, in this order: the first frame of an animation; EXIF orientation applied; transparency laid on
white; 16-bit grey divided by 257; the largest centred square cut out; resized to SIZE by Pillow's bicubic filter, which
is antialiased when it shrinks; kept as integers 0 to 255. Grey if every image is grey, else RGB.

Labels: where every image lies below at least two subfolders, the first-level subfolders are the classes, in the order
of their names; otherwise there are none.

Split: an image is held out (about one in five) by a hash of its path within the folder, so the split survives moving
the folder and adding images. Images with equal pixels share the side of the first of them by name, so that no copy of a
training image is held out.

The tensors are cached, keyed by the names, sizes and times of all files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import safetensors
import torch
from PIL import Image, ImageOps
from safetensors.torch import save

from bench.data.dataset import Dataset, checksum
from bench.data.files import Progress, cache_folder
from bench.data.names import FolderName
from paradigms.contract import Data, Space
from paradigms.errors import BadInput

__all__ = ["load_folder", "read_image"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
HELD_OUT = 5  # one in so many
LARGEST = 2 << 30  # bytes of decoded images: they are held in memory
VERSION = 1  # of the treatment above; part of the cache's key
SETTLED = 2_000_000_000  # nanoseconds: two changes of a file within a tick of its file system look like one (FAT: 2 s)


def load_folder(name: str, folder: FolderName, progress: Progress | None = None) -> Dataset:
    """The images below `folder.path`, (N, 1 or 3, SIZE, SIZE) uint8."""
    root, size = folder.path, folder.size
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder; write folder:PATH or folder:PATH@SIZE")
    paths = _images(root)
    if not paths:
        raise BadInput(f"{root} holds no images ({', '.join(sorted(s[1:] for s in SUFFIXES))})")
    if len(paths) * 3 * size * size > LARGEST:
        raise BadInput(
            f"{len(paths):,} images of {size} px need more than {LARGEST >> 30} GiB of memory; choose a smaller @SIZE"
        )
    names = [path.relative_to(root).as_posix() for path in paths]
    key, changed = _key(paths, names, size)
    cached = cache_folder() / "folder" / f"{key}.safetensors"
    pixels = _recall(cached, changed)
    if pixels is None:
        pixels = _decode(paths, size, progress)
        if _key(paths, names, size)[0] == key:  # no file was changed meanwhile
            _keep(cached, pixels)

    classes, labels = _labels(names)
    held_out = torch.from_numpy(_held_out(names, pixels))
    if not 0 < int(held_out.sum()) < len(paths):
        raise BadInput(f"{root} holds {len(paths)} image(s), too few for a training and a held-out part; add more")
    space = Space(tuple(pixels.shape[1:]), classes=len(classes), levels=256)
    train, test = (
        Data(pixels[part], torch.tensor(labels)[part] if classes else None, space) for part in (~held_out, held_out)
    )
    source = f"{len(paths):,} images from {root.name}, centre crop, bicubic to {size} px"
    return Dataset(name, space, train, test, checksum(train, test), classes, source=source)


def _images(root: Path) -> list[Path]:
    """Every image below `root`, hidden files and folders left out, in the order of the names within it."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [b for b in below if not b.startswith(".")]
        paths = (Path(folder, f) for f in files if not f.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _labels(names: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """Class names and the label of each image; none unless every image is in one of several subfolders."""
    first = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = tuple(sorted(set(first)))
    if "" in classes or len(classes) < 2:
        return (), []
    number = {c: i for i, c in enumerate(classes)}
    return classes, [number[f] for f in first]


def _held_out(names: list[str], pixels: torch.Tensor) -> np.ndarray:
    """(N,) bool: which images are held out."""
    side: dict[bytes, bool] = {}
    out = []
    for name, image in zip(names, pixels.numpy(), strict=True):
        bucket = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
        digest = hashlib.sha256(image.tobytes()).digest()
        out.append(side.setdefault(digest, bucket % HELD_OUT == 0))
    return np.array(out)


# ------------------------------------------------------------------------------------------------------- decoding


def _decode(paths: list[Path], size: int, progress: Progress | None) -> torch.Tensor:
    """(N, 1 or 3, size, size) uint8."""
    images = []
    for i, path in enumerate(paths):
        images.append(_decode_one(path, size))
        if progress and (i % 100 == 99 or i + 1 == len(paths)):
            progress("decode images", i + 1, len(paths))
    channels = max(image.shape[2] for image in images)
    whole = np.stack([np.broadcast_to(image, (size, size, channels)) for image in images])
    return torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 3, 1, 2)))


def read_image(path: Path) -> Image.Image:
    """An image file in mode L or RGB, treated as said above but neither cut nor resized. Raises BadInput."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; an image too large to be safe is an error below
            with Image.open(path) as opened:
                return _plain(ImageOps.exif_transpose(opened), path)
    except BadInput:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} is not a readable image ({reason}); remove it or replace it") from error


def _decode_one(path: Path, size: int) -> np.ndarray:
    """(size, size, 1 or 3) uint8."""
    image = read_image(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)  # cut before resizing, whose filter would look outside the box
    small = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))
    return small[:, :, None] if small.ndim == 2 else small


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode L or RGB."""
    if image.mode == "F":
        raise BadInput(f"{path} holds real numbers, whose range is unknown; convert it to 8 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits at 255
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        return ground.convert("L" if grey else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


# -------------------------------------------------------------------------------------------------------- cache


def _key(paths: list[Path], names: list[str], size: int) -> tuple[str, int]:
    """A key that changes with any file, and when the last of them changed, in ns.

    The time of a file's last change of any kind, since a copy or an archive may restore that of its content.
    """
    digest, changed = hashlib.sha256(f"{VERSION} {size}".encode()), 0
    for path, name in zip(paths, names, strict=True):
        stat = path.stat()
        times = f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        digest.update(f"\0{name}\0{stat.st_size}\0{times}".encode("utf-8", "surrogateescape"))
        changed = max(changed, stat.st_ctime_ns)
    return digest.hexdigest()[:24], changed


def _keep(path: Path, pixels: torch.Tensor) -> None:
    """Store the decoded images; a cache that can not be written costs time, nothing else."""
    from bench.store import write_atomic

    with contextlib.suppress(BadInput):
        write_atomic(path, save({"pixels": pixels}, {"sha256": _digest(pixels)}))


def _recall(path: Path, changed: int) -> torch.Tensor | None:
    """The stored images; None where there are none, they are damaged, or a file may have changed as they were stored."""
    try:
        if 0 <= path.stat().st_mtime_ns - changed < SETTLED:  # below 0 the clocks of two file systems differ
            return None
        with safetensors.safe_open(path, "pt") as file:
            pixels = file.get_tensor("pixels")
            return pixels if file.metadata()["sha256"] == _digest(pixels) else None
    except (OSError, safetensors.SafetensorError, KeyError, TypeError):
        return None


def _digest(pixels: torch.Tensor) -> str:
    return hashlib.sha256(pixels.reshape(-1).numpy().data).hexdigest()
