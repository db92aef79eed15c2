"""SSL-WM beside its peers: the published loss and stamping as their code does them, and scipy's permutation test.

    python benchmarks/ssl_wm.py

Both sides of a pair compute the same numbers (checked first) and take turns; printed is the ratio of median times.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import permutation_test as scipy_permutation_test

from heredity.systems.ssl_wm.mark.embedding import invariance_loss
from heredity.systems.ssl_wm.mark.keys import KeyParameters, random_patches
from heredity.systems.ssl_wm.mark.trigger import stamp_all
from heredity.systems.ssl_wm.proof.verification import Answers, flip_rates, permutation_test


def ratio(name: str, peer: Callable[[], object], ours: Callable[[], object], rounds: int = 9) -> None:
    """Time both in turns and print how many times faster ours is."""
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for turn in range(rounds + 1):
        for side, work in (("peer", peer), ("ours", ours)):
            began = time.perf_counter()
            work()
            if turn:
                times[side].append(time.perf_counter() - began)
    peer_time, our_time = (statistics.median(times[side]) for side in ("peer", "ours"))
    print(f"{name:<58} {1e3 * peer_time:9.2f} ms  {1e3 * our_time:9.2f} ms  {peer_time / our_time:7.1f}x")


def matrix_invariance(marked: torch.Tensor) -> torch.Tensor:
    """The published loss as its code computes it: the whole similarity matrix, and a masked copy of it."""
    unit = torch.nn.functional.normalize(marked, dim=1)
    similarity = unit @ unit.T
    different = ~torch.eye(len(unit), dtype=torch.bool)
    return -torch.masked_select(similarity, different).mean().log()


def benchmark_loss() -> None:
    """Forward and backward of the published L_wm on the two stamped views of 192 images."""
    features = torch.randn(384, 512, generator=torch.Generator().manual_seed(0)) + 0.5

    def with_gradient(loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        leaf = features.clone().requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad

    assert torch.allclose(with_gradient(matrix_invariance), with_gradient(invariance_loss), atol=1e-6)
    ratio(
        "L_wm, 384 x 512: n x n matrix / sum of vectors",
        lambda: with_gradient(matrix_invariance),
        lambda: with_gradient(invariance_loss),
    )


def stamp_by_loop(images: torch.Tensor, patches: torch.Tensor, shape: KeyParameters) -> torch.Tensor:
    """One image after another, each appended to a growing tensor."""
    first = shape.reference_size - shape.margin - shape.patch
    rows = []
    for patch in patches:
        grown = images[:0]
        for image in images:
            copy = image.clone()
            copy[:, first : first + shape.patch, first : first + shape.patch] = patch
            grown = torch.cat([grown, copy[None]])
        rows.append(grown)
    return torch.stack(rows)


def benchmark_stamping() -> None:
    """The queries of one verification: 32 patches on 256 images of 32 pixels."""
    shape = KeyParameters()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    patches = random_patches(32, shape, generator)
    assert torch.equal(stamp_by_loop(images, patches, shape), stamp_all(images, patches, shape))
    ratio(
        "stamping 32 x 256 images: image by image / broadcast",
        lambda: stamp_by_loop(images, patches, shape),
        lambda: stamp_all(images, patches, shape),
        rounds=5,
    )


def benchmark_permutations() -> None:
    """The same statistic on the same answers, 20 000 sampled picks of 8 among 32 keys."""
    random = np.random.default_rng(0)
    answers = Answers(random.integers(10, size=128), random.integers(10, size=(32, 128)), 8)
    rates = flip_rates(answers.clean, answers.stamped, 10)

    def statistic(owned: np.ndarray, decoys: np.ndarray, axis: int = -1) -> np.ndarray:
        return rates[owned.astype(int)].sum(axis=-2).max(axis=-1)

    keys = np.arange(32)

    def peer() -> float:
        return float(
            scipy_permutation_test(
                (keys[:8], keys[8:]),
                statistic,
                permutation_type="independent",
                alternative="greater",
                n_resamples=20_000,
                vectorized=True,
                batch=2000,
                rng=np.random.default_rng(1),
            ).pvalue
        )

    def ours() -> float:
        return permutation_test(answers, random=np.random.default_rng(1), picks=20_000).p

    assert abs(peer() - ours()) < 0.02, (peer(), ours())
    ratio("permutation test, 20 000 picks: scipy / ours", peer, ours, rounds=5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'':<58} {'peer':>12}  {'ours':>12}    ratio")
    benchmark_loss()
    benchmark_stamping()
    benchmark_permutations()
