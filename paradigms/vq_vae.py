"""VQ-VAE: an autoencoder whose latent is a grid of codes from a learned codebook, and an autoregressive prior over them.

Model.      c ~ p(c) = prod_i p(c_i | c_1 ... c_(i-1)), codes c_i in {1 ... K} on a grid, by a causal transformer in
            raster order; x ~ p(x | z_q) with z_q = e_c, the codebook's vectors at those codes. On images every pixel is a
            discretised mixture of logistics, on vectors (whose grid is a row of `slots` codes) a Gaussian.

Objective.  z_e = E(x), c_i = argmin_k ||z_e,i - e_k||, z_q = e_c (eqs. 1, 2), and of the three terms of eq. 3
                L = -log p(x | z_q) + beta ||z_e - sg[z_q]||^2
            trains encoder and decoder; the argmin passes gradients straight through, d z_q / d z_e := 1. Its remaining
            term is replaced by running averages (appendix A.1, eqs. 6-8), here after each step:
                N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum_(i: c_i = k) z_e,i,   e_k = m_k / N_k.
            The prior descends -log p(c) on the codes of the same batch; the codes know nothing of it. For the first
            `codec` of the training both learn, then the codec stays as it is and the prior goes on with its final codes.

Sampling.   c ~ p(c), one call of the prior for each code, then x ~ p(x | e_c) ("sample") or its mean ("mean").

Likelihood. p(x) = sum_c p(c) p(x | e_c) >= p(c(x)) p(x | e_c(x)) for the code grid c(x) that the encoder gives: the
            ELBO of a posterior with all its mass, and no entropy, on c(x).

References
    A. van den Oord, O. Vinyals, K. Kavukcuoglu. Neural Discrete Representation Learning. NeurIPS 2017. arXiv:1711.00937
    P. Dhariwal et al. Jukebox: A Generative Model for Music. 2020. arXiv:2005.00341                  (restarted codes)
    T. Salimans et al. PixelCNN++. ICLR 2017. arXiv:1701.05517                              (the mixture of logistics)

Where this differs from the papers
    - The prior is a transformer instead of a PixelCNN and learns beside the codec first, so that one budget covers both.
    - Running averages instead of the codebook loss, started from outputs of the encoder; a code that is hardly used is
      put on a random output of the encoder.
    - Labels, where there are any, are told to all three networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.backbones.build import convolutional, decoder, encoder
from paradigms.backbones.causal import Cache, CausalLayer
from paradigms.backbones.embed import Embedding
from paradigms.backbones.grid import GridDecoder, GridEncoder, RowDecoder, RowEncoder, resolutions
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.maths.observation import observation
from paradigms.maths.sums import running_sums
from paradigms.optim import adamw, cosine
from paradigms.recipe import Recipe

LONGEST = 1024  # codes for an example: its prior draws one after the other
LARGEST = 65_536  # codes in a book: the prior has a logit for each


@dataclass(frozen=True)
class Config(Settings):
    size: int = setting(128, least=2, most=LARGEST, says="codes K in the codebook")
    dim: int = setting(8, least=1, most=1024, says="numbers of a code's vector")
    factor: int = setting(
        4, least=1, says="pixels of an image per code, along each side (what the patch and the halvings make of it)"
    )
    slots: int = setting(2, least=1, most=LONGEST, says="codes for a vector")
    slot_size: int = setting(16, least=2, most=LARGEST, says="codes in the codebook of a vector's slot")
    beta: float = setting(0.25, above=0, says="weight of the commitment")
    decay: float = setting(0.99, least=0, below=1, says="g of the codebook's running averages")
    restart: float = setting(
        0.05, above=0, below=1, says="a code used less than this share of the mean use is restarted"
    )
    codec: float = setting(0.6, above=0, most=1, says="share of training for which the codec learns")
    depth: int = setting(2, least=1, says="layers of the prior")
    components: int = optim.components(10)
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    dropout: float = optim.dropout(0.1, "of the decoder's features (images only)")
    prior_dropout: float = optim.dropout(0.3, "of the prior's features")
    weight_decay: float = optim.weight_decay(0.01)
    clip: float = optim.clip(10.0)
    backbone: str = optim.backbone("auto", ("auto", "mlp"), "its codes have no grid")


# -------------------------------------------------------------------------------------------------------- codebook


class Codebook(nn.Module):
    """K vectors (K, dim) that follow the running means of what is assigned to them; moved by `move` alone."""

    codes: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, size: int, dim: int, decay: float, restart: float) -> None:
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("codes", torch.randn(size, dim))
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("total", self.codes.clone())

    def nearest(self, z: Tensor) -> Tensor:
        """The index (...) of the nearest code to each z (..., dim) (eq. 1)."""
        distance = self.codes.square().sum(1) - 2 * z @ self.codes.T  # short of ||z||^2, which all share
        return distance.argmin(-1)

    def vectors(self, c: Tensor) -> Tensor:
        """The vectors (..., dim) of codes c (...)."""
        return F.embedding(c, self.codes)

    def perplexity(self) -> Tensor:
        """exp of the entropy of the codes' running use: K when all are used alike, 1 when only one is."""
        return torch.special.entr(self.count / self.count.sum()).sum().exp()

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Puts the codes on z (K, dim), with the weight of one assignment each."""
        self.codes.copy_(z)
        self.total.copy_(z)
        self.count.fill_(1.0)

    @torch.no_grad()
    def move(self, z: Tensor, c: Tensor, spare: Tensor) -> None:
        """One step of eqs. 6-8 on z (n, dim) with codes c (n,); a code hardly used takes its row of spare (K, dim)."""
        used = F.one_hot(c, len(self.codes)).to(z)
        self.count.lerp_(used.sum(0), 1 - self.decay)
        self.total.lerp_(used.T @ z, 1 - self.decay)
        mean = self.count.mean()
        dead = self.count < self.restart * mean
        self.count.copy_(torch.where(dead, mean, self.count))
        self.total.copy_(torch.where(dead[:, None], mean * spare, self.total))
        self.codes.copy_(self.total / self.count[:, None])


# -------------------------------------------------------------------------------------------------------- networks


class Codec(nn.Module):
    """Encoder, codebook and decoder; an example has `positions` codes of `size` possible ones."""

    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        self.law = observation(space, config.components)
        said = replace(space, shape=self.law.shape)
        dim, slots = config.dim, config.slots
        self.encoder: nn.Module
        self.decoder: nn.Module
        if convolutional(space, config.backbone):
            self.size = config.size
            self.positions = math.prod(resolutions(space, config.factor)[-1])
            self.encoder = GridEncoder(space, dim, width, config.factor)
            self.decoder = GridDecoder(said, dim, self.law.shape[0], width, config.factor, config.dropout)
        else:
            self.size, self.positions = config.slot_size, slots
            self.encoder = RowEncoder(encoder(space, slots * dim, width, backbone="mlp"), slots)
            self.decoder = RowDecoder(decoder(said, slots * dim, 1, width, backbone="mlp"))
        self.codebook = Codebook(self.size, dim, config.decay, config.restart)

    def log_prob(self, x: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        """log p(x | z), (B,), of z (B, P, dim)."""
        return self.law.log_prob(self.decoder(z, y), x)


class CodePrior(Backbone):
    """log p(c_i | c_1 ... c_(i-1), y): logits (B, n, K) of codes from those before them.

    before (B, n): the code at the position before each; at position 0, where there is none, it is ignored. With a cache
    n is 1: the position that follows those read so far.
    """

    def __init__(self, size: int, positions: int, width: int, classes: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.code = nn.Parameter(0.02 * torch.randn(size, width))
        self.place = nn.Parameter(0.02 * torch.randn(positions, width))
        self.embed = Embedding(width, classes, timed=False)
        self.layers = nn.ModuleList(CausalLayer(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, before: Tensor, y: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        first = 0 if cache is None else cache.read
        place = torch.arange(first, first + before.shape[1], device=before.device)
        h = F.embedding(before, self.code) * (place > 0)[:, None] + self.place[place]
        label = self.embed(None, y)
        h = self.dropout(h if label is None else h + label[:, None])
        for i, layer in enumerate(self.layers):
            h = layer(h) if cache is None else layer(h, cache.kv[i], first)
        if cache is not None:
            cache.read += before.shape[1]
        return self.head(self.norm(h))

    def log_prob(self, c: Tensor, y: Tensor | None) -> Tensor:
        """log p(c | y), (B,), of codes c (B, P), in one call."""
        logits = self(c.roll(1, dims=1), y)
        return -F.cross_entropy(logits.transpose(1, 2), c, reduction="none").sum(1)

    def draw(self, u: Tensor, y: Tensor | None, temperature: float) -> Tensor:
        """Codes (B, P) from uniform u (B, P) by inverting each conditional's distribution function: P calls.

        The logits are divided by `temperature`; at 0 the likeliest code is taken.
        """
        cache = Cache.empty(self.layers, len(u), u.shape[1])
        c = torch.zeros_like(u[:, :1], dtype=torch.long)
        drawn = []
        for i in range(u.shape[1]):
            logits = self(c, y, cache)[:, -1]
            below = running_sums((logits / max(temperature, 1e-6)).softmax(1))
            # Rounding may leave the last sum below u.
            c = (below <= u[:, i : i + 1]).sum(1, keepdim=True).clamp_max(logits.shape[1] - 1)
            drawn.append(c)
        return torch.cat(drawn, dim=1)


# -------------------------------------------------------------------------------------------------------- paradigm

TEMPERATURE = "temperature divides the logits of the prior over codes"


class VQVAE(Paradigm):
    """See the module's text."""

    noiseless = True  # the code of an image is a function of it
    card = Card(
        title="VQ-VAE with an autoregressive prior",
        paper="van den Oord et al., Neural Discrete Representation Learning",
        year=2017,
        url="https://arxiv.org/abs/1711.00937",
        samplers=(
            Sampler(
                "sample",
                (1,),
                calls=None,  # one for each code, and one of the decoder: known only once the data is
                stochastic=True,
                options={"temperature": 1.0},
                ranges={"temperature": (0.0, 2.0)},
                note=f"x drawn from p(x | z); {TEMPERATURE}",
            ),
            Sampler(
                "mean",
                (1,),
                calls=None,
                options={"temperature": 1.0},
                ranges={"temperature": (0.0, 2.0)},
                note=f"the mean of p(x | z); {TEMPERATURE}",
            ),
        ),
        default=Plan("sample"),
        likelihoods=(Kind("elbo", "≤", 3, note="all of the posterior's mass on the encoder's codes"),),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.codec = Codec(config, space, width)
        self.code_prior = CodePrior(
            self.codec.size, self.codec.positions, 2 * width, space.classes, config.depth, config.prior_dropout
        )

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        if not convolutional(space, config.backbone):
            return None
        codes = math.prod(resolutions(space, config.factor)[-1])
        if codes <= LONGEST:
            return None
        return (
            f"{codes:,} codes for an image are more than its prior can draw one after the other (at most {LONGEST:,}); "
            "raise factor"
        )

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        lr, decay = self.config.lr, self.config.weight_decay
        return {net: adamw(net, lr, weight_decay=decay) for net in (self.codec, self.code_prior)}

    @torch.no_grad()
    def prepare(self, data: Data, noise: Noise) -> Data:
        """Starts the codes on random outputs of the encoder."""
        size = self.codec.size
        x, y = data.batch(noise.integers(len(data), size))
        z = self.codec.encoder(x, y)
        self.codec.codebook.start(z[torch.arange(size, device=z.device), noise.integers(z.shape[1], size)])
        return data

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        codec, book = self.codec, self.codec.codebook
        learning = progress < self.config.codec
        with torch.set_grad_enabled(learning):
            z_e = codec.encoder(x, y)
        c = book.nearest(z_e.detach())
        if learning:
            z_q = book.vectors(c)
            through = z_e + (z_q - z_e).detach()  # d z_q / d z_e := 1
            reconstruction = -codec.log_prob(x, through, y).mean()
            commitment = (z_e - z_q).square().mean()
            # Per dimension of x, so that the gradient's size does not depend on the image's.
            loss = reconstruction / self.space.dim + self.config.beta * commitment
            terms = {"reconstruction": reconstruction, "commitment": commitment}
            rows = z_e.detach().flatten(0, 1)
            spare = rows[noise.integers(len(rows), self.codec.size)]
            settings = {"lr": self.config.lr * cosine(progress / self.config.codec)}
            after = partial(book.move, rows, c.flatten(), spare)
            yield Update(codec, loss, terms, settings, clip=self.config.clip, after=after)

        nats = -self.code_prior.log_prob(c, y).mean()
        settings = {"lr": self.config.lr * cosine(progress)}
        terms = {"codes": nats, "perplexity": book.perplexity()}
        yield Update(self.code_prior, nats / c.shape[1], terms, settings, clip=self.config.clip)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        perplexity, size = terms.get("perplexity", math.inf), self.codec.size
        if perplexity >= 0.1 * size or terms.get("plain"):
            return None
        return (
            f"codebook collapse: the codes in use are worth {perplexity:.1f} of {size} (their perplexity), so the decoder "
            "is told little; raise restart, or lower size or beta"
        )

    def prior(self, n: int, noise: Noise) -> Tensor:
        """Uniform numbers (n, P): what the codes are drawn with."""
        return noise.uniform(n, self.codec.positions)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        c = self.code_prior.draw(z, cond, plan.option("temperature", 1.0))
        out = self.codec.decoder(self.codec.codebook.vectors(c), cond)
        return self.codec.law.mean(out) if plan.sampler == "mean" else self.codec.law.sample(out, noise)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        c = self.codec.codebook.nearest(self.codec.encoder(x, cond))
        log_px = self.codec.log_prob(x, self.codec.codebook.vectors(c), cond)
        log_pc = self.code_prior.log_prob(c, cond)
        return Estimate(log_px + log_pc, terms={"reconstruction": -log_px, "codes": -log_pc})


RECIPES = (
    Recipe(
        "vq-vae",
        VQVAE,
        Config(),
        "a grid of codes from a learned codebook; an autoregressive prior over them",
        variant_of="vae",
    ),
)
