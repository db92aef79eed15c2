"""The embedded graph: a stochastic block model in which groups differ in base rate, friends and features."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import ConfigError
from heredity.core.randomness import generator_of
from heredity.data.graphs.graph import Graph, assemble
from heredity.data.graphs.splits import drawn_split

LABEL_DIMENSIONS, PROXY_DIMENSIONS, NOISE_DIMENSIONS = 6, 4, 10


@dataclass(frozen=True)
class BiasedSbm:
    """What the generator may be asked for: `biased-sbm?nodes=500,homophily=4`.

    Few training labels, weak label evidence (`label_shift`) and strong group evidence (`proxy_shift`, `homophily`) make every
    model lean on the group, so that predicted gaps exceed the true one (`label_gap`): bias that can be removed for free.
    """

    nodes: int = 3000
    degree: float = 10.0
    """Mean degree."""
    group_share: float = 0.5
    """P(s=1)."""
    base_rate: float = 0.35
    """P(y=1 | s=0)."""
    label_gap: float = 0.20
    """P(y=1 | s=1) - P(y=1 | s=0)."""
    homophily: float = 4.0
    """How many times likelier an edge is within a group than across."""
    label_homophily: float = 2.0
    """How many times likelier an edge is within a class than across."""
    label_shift: float = 0.45
    """Mean of the label features: + for y=1, - for y=0; their standard deviation is 1."""
    proxy_shift: float = 0.8
    """Mean of the proxy features: + for s=1, - for s=0."""
    include_sensitive: bool = True
    """Whether the group itself is the first feature."""
    train: float = 0.1
    validation: float = 0.2

    def __post_init__(self) -> None:
        rates = (self.group_share, self.base_rate, self.base_rate + self.label_gap, self.train + self.validation)
        problems = {
            "nodes must lie in 40..20000000": 40 <= self.nodes <= 20_000_000,
            "degree must be positive and below nodes / 4": 0 < self.degree < self.nodes / 4,
            "group_share, base_rate, base_rate + label_gap and train + validation must lie between 0 and 1": all(
                0 < rate < 1 for rate in (*rates, self.train, self.validation)
            ),
            "homophily and label_homophily must be positive": min(self.homophily, self.label_homophily) > 0,
        }
        for problem, fine in problems.items():
            if not fine:
                raise ConfigError(f"biased-sbm: {problem}", remedy="for example biased-sbm?nodes=3000,homophily=4")


def biased_sbm(config: BiasedSbm, *, seed: int, raw: bool = False) -> Graph:
    """Draw a graph in O(nodes + edges).

    Blocks are (s, y); the expected number of edges between two blocks is proportional to the product of their sizes, times
    `homophily` where s agrees, times `label_homophily` where y agrees.

    >>> biased_sbm(BiasedSbm(nodes=200), seed=0).features.shape
    torch.Size([200, 21])
    """
    n, random = config.nodes, generator_of("biased-sbm", seed)
    sensitive = (torch.rand(n, generator=random) < config.group_share).long()
    labels = (torch.rand(n, generator=random) < config.base_rate + config.label_gap * sensitive).long()
    pairs = _edges(config, sensitive, labels, random)

    def shifted(dimensions: int, sign: Tensor, shift: float) -> Tensor:
        return torch.randn(n, dimensions, generator=random) + shift * (2.0 * sign[:, None] - 1.0)

    columns = [sensitive[:, None].float()] if config.include_sensitive else []
    columns += [
        shifted(LABEL_DIMENSIONS, labels, config.label_shift),
        shifted(PROXY_DIMENSIONS, sensitive, config.proxy_shift),
        shifted(NOISE_DIMENSIONS, labels, 0.0),
    ]
    kinds = (("label", LABEL_DIMENSIONS), ("proxy", PROXY_DIMENSIONS), ("noise", NOISE_DIMENSIONS))
    names = ["group"] if config.include_sensitive else []
    names += [f"{kind}_{number}" for kind, count in kinds for number in range(count)]
    seen = ("the features hold the group itself: models see it",) if config.include_sensitive else ()
    return assemble(
        name="biased-sbm",
        features=torch.cat(columns, dim=1),
        labels=labels,
        sensitive=sensitive,
        pairs=pairs,
        split=drawn_split(labels, train=config.train, validation=config.validation, seed=seed, name="biased-sbm"),
        feature_names=names,
        label_name="label",
        sensitive_name="group",
        notes=(f"procedural, seed {seed}", *seen),
        raw=raw,
    )


def _edges(config: BiasedSbm, sensitive: Tensor, labels: Tensor, random: torch.Generator) -> Int[Tensor, "2 m"]:
    """For each pair of blocks a Poisson number of edges, their ends uniform in the blocks."""
    blocks = [torch.nonzero((sensitive == s) & (labels == y)).flatten() for s in (0, 1) for y in (0, 1)]
    sizes = torch.tensor([len(block) for block in blocks], dtype=torch.float64)
    group, label = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    weights = torch.where(group[:, None] == group, config.homophily, 1.0).double()
    weights = weights * torch.where(label[:, None] == label, config.label_homophily, 1.0)
    expected = weights * sizes[:, None] * sizes
    expected = expected * (config.nodes * config.degree / expected.sum())
    parts = []
    for a in range(4):
        for b in range(a, 4):
            rate = expected[a, b] * (0.5 if a == b else 1.0)
            count = int(torch.poisson(rate.reshape(1), generator=random))
            if count:
                ends = [
                    block[torch.randint(len(block), (count,), generator=random)] for block in (blocks[a], blocks[b])
                ]
                parts.append(torch.stack(ends))
    return torch.cat(parts, dim=1)
