"""The network behind the name FID: Inception-v3 as Google published it in December 2015, up to its 2,048 pooled features.

Heusel et al. (arXiv:1706.08500) took the features of *this* file, whose graph differs from the Inception-v3 of Szegedy
et al. (arXiv:1512.00567) and of torchvision in three places: averages leave the padding out, the pool of the last block
takes maxima, and images are enlarged without half-pixel centres. The weights are those that torch-fidelity converted
from it; names of layers are those of that file, so that the file fits. Another network, or the same after another resize, gives
other numbers, which are not FIDs.

It is written here, and not taken from a peer, because torch-fidelity and torchmetrics need a torchvision that matches
torch to the build even to be imported. `tests/test_features.py` pins its outputs to torch-fidelity's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DIM", "SIDE", "Inception", "enlarge"]

DIM = 2048
SIDE = 299  # pixels that the network sees

Size = int | tuple[int, int]
Layer = tuple[str, int, Size]  # name, output channels, kernel
ROW, COLUMN = (1, 7), (7, 1)


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation with the statistics of training, a rectifier."""

    def __init__(self, channels: int, out: int, kernel: Size, stride: int, same: bool) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same else (0, 0)
        self.conv = nn.Conv2d(channels, out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Parallel branches of convolutions, their outputs joined, and a pool as one more branch.

    branches: layers one after the other; the last convolution of each halves the size where `halves`.
    forks:    the last layers of a branch, both fed with what is before them: {branch: two layers}.
    pooled:   channels of the convolution behind the pool; 0: none, the pool's own.
    """

    def __init__(
        self,
        channels: int,
        branches: tuple[tuple[Layer, ...], ...],
        pooled: int = 0,
        halves: bool = False,
        largest: bool = False,
        forks: dict[int, tuple[Layer, Layer]] | None = None,
    ) -> None:
        super().__init__()
        self.halves, self.largest = halves, largest
        self.ways: list[tuple[list[str], list[str]]] = []
        self.out = pooled or channels
        for index, layers in enumerate(branches):
            inner = channels
            for name, out, kernel in layers:
                last = name == layers[-1][0] and halves
                self.add_module(name, Convolution(inner, out, kernel, 2 if last else 1, same=not last))
                inner = out
            ends = (forks or {}).get(index, ())
            for name, out, kernel in ends:
                self.add_module(name, Convolution(inner, out, kernel, 1, same=True))
            self.out += sum(out for _, out, _ in ends) or inner
            self.ways.append(([name for name, _, _ in layers], [name for name, _, _ in ends]))
        self.branch_pool = Convolution(channels, pooled, 1, 1, same=True) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for layers, ends in self.ways:
            y = x
            for name in layers:
                y = self.get_submodule(name)(y)
            outputs += [self.get_submodule(name)(y) for name in ends] or [y]
        if self.halves:
            outputs.append(F.max_pool2d(x, 3, 2))
        else:
            pool = F.max_pool2d(x, 3, 1, 1) if self.largest else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            assert self.branch_pool is not None
            outputs.append(self.branch_pool(pool))
        return torch.cat(outputs, 1)


def _double(*outs: int, stem: str = "branch3x3dbl", kernels: tuple[Size, ...] = (1, 3, 3)) -> tuple[Layer, ...]:
    return tuple((f"{stem}_{i}", out, kernel) for i, (out, kernel) in enumerate(zip(outs, kernels), 1))


def _first(channels: int, pooled: int) -> Block:
    five = (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return Block(channels, ((("branch1x1", 64, 1),), five, _double(64, 96, 96)), pooled)


def _middle(c: int) -> Block:
    seven = _double(c, c, 192, stem="branch7x7", kernels=(1, ROW, COLUMN))
    twice = _double(c, c, c, c, 192, stem="branch7x7dbl", kernels=(1, COLUMN, ROW, COLUMN, ROW))
    return Block(768, ((("branch1x1", 192, 1),), seven, twice), 192)


def _last(channels: int, largest: bool) -> Block:
    three, double = "branch3x3", "branch3x3dbl"
    forks: dict[int, tuple[Layer, Layer]] = {
        1: ((f"{three}_2a", 384, (1, 3)), (f"{three}_2b", 384, (3, 1))),
        2: ((f"{double}_3a", 384, (1, 3)), (f"{double}_3b", 384, (3, 1))),
    }
    branches = ((("branch1x1", 320, 1),), ((f"{three}_1", 384, 1),), _double(448, 384))
    return Block(channels, branches, 192, largest=largest, forks=forks)


class Inception(nn.Module):
    """Bytes 0 ... 255 as floats, (B, 3, H, W), to features (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, same=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, 1, same=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1, same=True)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1, 1, same=False)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, 1, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _first(192, 32), _first(256, 64), _first(288, 64)
        self.Mixed_6a = Block(288, ((("branch3x3", 384, 3),), _double(64, 96, 96)), halves=True)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_middle(c) for c in (128, 160, 160, 192))
        seven = _double(192, 192, 192, 192, stem="branch7x7x3", kernels=(1, ROW, COLUMN, 3))
        self.Mixed_7a = Block(768, (_double(192, 320, stem="branch3x3"), seven), halves=True)
        self.Mixed_7b, self.Mixed_7c = _last(1280, largest=False), _last(2048, largest=True)
        self.fc = nn.Linear(DIM, 1008)  # in the file; the features are taken before it

    def forward(self, x: Tensor) -> Tensor:
        x = (enlarge(x, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def enlarge(x: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) at (B, C, side, side) as TensorFlow 1 resized them: pixel i is read at i·H/side, linearly.

    Neither half-pixel centres nor antialiasing: the top left corner stays where it is.
    """
    for dim in (2, 3):
        n = x.shape[dim]
        at = torch.arange(side, device=x.device, dtype=torch.float32) * (n / side)
        low = at.floor().long().clamp(max=n - 1)
        weight = (at - low).to(x.dtype).view([-1 if d == dim else 1 for d in range(4)])
        high = (low + 1).clamp(max=n - 1)
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)
    return x
