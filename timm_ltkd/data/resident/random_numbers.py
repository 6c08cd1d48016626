"""Random numbers that are a function of what they are for: no generator, the same on any device and in any order."""
import math
from collections.abc import Sequence

import torch

ATTEMPTS = 10  # to find a box that fits, as timm makes
_STEP = 0x9E3779B97F4A7C15 - 2 ** 64  # 2^64 divided by the golden ratio, as an int64


def mix(values: torch.Tensor) -> torch.Tensor:
    """Bits that look random, and are others for each value; int64, a bijection.

    Source: the output function of SplitMix64, Steele et al. 2014, https://doi.org/10.1145/2660193.2660195.
    """
    values = (values ^ _shift(values, 30)) * (0xBF58476D1CE4E5B9 - 2 ** 64)
    values = (values ^ _shift(values, 27)) * (0x94D049BB133111EB - 2 ** 64)
    return values ^ _shift(values, 31)


def keys(seed: int, *parts: torch.Tensor) -> torch.Tensor:
    """A key for each place of the parts, int64 `[M]`, that depends on the seed, all parts, and their order.

    Args:
        seed: From 0 to 2**63 - 1.
        *parts: Whole numbers, int64 `[M]` each.
    """
    key = torch.full_like(parts[0], seed)
    for part in parts:
        key = mix(key + part * _STEP)
    return key


def random_bits(keys: torch.Tensor, count: int) -> torch.Tensor:
    """`count` int64 for each key, `[*, count]`."""
    places = torch.arange(1, count + 1, device=keys.device)
    return mix(keys[..., None] + places * _STEP)


def between(uniform: torch.Tensor, ends: Sequence[float]) -> torch.Tensor:
    """From numbers in [0, 1) to numbers between the ends."""
    return ends[0] + (ends[1] - ends[0]) * uniform


def uniforms(keys: torch.Tensor, count: int) -> torch.Tensor:
    """`count` float64 from 0 to below 1 for each key, `[*, count]`."""
    return _shift(random_bits(keys, count), 11).double() * 2. ** -53


def normals(keys: torch.Tensor, count: int) -> torch.Tensor:
    """`count` float32 for each key, `[*, count]`, of mean 0 and variance 1.

    Source: Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645; two from the halves of 64 bits.
    """
    bits = random_bits(keys, -(-count // 2))
    radius = (-2 * ((_shift(bits, 32).float() + 0.5) * 2. ** -32).log()).sqrt()
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2. ** -32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :count]


def below(uniform: torch.Tensor, bound: torch.Tensor | int) -> torch.Tensor:
    """A whole number from 0 to `bound` - 1 from each uniform number, int64."""
    return (uniform * bound).long()  # of 53 bits, so that it stays below


def _shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, filled up with zeros: int64 has none but the one that repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
