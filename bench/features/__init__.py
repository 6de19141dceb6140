"""Feature spaces: frozen networks in which samples and real images are compared.

A Frechet distance is not a number but a (feature space, sample size, split) tuple, so a space here is a thing with a
name and a hash, and both go into every row. Two kinds exist, with different blind spots:

- a small *classifier* of the data set, trained on its training split by `bench.features.train` and shipped as package
  data. It sees what tells the classes apart and may ignore the rest. Retraining it makes a new space.
- *random-conv*, convolutions with fixed random weights. It never saw a label or an image, exists for any image shape,
  and sees texture and layout alike.

`named` adds those that a user asks for: `inception-2015`, the only one whose distance may be called FID, and any
network of the user's (ONNX, a factory in an installed module, a classifier that `bench.features.train` made of their folder
of images). These take images of a size and range of their own, and what is done to an image on the way is part of the
space's name: name/policy@hash.

A file that is read here is data and never runs code: an ONNX graph, tensors in safetensors, tensors unpickled with
`weights_only` and checked by hash. What torch itself saves is a program and is refused: `torch.export.load` unpickles
and evaluates text of the file, and TorchScript can write files (`torch.save` is one of its operators). A factory is
code, and is imported and called.

Features are float32 and computed on the CPU wherever the samples were drawn, so one space gives one set of numbers.

References: Heusel et al. 2017 (arXiv:1706.08500) for the distance; Kynkäänniemi et al. 2022 (arXiv:2203.06026) for what
a classifier's features hide; Naeem et al. 2020 (arXiv:2002.09797) for random networks as an embedding.

    space         `FeatureSpace`: an extractor with its name and hash; `Features`, what it gives
    classifier    the classifiers of data sets, their files and the list of shipped ones (weights/); train: how they are made
    convolutions  the space of random convolutions
    requested     spaces that a user names: a file of a network, a factory; policy: what is done to an image first
    fid           the space of FID, with its network in inception
    chosen        which spaces a data set is scored in
    cache         features of real images, kept on disk
"""

from bench.features.cache import cached
from bench.features.chosen import spaces_for, too_few
from bench.features.classifier import SUMS, WEIGHTS, Architecture, Classifier, hashes, listed, serialise, shipped
from bench.features.convolutions import random_conv
from bench.features.fid import FID, frechet_title
from bench.features.requested import named
from bench.features.space import Extractor, Features, FeatureSpace

__all__ = [
    "FID",
    "SUMS",
    "WEIGHTS",
    "Architecture",
    "Classifier",
    "Extractor",
    "FeatureSpace",
    "Features",
    "cached",
    "frechet_title",
    "hashes",
    "listed",
    "named",
    "random_conv",
    "serialise",
    "shipped",
    "spaces_for",
    "too_few",
]
