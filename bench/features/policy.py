"""What is done to an image before a network that was made for other images sees it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.errors import BadInput, unknown

__all__ = ["IMAGENET", "Adapted", "Policy"]

Range = Literal["symmetric", "unit", "bytes", "imagenet"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Policy:
    """What is done to an image before a foreign network sees it; as text, part of the space's name.

    size:     side in pixels; 0: the data's own size.
    resize:   "bilinear" or "bicubic", antialiased; used where the size differs.
    channels: 3 repeats a grey image, 1 takes the luma of a colour one (ITU-R 601); 0: the data's own.
    range:    of black and white: "symmetric" [-1, 1], "unit" [0, 1], "bytes" [0, 255], "imagenet": its mean and
              standard deviation.
    """

    size: int = 0
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    channels: Literal[0, 1, 3] = 0
    range: Range = "symmetric"

    def __str__(self) -> str:
        size = f"{self.size}-{self.resize}" if self.size else "own-size"
        channels = {0: "own-channels", 1: "grey", 3: "rgb"}[self.channels]
        return f"{size},{channels},{self.range}"

    @classmethod
    def parse(cls, text: str, spec: str) -> Self:
        """From "size=224,channels=3,range=imagenet". Raises BadInput."""
        known = {f.name: f for f in fields(cls)}
        choices = {"resize": ("bilinear", "bicubic"), "channels": ("0", "1", "3"), "range": get_args(Range)}
        values: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key not in known:
                raise unknown(f"setting in --features {spec}:", key, known)
            if key in choices and value not in choices[key]:
                raise BadInput(f"--features {spec}: {key} is one of {', '.join(choices[key])}, not '{value}'")
            if key == "size" and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1024):
                raise BadInput(f"--features {spec}: size is a whole number of pixels up to 1024, not '{value}'")
            values[key] = int(value) if key in ("size", "channels") else value
        return cls(**values)


class Adapted(nn.Module):
    """A foreign network behind a policy: bin centres in, features (B, d) out."""

    def __init__(self, network: nn.Module, policy: Policy, levels: int) -> None:
        super().__init__()
        self.network, self.policy, self.levels = network, policy, levels

    def forward(self, x: Tensor) -> Tensor:
        # Back to integers k = 0 ... L - 1, and these evenly over [0, 1]: a byte is a byte.
        x = (((x + 1) * self.levels - 1) / 2 / (self.levels - 1)).clamp(0, 1)
        if self.policy.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        elif self.policy.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)
        size = self.policy.size
        if size and tuple(x.shape[2:]) != (size, size):
            x = F.interpolate(x, (size, size), mode=self.policy.resize, align_corners=False, antialias=True).clamp(0, 1)
        if self.policy.range == "imagenet":
            mean, deviation = (x.new_tensor(v).view(3, 1, 1) for v in IMAGENET)
            x = (x - mean) / deviation
        elif self.policy.range != "unit":
            x = x * 255 if self.policy.range == "bytes" else x * 2 - 1
        found = self.network(x)
        found = found[0] if isinstance(found, (tuple, list)) else found
        return found.reshape(len(x), -1)
