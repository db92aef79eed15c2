"""How often the test cries wolf: random keys on clean children, and forged keys on stolen ones (spec section 2.8)."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import UInt8
from scipy.stats import binom
from torch import Tensor, nn

from heredity.nn.inference import top1
from heredity.systems.ssl_wm.mark.keys import KeyParameters, random_patches
from heredity.systems.ssl_wm.mark.trigger import stamp_all
from heredity.systems.ssl_wm.proof.verification import Answers, flip_rates, per_image_test, permutation_test

LEVELS = (0.05, 0.01, 0.001)


def answers_of(
    child: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    patches: UInt8[Tensor, "k c s s"],
    owned: int,
    shape: KeyParameters,
) -> Answers:
    """A local model's answers to every image, clean and under every patch, in few large batches."""
    clean = top1(child, images).numpy()
    stamped = torch.cat([top1(child, stamp_all(images, part, shape).flatten(0, 1)) for part in patches.split(32)])
    return Answers(clean, stamped.reshape(len(patches), len(images)).numpy(), owned)


def random_key_p_values(
    child: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    shape: KeyParameters,
    *,
    trials: int,
    decoys: int,
    picks: int,
    per_image: bool,
    generator: torch.Generator,
) -> list[float]:
    """p of `trials` random keys, each with decoys of its own, so that trials are independent given the child."""
    each = shape.sub_keys + decoys
    patches = random_patches(trials * each, shape, generator)
    answers = answers_of(child, images, patches, shape.sub_keys, shape)
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    values = []
    for trial in range(trials):
        part = Answers(answers.clean, answers.stamped[trial * each : (trial + 1) * each], shape.sub_keys)
        values.append(per_image_test(part) if per_image else permutation_test(part, random=random, picks=picks).p)
    return values


def chosen_key_p_values(
    child: nn.Module,
    probing: UInt8[Tensor, "m c h w"],
    images: UInt8[Tensor, "n c h w"],
    shape: KeyParameters,
    *,
    candidates: int,
    decoys: int,
    picks: int,
    generator: torch.Generator,
) -> list[float]:
    """p of a key whose patches were not derived from a secret but chosen: the best of many, by asking the model itself.

    The forger asks with `probing` images and is judged on others; that alone would be enough, were patches free to choose.
    """
    pool = random_patches(candidates, shape, generator)
    asked = answers_of(child, probing, pool, shape.sub_keys, shape)
    rates = flip_rates(asked.clean, asked.stamped, int(max(asked.clean.max(), asked.stamped.max())) + 1)
    ranked = np.sort(rates, axis=0)[::-1][: shape.sub_keys].sum(axis=0)
    best = np.argsort(-rates[:, ranked.argmax()])[: shape.sub_keys].copy()
    patches = torch.cat([pool[torch.from_numpy(best)], random_patches(decoys, shape, generator)])
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    return [permutation_test(answers_of(child, images, patches, shape.sub_keys, shape), random=random, picks=picks).p]


def rejections(values: Iterable[float]) -> dict[float, int]:
    """How many p-values reach each level of `LEVELS`."""
    listed = list(values)
    return {level: sum(value <= level for value in listed) for level in LEVELS}


def excess(values: Iterable[float]) -> float:
    """Probability of at least so many rejections at the worst level, were the levels true; Bonferroni over the levels.

    Below 0.01 the count lies above the exact 99 % binomial interval. A test that rejects less often than its level passes.

    >>> excess([0.5] * 100)
    1.0
    """
    listed = list(values)
    tails = [float(binom.sf(count - 1, len(listed), level)) for level, count in rejections(listed).items()]
    return min(1.0, len(LEVELS) * min(tails))
