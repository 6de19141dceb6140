"""What a codec, the first stage of a latent model, loses: rows of its reconstructions."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bench import metrics
from bench.arithmetic import DTYPES
from bench.features import Features
from bench.scores.means import mean_row, unit_of
from bench.scores.pools import chunk_size
from bench.scores.reference import Reference
from bench.scores.rows import Rows
from bench.scores.work import OnProgress, silent, tell_of
from bench.store import Row
from paradigms.contract import Codec
from paradigms.core.data import Data
from paradigms.core.noise import Noise

__all__ = ["rows"]


def rows(base: Row, codec: Codec, ref: Reference, n: int, on_progress: OnProgress = silent) -> list[Row]:
    """Rows of how far n held-out examples are from their own reconstructions, and of -log p(x | z).

    z is drawn from q(z | x) and x from p(x | z). Both sides hold the same examples, so a perfect codec has rfd 0. What
    samples made of its codes score can hardly be better.
    """
    data = Data(ref.real["test"][:n], None if ref.labels["test"] is None else ref.labels["test"][:n], codec.space)
    x, value = _reconstructed(codec, data, ref, on_progress)
    table = Rows(dataclasses.replace(base, dtype=DTYPES["fp32"], split="test", n=len(data)))
    for space, real in zip(ref.spaces, ref.features["test"]):
        here = table.having(features=space.id, n_ref=len(data))
        with here.part("rfd"):
            tell = tell_of(on_progress, f"features of reconstructions, {space.name}")
            fake = space.features(x, stored=ref.dataset.space, tell=tell)
            here.add([metrics.reconstruction_distance(fake, Features(real.values[:n], None, space))])
    lost = dataclasses.replace(table.base, metric="reconstruction")
    return [*table.made, mean_row(lost, value, unit_of(codec.space))]


@torch.no_grad()
def _reconstructed(codec: Codec, data: Data, ref: Reference, on_progress: OnProgress) -> tuple[Tensor, Tensor]:
    """Reconstructions (N, *shape) as the data is stored, and log p(x | z) (N,) in nats, float64, both on the CPU."""
    device = ref.device
    noise = Noise("reconstruct", ref.dataset.key, device=device)
    parts, values = list[Tensor](), list[Tensor]()
    for index in torch.arange(len(data)).split(chunk_size(codec.space, device)):
        batch, rows = data.batch(index), noise.rows(int(index[0]))
        x, y = batch.x.to(device), None if batch.y is None else batch.y.to(device)
        mu, log_sd = codec.encode(x, y)
        out = codec.decode(mu + log_sd.exp() * rows.at("z").normal(*mu.shape), y)
        parts.append(codec.space.decode(codec.law.sample(out, rows.at("x"))).cpu())
        values.append(codec.law.log_prob(out, x).double().cpu())
        on_progress("reconstructions", int(index[-1]) + 1, len(data))
    return torch.cat(parts), torch.cat(values)
