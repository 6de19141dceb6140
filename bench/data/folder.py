"""A folder of anyone's images as a data set: `folder:PATH` or `folder:PATH@SIZE`.

What is done to an image, in this order: the first frame of an animation; EXIF orientation applied; transparency laid on
white; 16-bit grey divided by 257; the largest centred square cut out; resized to SIZE by Pillow's bicubic filter, which
is antialiased when it shrinks; kept as integers 0 to 255. Grey if every image is grey, else RGB.

Files: every image below the folder, hidden files and folders left out; links are followed, each folder entered once.
What is left out is counted and said (`Dataset.notes`).

Splits: folders called train, test, val (or training, testing, valid, validation, dev, eval ..., in any case) at the first
level, or right below every folder of it, are splits and never classes. `train` is trained on; `test` is held out, else
`val`; where there are both, `val` is left out. With `train` alone, or no such folder, an image is held out (about one in
five) by a hash of its path within the folder or within `train`, so the split survives moving the folder and adding
images; images with equal pixels then share the side of the first of them by name, so that no copy of a training image is
held out. `test` or `val` without `train`, and one such folder beside others, are refused; so is a split in a split, but
for one of its own name around all of it (train/train/cat), which is passed over. `--test FOLDER` names a held-out part
that lies elsewhere.

Labels: where every image lies in a subfolder, and they are at least two, the first-level subfolders (of the folder, or of
its splits) are the classes, in the order of their names; otherwise there are none. Names that differ only in how their
letters are encoded (Unicode's NFC and NFD, as one system writes é and another) are of one class.

The data set is its content: its name is the folder's last part, SIZE and the first digits of the checksum, and no seed
or identity depends on where it lies or how that was written.

The tensors are cached, keyed by the names, sizes, times and inodes of all files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from PIL import Image, ImageOps
from safetensors.torch import save

from bench.data.dataset import HELD_OUT, Dataset, checksum
from bench.data.files import Progress, cache_folder
from bench.data.names import FolderName, readable
from bench.walk import walk
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["SUFFIXES", "Listing", "centred_square", "images_below", "load_folder", "read_image"]

JPEG, PORTABLE = ("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp"), ("ppm", "pgm", "pbm", "pnm")
SUFFIXES = frozenset(
    f".{kind}" for kind in ("png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", *JPEG, *PORTABLE)
)
# What a file is read as, whatever it is called: other readers of Pillow start programs (PostScript).
FORMATS = ("PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "JPEG", "PPM")
LARGEST = 2 << 30  # bytes of decoded images: they are held in memory
VERSION = 1  # of the treatment above; part of the cache's key
STRIP = 1 << 18  # pixels of an image that are worked on at once
DARK = 31  # of 255: levels of 4 or 5 bits, and 12 bits in a file of 16, reach no more
SETTLED = 2_000_000_000  # nanoseconds: two changes of a file within a tick of its file system look like one (FAT: 2 s)


def load_folder(folder: FolderName, progress: Progress | None = None) -> Dataset:
    """The images below `folder.path`, (N, 1 or 3, SIZE, SIZE) uint8. Raises BadInput."""
    root, size = folder.path, folder.size
    parts = _parts(folder)
    images, own = [*parts.train, *(parts.test or ())], parts.test is not None
    if len(images) * 3 * size * size > LARGEST:
        raise BadInput(
            f"{len(images):,} images of {size} px need more than {LARGEST >> 30} GiB of memory; choose a smaller @SIZE"
        )
    paths = [image.path for image in images]
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in paths]
    key, changed = _key(paths, names, size)
    cached = cache_folder() / "folder" / f"{key}.safetensors"
    pixels = _recall(cached, key, changed)
    if pixels is None:
        pixels = _decode(paths, size, progress)
        if _key(paths, names, size)[0] == key:  # no file was changed meanwhile
            _keep(cached, key, pixels)

    digests = [hashlib.sha256(image.tobytes()).digest() for image in pixels.numpy()]
    notes = list(parts.notes)
    if own:
        held_out = np.arange(len(images)) >= len(parts.train)
        seen = set(digests[: len(parts.train)])
        if copies := sum(digest in seen for digest in digests[len(parts.train) :]):
            notes.append(f"{_count(copies, 'held-out image')} of {len(parts.test or ()):,} equal a training image")
        if len(images) > len(parts.train) > len(seen) == 1:
            notes.append(f"all {len(parts.train):,} training images are the same at {size} px")
    else:
        held_out = _held_out([image.name for image in images], digests)
        if not 0 < int(held_out.sum()) < len(images):
            raise BadInput(_inseparable(root, len(images), len(set(digests)), size))
    notes += _odd(pixels)
    classes, labels = _labels(parts, notes)
    space = Space(tuple(pixels.shape[1:]), classes=len(classes), levels=256)
    mask = torch.from_numpy(held_out)
    train, test = (Data(pixels[part], torch.tensor(labels)[part] if classes else None, space) for part in (~mask, mask))
    digest = checksum(train, test)
    name = folder.called(digest)
    return Dataset(
        name,
        space,
        train,
        test,
        digest,
        classes,
        source=f"{len(images):,} images from {folder.base}, centre crop, bicubic to {size} px",
        own=replace(folder, name=name),
        drawn=not own,
        notes=tuple(notes),
    )


def _odd(pixels: torch.Tensor) -> list[str]:
    """What is hardly meant where it is so of all images: numbers of another range than 0 to 255, grey kept as colour."""
    notes, top = [], int(pixels.max())
    if 0 < top <= DARK:
        notes.append(
            f"nearly black: no pixel is lighter than {top} of 255; if white is another number, scale the images"
        )
    if pixels.shape[1] == 3 and all(bool((pixels[:, :1] == pixels[:, i : i + 1]).all()) for i in (1, 2)):
        notes.append("every image is grey and yet stored in colour: three equal channels; save them as grey for one")
    return notes


def _inseparable(root: Path, n: int, different: int, size: int) -> str:
    """Why no image could be held out, or none was left to train on."""
    if n > 1 and different == 1:
        return f"all {n:,} images in {root} are the same at {size} px, so none can be held out; add others"
    also = f", of which {different:,} differ at {size} px" if different < n else ""
    return f"{root} holds {_count(n, 'image')}{also}: too few for a training and a held-out part; add more"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


# ---------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Listing:
    """What is below a folder.

    names: of the images within it, sorted. folders: right below it. notes: what was left out, a line each.
    """

    root: Path
    names: list[str]
    folders: list[str]
    notes: list[str]


def images_below(root: Path) -> Listing:
    """Every image below `root`: what this project takes for one, of samples as of data. Raises BadInput.

    Hidden files and folders are left out; links are followed, each folder entered once.
    """
    if not os.path.isdir(root):
        raise BadInput(f"{root} is not a folder; write folder:PATH or folder:PATH@SIZE")
    hidden = 0

    def enter(name: str) -> bool:
        nonlocal hidden
        hidden += name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        return not name.startswith(".")

    found = walk(root, enter)
    unreadable = next((reason for path, reason in found.lost.items() if not path.is_symlink()), None)
    if unreadable is not None:
        raise BadInput(f"{unreadable}; its images would be missing")
    names, others = list[str](), Counter[str]()
    for folder, files in found.folders:
        for file in files:
            suffix = Path(file).suffix.lower()
            if suffix in SUFFIXES:
                names.append((folder / file).relative_to(root).as_posix())
            else:
                others[suffix or "no suffix"] += 1
    notes = list[str]()
    if others:
        kinds = ", ".join(f"{readable(kind)} {n:,}" for kind, n in others.most_common(5))
        more = f" … and {len(others) - 5} more kinds" if len(others) > 5 else ""
        notes.append(f"{_count(sum(others.values()), 'file')} of other kinds left out: {kinds}{more}")
    if hidden:
        notes.append(f"{_count(hidden, 'hidden image')} left out")
    if found.lost:
        first = readable(next(iter(found.lost)).relative_to(root).as_posix())
        notes.append(f"{_count(len(found.lost), 'link')} to what is not there left out, the first of them {first}")
    if found.again:
        first = readable(found.again[0].relative_to(root).as_posix())
        notes.append(f"{_count(len(found.again), 'link')} to folders already read left out, the first of them {first}")
    if not names:
        told = f"; {'; '.join(notes)}" if notes else ""
        raise BadInput(f"{root} holds no images ({', '.join(sorted(s[1:] for s in SUFFIXES))}){told}")
    below = [folder.name for folder, _ in found.folders if folder.parent == root]
    return Listing(root, sorted(names), below, notes)


# --------------------------------------------------------------------------------------------------------- splits

# What people call the parts of a data set; a year or a word may follow, as in train2017, test_images.
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
_SPLIT = re.compile(
    "|".join(f"(?P<{role}>{'|'.join(words)})" for role, words in _SPLITS.items()).join(("(?:", ")"))
    + r"(?:[ _-]?(?:set|split|data|images?|imgs|(?:19|20)\d\d))?",
    re.IGNORECASE,
)


def _role(name: str) -> str:
    """The split that a folder's name stands for; "" for none."""
    found = _SPLIT.fullmatch(name)
    return (found.lastgroup or "") if found else ""


@dataclass(frozen=True)
class Picture:
    """An image file, and its name within its part of the data set."""

    path: Path
    name: str


@dataclass(frozen=True)
class Parts:
    """The files of a data set. test: None where the held-out part is still to be chosen."""

    train: list[Picture]
    test: list[Picture] | None
    notes: list[str]


def _parts(folder: FolderName) -> Parts:
    """What is trained on and what is held out. Raises BadInput."""
    found = images_below(folder.path)
    if folder.test is None:
        return _split(found)
    if not os.path.isdir(folder.test):
        raise BadInput(f"--test {folder.test} is not a folder")
    other = images_below(folder.test)
    theirs = {_file(other.root / name) for name in other.names}
    mine = [name for name in found.names if _file(found.root / name) not in theirs]
    if not mine:
        raise BadInput(f"--test {folder.test} holds every image of {folder.path}; name a folder of other images")
    parts, held_out = _split(replace(found, names=mine)), _split(other)
    for part, root, role in ((parts, found.root, "train"), (held_out, other.root, "test")):
        if part.test is not None:
            raise BadInput(f"{root} is divided into splits itself; with --test name one of them, as {root}/{role}")
    notes = [*parts.notes, *(f"--test: {note}" for note in held_out.notes)]
    if left := len(found.names) - len(mine):
        notes.append(f"{_count(left, 'image')} that --test holds too left out of the training part")
    return Parts(parts.train, held_out.train, notes)


def _file(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _split(found: Listing) -> Parts:
    """The splits that the folders' names tell of. Raises BadInput where they tell of none to train on, or of too much."""
    pieces, notes = [name.split("/") for name in found.names], list(found.notes)
    depth = _depth(found.root, pieces)
    if empty := sorted(set(found.folders) - {piece[0] for piece in pieces}):
        some = ", ".join(f"{readable(name)}/" for name in empty[:5])
        more = f" … and {len(empty) - 5:,} more" if len(empty) > 5 else ""
        notes.append(f"{some}{more} hold{'s' * (len(empty) == 1)} no images")
    if depth is None:
        if (deeper := _deeper(pieces)) is not None:
            notes.append(
                f"folders called like splits in {readable(deeper)}/ are not taken for them, as they lie too deep: for that "
                f"name {readable(str(found.root / deeper))}"
            )
        return Parts([Picture(found.root / name, name) for name in found.names], None, notes)
    wrapped = len({piece[0] for piece in pieces}) == 1  # of no account for classes, where the splits lie below
    parts: dict[str, list[Picture]] = {}
    called: dict[str, str] = {}
    for name, piece in zip(found.names, pieces, strict=True):
        role = _role(piece[depth]) if len(piece) > depth + 1 else ""
        kept = piece[depth + 1 :] if wrapped else [*piece[:depth], *piece[depth + 1 :]]
        parts.setdefault(role, []).append(Picture(found.root / name, "/".join(kept)))
        called.setdefault(role, f"{readable(piece[depth])}/")
    others = parts.pop("", [])
    if others and len(parts) == 1:
        (split,) = set(called) - {""}
        raise BadInput(
            f"{found.root} holds {called[split]} beside {_count(len(others), 'image')} elsewhere, as {called['']}: a "
            f"folder of that name is a split, never a class; rename it, move the others away, or name {called[split]} "
            "itself (and another held-out part with --test FOLDER)"
        )
    if "train" not in parts:
        held = " and ".join(sorted(called[role] for role in parts))
        raise BadInput(
            f"{found.root} holds {held} but no train/; name the folder to be trained on (one in five of its images is "
            "then held out), or give it a train/ folder"
        )
    parts = {role: _inner(some, role, found.root, called[role]) for role, some in parts.items()}
    held = next((role for role in ("test", "val") if role in parts), "")
    if not held:
        notes.append(f"{called['train']} is alone: one in five of its images is held out, chosen by name")
    else:
        why = "" if held == "test" else ", as there is no test/"
        notes.append(f"{called['train']} is trained on, {called[held]} is held out{why}")
    for role in ("val", ""):
        left = others if role == "" else parts.get(role, []) if role != held else []
        if left:
            notes.append(
                f"{_count(len(left), 'image')} {'in ' + called[role] if role else 'outside the splits'} left out"
            )
    train, test = (sorted(parts.get(role, []), key=lambda picture: picture.name) for role in ("train", held))
    return Parts(train, test if held else None, notes)


def _depth(root: Path, pieces: list[list[str]]) -> int | None:
    """At which level of the folders (0, 1) the splits lie; None where there are none. Raises BadInput."""
    if any(len(piece) > 1 and _role(piece[0]) for piece in pieces):
        return 0
    below: dict[str, set[str]] = {}
    for piece in pieces:
        below.setdefault(piece[0], set()).add(_role(piece[1]) if len(piece) > 2 else "")
    if all("" not in roles for roles in below.values()):
        return 1
    mixed = next((name for name, roles in below.items() if "train" in roles and len(roles - {""}) > 1), None)
    if mixed is not None:
        raise BadInput(f"{root}/{mixed} is divided into splits, but other images are not; divide all of them, or none")
    return None


def _inner(pictures: list[Picture], role: str, root: Path, called: str) -> list[Picture]:
    """A split's pictures, without a folder of its own name around them all: training/training/cat, as archives unpack.

    Raises BadInput where a split is divided into splits itself.
    """
    first = {picture.name.partition("/")[0] if "/" in picture.name else "" for picture in pictures}
    if strange := sorted(name for name in first if _role(name)):
        if len(first) > 1 or _role(strange[0]) != role:
            raise BadInput(
                f"{root}/{called} holds {readable(strange[0])}/: a folder of that name is a split, never a class; name "
                f"{root}/{called} itself, or rename it"
            )
        return [replace(picture, name=picture.name.partition("/")[2]) for picture in pictures]
    return pictures


def _deeper(pieces: list[list[str]]) -> str | None:
    """The first folder where splits are found that lie too deep to be taken for them."""
    below: dict[str, set[str]] = {}
    for folders in sorted({tuple(piece[:-1]) for piece in pieces}):
        for level in range(1, len(folders)):
            below.setdefault("/".join(folders[:level]), set()).add(_role(folders[level]))
    return next((name for name, roles in below.items() if "train" in roles and len(roles - {""}) > 1), None)


def _labels(parts: Parts, notes: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """Class names and the label of each image, if every one is in one of several subfolders; else none, said in `notes`."""
    names = [picture.name for picture in (*parts.train, *(parts.test or ()))]
    first = _one_encoding([name.partition("/")[0] if "/" in name else "" for name in names], notes)
    classes = sorted(set(first))
    if "" in classes and len(classes) > 1:
        notes.append(f"{_count(first.count(''), 'image')} outside the class folders, so there are no labels")
    if "" in classes or len(classes) < 2:
        return (), []
    if parts.test is not None and set(first[: len(parts.train)]).isdisjoint(first[len(parts.train) :]):
        notes.append("held-out and training images have no class folder in common, so there are no labels")
        return (), []
    number = {c: i for i, c in enumerate(classes)}
    return tuple(map(readable, classes)), [number[f] for f in first]


def _one_encoding(names: list[str], notes: list[str]) -> list[str]:
    """The names; of those that differ only in how their letters are encoded, the first for all, which is said in `notes`."""
    same: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        same.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    called = {name: some[0] for some in same.values() for name in some}
    for some in same.values():
        if len(some) > 1:
            notes.append(
                f"{len(some)} folders are called {readable(some[0])}, in other encodings of its letters: one class"
            )
    return [called[name] for name in names]


def _held_out(names: list[str], digests: list[bytes]) -> np.ndarray:
    """(N,) bool: which images are held out."""
    side: dict[bytes, bool] = {}
    out = []
    for name, digest in zip(names, digests, strict=True):
        bucket = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
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
    if not path.is_file():  # a pipe would be waited for
        raise BadInput(f"{path} is no regular file; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; an image too large to be safe is an error below
            with Image.open(path, formats=FORMATS) as opened:
                ImageOps.exif_transpose(opened, in_place=True)
                return _whole(opened, path)
    except BadInput:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} is not a readable image ({reason}); remove it or replace it") from error


def _decode_one(path: Path, size: int) -> np.ndarray:
    """(size, size, 1 or 3) uint8."""
    # Cut before resizing, whose filter would look outside the box.
    small = np.asarray(centred_square(read_image(path)).resize((size, size), Image.Resampling.BICUBIC))
    return small[:, :, None] if small.ndim == 2 else small


def centred_square(image: Image.Image) -> Image.Image:
    """The largest centred square of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _whole(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode L or RGB, of a large one strip by strip: a small file may hold a gigabyte of pixels."""
    rows = max(1, STRIP // image.width)
    strips = (
        (top, image.crop((0, top, image.width, min(top + rows, image.height)))) for top in range(0, image.height, rows)
    )
    _, first = next(strips)
    first = _plain(first, path)
    if first.size == image.size:
        return first
    whole = Image.new(first.mode, image.size)
    whole.paste(first)
    for top, strip in strips:
        whole.paste(_plain(strip, path), (0, top))
    return whole


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """A strip of an image in mode L or RGB."""
    if image.mode == "F":
        raise BadInput(f"{path} holds real numbers, whose range is unknown; convert it to 8 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits at 255
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise BadInput(
                f"{path} holds integers {wide.min()} to {wide.max()}, beyond the 0 to 65535 of 16 bits; convert it to 8 bits"
            )
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

    The time of a file's last change of any kind, since a copy or an archive may restore that of its content, and its
    inode, since another file may have been moved to its place.
    """
    digest, changed = hashlib.sha256(f"{VERSION} {size}".encode()), 0
    for path, name in zip(paths, names, strict=True):
        stat = path.stat()
        times = f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
        digest.update(f"\0{name}\0{stat.st_size}\0{times}".encode("utf-8", "surrogateescape"))
        changed = max(changed, stat.st_ctime_ns)
    return digest.hexdigest()[:24], changed


def _keep(path: Path, key: str, pixels: torch.Tensor) -> None:
    """Store the decoded images; a cache that can not be written costs time, nothing else."""
    from bench.store import write_atomic

    with contextlib.suppress(BadInput):
        write_atomic(path, save({"pixels": pixels}, {"sha256": _digest(key, pixels)}))


def _recall(path: Path, key: str, changed: int) -> torch.Tensor | None:
    """The stored images; None where there are none, they are damaged or of another key, or a file may have changed as
    they were stored."""
    try:
        if not path.is_file() or 0 <= path.stat().st_mtime_ns - changed < SETTLED:  # below 0 the clocks differ
            return None
        with safetensors.safe_open(path, "pt") as file:
            pixels = file.get_tensor("pixels")
            return pixels if file.metadata()["sha256"] == _digest(key, pixels) else None
    except (OSError, safetensors.SafetensorError, KeyError, TypeError):
        return None


def _digest(key: str, pixels: torch.Tensor) -> str:
    """sha256 over the images and what they are the images of: another key's file in its place is not believed."""
    digest = hashlib.sha256(f"{key} {pixels.dtype} {tuple(pixels.shape)};".encode())
    digest.update(pixels.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
