"""Pictures of a way from noise to data: strips of images over time, and panels of density and paths for the plane."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

__all__ = ["Strip", "panels", "strips"]

REACH = 2.8  # of the plane that is shown, on data of unit variance


@dataclass(frozen=True, eq=False)
class Strip:
    """States over falling times (K,): images (K, n, H, W, C) in [0, 1], or points (K, n, 2)."""

    title: str
    times: tuple[float, ...]
    states: np.ndarray


def strips(title: str, shown: Sequence[Strip], kind: str = "png") -> bytes:
    """A block for each strip: a column for each time, a row for each example."""
    columns = max(len(s.times) for s in shown)
    rows = sum(s.states.shape[1] for s in shown)
    figure = Figure(figsize=(0.9 * columns + 0.4, 0.9 * rows + 0.45 * len(shown) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    blocks = figure.subfigures(len(shown), 1, height_ratios=[s.states.shape[1] + 0.4 for s in shown], squeeze=False)
    for block, strip in zip(blocks[:, 0], shown):
        block.suptitle(strip.title, fontsize=9, x=0.01, ha="left")
        axes = block.subplots(strip.states.shape[1], columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for k, (t, images) in enumerate(zip(strip.times, strip.states)):
            axes[0, k].set_title(f"t = {t:.2f}", fontsize=7, pad=2)
            for ax, image in zip(axes[:, k], images):
                if image.shape[-1] == 1:
                    ax.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                else:
                    ax.imshow(image, interpolation="nearest")
    return _save(figure, kind)


def panels(title: str, shown: Sequence[Strip], lines: np.ndarray, kind: str = "png") -> bytes:
    """Densities of points over time, a row for each strip, and the paths (T, m, 2) of single points in a last panel."""
    columns = max(len(s.times) for s in shown) + 1
    figure = Figure(figsize=(1.25 * columns, 1.45 * len(shown) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, strip in zip(axes, shown):
        for ax, t, points in zip(row, strip.times, strip.states):
            counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=64, range=[[-REACH, REACH]] * 2)
            top = max(1.0, float(np.quantile(counts[counts > 0], 0.98)) if counts.any() else 1.0)
            ax.imshow(counts, origin="lower", extent=(-REACH, REACH) * 2, cmap="magma", vmin=0, vmax=top)
            ax.set_title(f"t = {t:.2f}", fontsize=7, pad=2)
        row[0].text(0.0, 1.22, strip.title, transform=row[0].transAxes, fontsize=8)
    ax = axes[-1, -1]
    ax.plot(lines[:, :, 0], lines[:, :, 1], color="#0072B2", linewidth=0.4, alpha=0.6)
    ax.plot(lines[-1, :, 0], lines[-1, :, 1], ".", color="#D55E00", markersize=2)
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    ax.set_title("paths", fontsize=7, pad=2)
    return _save(figure, kind)


def _save(figure: Figure, kind: str) -> bytes:
    out = io.BytesIO()
    stable = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    figure.savefig(out, format=kind, dpi=130, metadata=stable)
    return out.getvalue()
