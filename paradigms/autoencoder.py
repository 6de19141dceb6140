"""The first stage of latent diffusion: an autoencoder whose codes are small images, kept near a normal by a little KL.

Model.      q(z | x) = N(mu(x), diag sd(x)^2) on a grid of `channels` numbers at every `factor`-th pixel, and p(x | z): on
            images every pixel is an independent discretised mixture of logistics, on vectors an independent Gaussian of a
            given scale. A vector's z is one of `dims` numbers.

Objective.  E_q -log p(x | z) + beta KL(q(z | x) || N(0, I)), in closed form for the KL (Kingma & Welling, appendix B). At
            beta = 1 this is a VAE. Below it z says more of x than its own prior pays for: a second stage learns the prior,
            and what is left to p(x | z) must be so little that drawing its pixels independently does not show.

Sampling.   None: z ~ N(0, I) is no prior for such codes. What it can show is a reconstruction, z ~ q(z | x), x ~ p(x | z).

Likelihood. That of the second stage, which bounds it with this q and this p.

References
    R. Rombach, A. Blattmann, D. Lorenz, P. Esser, B. Ommer. High-Resolution Image Synthesis with Latent Diffusion Models.
        CVPR 2022. arXiv:2112.10752                                         (section 3.1, "KL-reg."; appendix G)
    D. Kingma, M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114
    T. Salimans et al. PixelCNN++. ICLR 2017. arXiv:1701.05517              (the mixture of logistics)

Where this differs from the papers
    - -log p(x | z) in place of an absolute error, LPIPS and a critic: it makes the whole a model with a likelihood, and
      LPIPS knows other data than these. KL is weighed by 0.1 and not 1e-6, in the same nats as the data.
    - Of real-valued data p(x | z) has a fixed scale. A nat of precision costs only beta nats of KL, so that with a learned
      scale one coordinate of ring8 was told ever more exactly (to 0.004) and the other not at all.
    - Encoder and decoder are those of the VQ-VAE here, without attention. Labels, where there are any, are told to both.
    - Small batches: at these budgets a run has too few steps otherwise (`docs/notes.md` has the measurements).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones.build import decoder, encoder
from paradigms.backbones.grid import GridDecoder, GridEncoder, resolutions
from paradigms.contract import Frozen, Trainable, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.settings import Settings, setting
from paradigms.maths.observation import FixedGaussian, observation
from paradigms.optim import adamw, cosine
from paradigms.recipe import Recipe

ACTIVE = 0.1  # nats of KL, averaged over a batch and its grid, from which a channel of z counts as used
SMALL = 16  # pixels of a side up to which a code stands for 2 x 2 of them, above for 4 x 4


@dataclass(frozen=True)
class Config(Settings):
    channels: int = setting(4, least=1, most=1024, says="numbers of a code")
    factor: int = setting(
        0, least=0, says="pixels of an image per code, along each side; 0: 2 up to 16 pixels, 4 above"
    )
    dims: int = setting(0, least=0, most=1024, says="numbers of a vector's z; 0: as many as the vector has")
    beta: float = setting(0.1, least=0, says="weight of the KL")
    components: int = optim.components(5)
    scale: float = setting(0.05, above=0, most=1, says="of p(x | z) where x is real-valued")
    batch: int = optim.batch(16)
    lr: float = optim.lr(2e-3)
    dropout: float = optim.dropout(0.0, "of the decoder's features (images only)")
    weight_decay: float = optim.weight_decay(0.01)
    clip: float = optim.clip(10.0)


class Grid(nn.Module):
    """(x (B, C, H, W), y) -> (B, numbers, h, w): what the encoder gives, as an image."""

    def __init__(self, space: Space, numbers: int, width: int, factor: int) -> None:
        super().__init__()
        self.sides = resolutions(space, factor)[-1]
        self.net = GridEncoder(space, numbers, width, factor)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, y).transpose(1, 2).unflatten(2, self.sides)


class Ungrid(nn.Module):
    """(z (B, c, h, w), y) -> (B, cout, H, W)."""

    def __init__(self, net: GridDecoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z.flatten(2).transpose(1, 2), y)


class Coder(nn.Module):
    """Encoder and decoder, trained as one module."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class Autoencoder(Trainable):
    """See the module's text. `latent`: the space of its z; `law`: p(x | z), given what `decode` makes of z."""

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.law = observation(space, config.components) if space.levels else FixedGaussian(space, config.scale)
        said = replace(space, shape=self.law.shape)
        if space.is_image:
            factor = config.factor or (2 if max(space.shape[1:]) <= SMALL else 4)
            grid = Grid(space, 2 * config.channels, width, factor)
            self.latent = Space((config.channels, *grid.sides), space.classes)
            net = GridDecoder(said, config.channels, self.law.shape[0], width, factor, config.dropout)
            self.coder = Coder(grid, Ungrid(net))
        else:
            dims = config.dims or space.dim
            self.latent = Space((dims,), space.classes)
            self.coder = Coder(encoder(space, 2 * dims, width), decoder(said, dims, 1, width))

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        if not space.is_image or config.factor <= min(space.shape[1:]):
            return None
        return f"a code for {config.factor} x {config.factor} pixels is larger than the image; lower factor"

    def encode(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and log sd of q(z | x), each (B, *latent.shape)."""
        mu, log_sd = self.coder.encoder(x, cond).chunk(2, dim=1)
        return mu, log_sd.clamp(-7, 3)

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """What `law` makes of p(x | z), of z (B, *latent.shape)."""
        return self.coder.decoder(z, cond)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        decay = self.config.weight_decay if self.space.is_image else 0.0
        return {self.coder: adamw(self.coder, self.config.lr, weight_decay=decay)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        mu, log_sd = self.encode(x, y)
        z = mu + log_sd.exp() * noise.normal(*mu.shape)
        reconstruction = -self.law.log_prob(self.decode(z, y), x).mean()
        kl = 0.5 * (mu.square() + (2 * log_sd).exp() - 1) - log_sd
        # Per dimension of x, so that the gradient's size does not depend on the image's.
        loss = (reconstruction + self.config.beta * kl.flatten(1).sum(1).mean()) / self.space.dim
        each = kl.transpose(0, 1).flatten(1).mean(1)
        active = (each > ACTIVE).sum().to(kl.dtype)
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl.flatten(1).sum(1).mean(), "active": active}
        yield Update(self.coder, loss, terms, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        channels = self.latent.shape[0]
        active = terms.get("active", float(channels))
        # A vector's z may rightly have more numbers than the vector extends in directions.
        if active >= 0.5 * min(channels, terms.get("directions", self.space.dim)):
            return None
        return (
            f"posterior collapse: {channels - active:.0f} of {channels} channels of the code carry less than {ACTIVE:g} "
            "nats, so the decoder hardly looks at them; train longer, or lower beta or channels"
        )


RECIPES = (
    Recipe(
        "autoencoder",
        Autoencoder,
        Config(),
        "codes on a small grid, for a second stage to model",
        title="Autoencoder (first stage of latent diffusion: trained, not compared)",
    ),
)
