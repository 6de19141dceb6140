"""Canonical files: found in a folder, the cache, or the system; else downloaded. Always verified before use.

A `Part` is one file of a published data set, known by the sha256 of its *uncompressed* content: mirrors and
distributions compress the same content differently. `obtain` returns verified bytes or raises one clear BadInput. The
cache holds uncompressed parts; its folder is $BENCH_DATA, or the platform's cache folder.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.data.whole import read_whole
from paradigms.errors import BadInput

__all__ = ["Found", "Origin", "Part", "Progress", "cache_folder", "obtain", "store", "unpacked"]

# (what is being done, bytes or files done, their total); `Progress.update` of bench.progress fits.
Progress = Callable[[str, int, int], object]

TIMEOUT = 20.0  # seconds without a byte before a download is given up
CHUNK = 1 << 18
HEADS = 1 << 20  # of an archive: what its members' heads and its small files take


@dataclass(frozen=True)
class Part:
    """One canonical file: its name, the size and sha256 of its uncompressed content, other names it goes by."""

    name: str
    size: int
    sha256: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where the files of a published set come from.

    urls:    base addresses tried in order; $BENCH_DATA_URL_<NAME> replaces them.
    archive: name of the tar file at the address that holds every part; "" = each part lies there as NAME.gz.
    archive_size: bytes of that archive, a limit on what is read.
    packed:  whether a part that is downloaded by itself is NAME.gz; else it is NAME.
    offline: what to do without a connection; "" = import the files as a data set.
    system:  folder where a Linux distribution installs the set.
    refused: names of files that hold the same set in a form that is not read, and why.
    """

    name: str
    parts: tuple[Part, ...]
    urls: tuple[str, ...]
    archive: str = ""
    archive_size: int = 0
    packed: bool = True
    offline: str = ""
    system: Path | None = None
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def variable(self) -> str:
        return "BENCH_DATA_URL_" + self.name.upper().replace("-", "_")

    def addresses(self) -> tuple[str, ...]:
        own = os.environ.get(self.variable, "")
        return tuple(u.rstrip("/") + "/" for u in ((own,) if own else self.urls))


class Found(NamedTuple):
    """The verified, uncompressed content of a part, and the file that it was read from."""

    data: bytes
    path: Path


def cache_folder() -> Path:
    """$BENCH_DATA, or `paradigm-bench` in the platform's cache folder. Not created here. Raises BadInput."""
    if own := os.environ.get("BENCH_DATA"):
        return expanded(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "paradigm-bench"


def expanded(path: str) -> Path:
    """A path with its ~ or ~user replaced. Raises BadInput where that user is not known, as one without a home is not."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise BadInput(f"the home folder in {path} is not known; set BENCH_DATA to a folder for the cache")
    return Path(found)


def obtain(origin: Origin, source: Path | None = None, progress: Progress | None = None) -> dict[str, Found]:
    """Every part by name, verified.

    `source` (a folder, or the archive itself) is the only place looked at when it is given. Otherwise the cache, then
    the system's folder, then a download, which is stored in the cache. A damaged file there is passed over, and
    mentioned when nothing better is found.
    """
    if source is not None:
        source = Path(os.path.expanduser(source))
        if not os.path.exists(source):
            raise BadInput(f"{source} does not exist; give --from a folder that holds {_wanted(origin)}")
        if found := _look(origin, source):
            return found
        raise BadInput(_missing_in(origin, source))
    trouble = []
    for place in (cache_folder() / origin.name, origin.system):
        try:
            if place and os.path.isdir(place) and (found := _look(origin, place)):
                return found
        except BadInput as error:
            trouble.append(str(error))
    try:
        content = _download(origin, progress or (lambda *_: None))
    except BadInput as error:
        raise BadInput("; ".join([*trouble, str(error)])) from error
    return store(origin, content)


def store(origin: Origin, content: dict[str, bytes]) -> dict[str, Found]:
    """Write verified content into the cache."""
    from bench.store import write_atomic

    folder = cache_folder() / origin.name
    for name, data in content.items():
        write_atomic(folder / name, data)
    return {name: Found(data, folder / name) for name, data in content.items()}


# ------------------------------------------------------------------------------------------------------- looking


def _look(origin: Origin, place: Path) -> dict[str, Found] | None:
    """Every part as found at `place`, verified; None when one is nowhere there. BadInput when one is damaged.

    `place` is a folder, the archive, or one of the files, which stands for its folder.
    """
    if place.is_file():
        if place.name in dict(origin.refused):
            return None
        if origin.archive and place.name not in {part.name for part in origin.parts}:
            return _look_into(origin, place)
        place = place.parent
    content: dict[str, Found] = {}
    for part in origin.parts:
        found = _look_for(part, place)
        if found is None:
            archive = next(_named(place, origin.archive), None) if origin.archive else None
            return _look_into(origin, archive) if archive else None
        content[part.name] = found
    return content


def _look_into(origin: Origin, archive: Path) -> dict[str, Found]:
    content = _unpack(origin, read_whole(archive, _most(origin)), str(archive))
    return {name: Found(data, archive) for name, data in content.items()}


def _look_for(part: Part, folder: Path) -> Found | None:
    """The content of a part somewhere up to two levels below `folder`.

    Several sets use the same file names, so each candidate is tried until one has the right content.
    """
    first: BadInput | None = None
    for name in (part.name, *part.also):
        for path in (*_named(folder, name), *_named(folder, name + ".gz")):
            try:
                data = read_whole(path, part.size + HEADS)
                return Found(_verified(part, unpacked(data, part.size, str(path)), str(path)), path)
            except BadInput as error:
                first = first or error
    if first is not None:
        raise first
    return None


def _named(folder: Path, name: str) -> Iterator[Path]:
    """Files of that name in `folder` and up to two levels below."""
    for depth in ("", "*/", "*/*/"):
        yield from sorted(path for path in folder.glob(depth + name) if path.is_file())


def unpacked(data: bytes, limit: int, where: str) -> bytes:
    """Gzip content up to one byte past `limit`; anything else as it is. Raises BadInput where it is damaged."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(limit + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise BadInput(f"{where} is cut short or damaged ({error}); get the file again") from error


def _verified(part: Part, data: bytes, where: str) -> bytes:
    if len(data) != part.size:
        size = f"more than {part.size:,}" if len(data) > part.size else f"{len(data):,}"
        raise BadInput(f"{where} holds {size} bytes, expected {part.size:,}; it is cut short or another file")
    found = hashlib.sha256(data).hexdigest()
    if found != part.sha256:
        raise BadInput(
            f"{where} has the wrong checksum (sha256 {found[:12]}…, expected {part.sha256[:12]}…); get the file again"
        )
    return data


def _most(origin: Origin) -> int:
    """Bytes that its archive has at most, packed or unpacked."""
    return max(origin.archive_size, sum(part.size for part in origin.parts)) + HEADS


def _unpack(origin: Origin, data: bytes, where: str) -> dict[str, bytes]:
    """Every part out of a tar archive, packed by gzip or not. Members are read, never extracted: their paths do not matter."""
    parts = {part.name: part for part in origin.parts}
    content: dict[str, bytes] = {}
    data, most = unpacked(data, _most(origin), where), _most(origin)
    if len(data) > most:
        raise BadInput(f"{where} unpacks to more than {most:,} bytes; it is another archive than {origin.archive}")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                part = parts.get(member.name.rpartition("/")[2])
                file = archive.extractfile(member) if part and member.isfile() else None
                if part and file:
                    content[part.name] = _verified(part, file.read(part.size + 1), f"{where}:{member.name}")
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"{where} is cut short, damaged or no tar archive ({error}); get the file again") from error
    if missing := [name for name in parts if name not in content]:
        raise BadInput(f"{where} does not hold {', '.join(missing)}; it is another archive than {origin.archive}")
    return content


def _missing_in(origin: Origin, place: Path) -> str:
    folder = place.parent if place.is_file() else place
    for name, why in origin.refused:
        if any(_named(folder, name)):
            return f"{folder} holds {name}: {why}"
    return f"{folder} does not hold {_wanted(origin)}, nor does a folder up to two levels below it"


def _wanted(origin: Origin) -> str:
    files = ", ".join(part.name for part in origin.parts)
    return f"{origin.archive} or {files}" if origin.archive else f"{files} (or the same with .gz)"


# --------------------------------------------------------------------------------------------------- downloading


def _download(origin: Origin, progress: Progress) -> dict[str, bytes]:
    """Every part from the first address that gives the right content."""
    trouble = []
    for base in origin.addresses():
        try:
            if origin.archive:
                data = _get(base + origin.archive, origin.archive_size + CHUNK, origin.name, progress)
                return _unpack(origin, data, base + origin.archive)
            content = {}
            for part in origin.parts:
                url = f"{base}{part.name}{'.gz' if origin.packed else ''}"
                data = _get(url, part.size + CHUNK, f"{origin.name}: {part.name}", progress)
                content[part.name] = _verified(part, unpacked(data, part.size, url), url)
            return content
        except BadInput as error:
            trouble.append(str(error))
    offline = origin.offline or f"get the files elsewhere and run: bench data {origin.name} --from FOLDER"
    raise BadInput(
        f"{origin.name} is not on this machine and could not be downloaded: {'; '.join(trouble)}; "
        f"when offline, {offline}"
    )


def _get(url: str, limit: int, what: str, progress: Progress) -> bytes:
    """The body at `url`, whole or not at all, of at most `limit` bytes."""
    host, data = url, bytearray()
    try:
        host = urllib.parse.urlsplit(url).netloc or url
        request = urllib.request.Request(url, headers={"User-Agent": "paradigm-bench"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isascii() and length.isdigit() else 0
            while chunk := answer.read(CHUNK):
                data += chunk
                progress(f"download {what}", len(data), max(total, len(data)))
                if len(data) > limit:
                    raise BadInput(f"{url} sends more than the expected {limit:,} bytes")
    except urllib.error.HTTPError as error:
        raise BadInput(f"{url} answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise BadInput(f"{host} sent nothing for {TIMEOUT:g} s") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", "") or error).split())
        raise BadInput(f"no connection to {host} ({reason})") from error
    if total and len(data) != total:
        raise BadInput(f"{url} ended after {len(data):,} of {total:,} bytes")
    return bytes(data)
