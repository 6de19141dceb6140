"""Sample grids on the page: which are shown, in whose place words stand, and how they stay small."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from reports import words
from reports.layout import GRID
from reports.records import run_id
from reports.sections import Section

GridSource = Path | str | bytes | Mapping[str, Path | str | bytes] | None


IMAGE_BYTES = 2_400_000  # of all sample grids together; with base64 and figures the page stays below 5 MB


FORMATS_SHOWN = ("PNG", "WEBP", "JPEG", "GIF")  # what a browser shows; other readers of Pillow start programs


MORE_GRIDS = 40  # grids of further seeds on one page


@dataclass
class Tile:
    """A sample grid on the page, or the words that stand in its place."""

    name: str
    caption: str
    alt: str
    mark: int = -1
    real: bool = False
    image: bytes = b""
    data: str = ""
    width: int = 0
    height: int = 0

    @property
    def small(self) -> bool:
        """Few pixels are shown as pixels, photographs smoothly."""
        return self.width <= 800


def readable_image(source: Path | str | bytes | None) -> bytes:
    """The bytes of a readable image, else nothing."""
    if source is None:
        return b""
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as image:
            image.verify()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return data


def tiles(section: Section, real: GridSource) -> tuple[list[Tile], list[Tile]]:
    """The first finished seed of every recipe next to real data, and the other seeds."""
    first: list[Tile] = []
    more: list[Tile] = []
    if isinstance(real, Mapping):
        real = real.get(section.dataset)
    image = readable_image(real)
    if image:
        alt = f"Real held-out examples of {section.title}"
        first.append(Tile("real data", "held out", alt, real=True, image=image))
    for entry in section.entries:
        failed = {f.run: f for f in entry.failures}
        shown = False
        for record in entry.records:
            folder, run = record.get("folder"), run_id(record)
            source = record.get("grid", Path(folder) / GRID if folder else None)
            image = readable_image(source) if run not in failed else b""
            if not image:
                continue
            plan, seed = entry.plan_text or "default plan", words.plain(record.get("seed", "?"))
            caption = f"{plan}, seed {seed}, uncurated"
            alt = f"Samples of {entry.name} on {section.title}: {caption}"
            (more if shown else first).append(Tile(entry.name, caption, alt, entry.mark, image=image))
            shown = True
        if not shown and (entry.records or entry.failures):
            why = (
                "; ".join(f"seed {f.seed_text} {f.status}: {f.reason}" for f in entry.failures)
                or "no grid in the run folder"
            )
            first.append(Tile(entry.name, "", f"No samples: {why}", entry.mark))
    return (first, more[:MORE_GRIDS]) if any(t.image for t in first) else ([], [])


def embed(tiles: Sequence[Tile]) -> None:
    """Make the images part of the page; where they are too heavy together, as lossy WebP and smaller."""
    with_image = [t for t in tiles if t.image]
    scale, quality = 1.0, 0
    encoded = [t.image for t in with_image]
    while sum(map(len, encoded)) > IMAGE_BYTES and scale > 0.05:
        if quality:
            scale *= 0.75
        quality = 80
        encoded = [_smaller(t.image, scale, quality) for t in with_image]
    for tile, data in zip(with_image, encoded):
        with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as image:
            tile.width, tile.height = image.size
            kind = (image.format or "PNG").lower()
        tile.data = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if quality:
            tile.caption += " (compressed for this page; grid.png in the run's folder is exact)"


def _smaller(data: bytes, scale: float, quality: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as opened:
        image = opened.convert("RGB")
    if scale < 1:
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=quality, method=4)
    return out.getvalue()
