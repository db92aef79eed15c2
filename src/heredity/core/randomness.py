"""Random numbers that depend on where they are used and on nothing else.

Every optimiser step draws from a generator seeded by (run seed, stage, step). A run that is killed and resumed, and a
batch that is shared by several processes, therefore see the same numbers as one uninterrupted process.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any labels, stable across machines and Python versions.

    >>> seed_of(0, "teacher") == seed_of(0, "teacher") != seed_of(1, "teacher")
    True
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of`."""
    return torch.Generator().manual_seed(seed_of(*parts))


@dataclass(frozen=True)
class Draws:
    """Random numbers for one process's share of a batch.

    The leading dimension counts samples. Numbers are drawn for the whole batch and each process keeps its rows, so that
    a sample meets the same augmentation on one process and on many.

    >>> whole = Draws(generator_of(0)).uniform(4)
    >>> half = Draws(generator_of(0), rank=1, world=2).uniform(2)
    >>> bool((whole[2:] == half).all())
    True
    """

    generator: torch.Generator
    rank: int = 0
    world: int = 1

    def _mine(self, whole: Tensor, samples: int) -> Tensor:
        return whole[self.rank * samples : (self.rank + 1) * samples]

    def uniform(self, samples: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "samples ..."]:
        """Uniform numbers in [low, high), float32, one row a sample."""
        whole = torch.rand(samples * self.world, *shape, generator=self.generator)
        return self._mine(whole, samples) * (high - low) + low

    def normal(self, samples: int, *shape: int) -> Float[Tensor, "samples ..."]:
        """Standard normal numbers, float32, one row a sample."""
        return self._mine(torch.randn(samples * self.world, *shape, generator=self.generator), samples)

    def integers(self, samples: int, *shape: int, high: int) -> Int[Tensor, "samples ..."]:
        """Integers in [0, high), int64, one row a sample."""
        return self._mine(torch.randint(high, (samples * self.world, *shape), generator=self.generator), samples)

    def rows(self, samples: int, total: int) -> Int[Tensor, "samples"]:
        """Row numbers in [0, total), without repetition while the batch is not larger than the set."""
        needed = samples * self.world
        orders = [torch.randperm(total, generator=self.generator) for _ in range(-(-needed // total))]
        return self._mine(torch.cat(orders)[:needed], samples)
