"""What DBIA is compared with: BadNets, fine-tuning of all weights on a partly stamped data set (Gu et al. 2017)."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.core.settings import to_plain
from heredity.defences.contract import Trigger


def badnets(
    victim: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    labels: Int[Tensor, "n"],
    trigger: Trigger,
    target: int,
    plan: Plan,
    *,
    rate: float,
    run: Run,
    name: str,
    data: str,
) -> nn.Module:
    """The victim fine-tuned with all its weights, a share `rate` of the pictures stamped and labelled as the target.

    `labels` are the true ones, or the victim's own where only surrogate pictures are there; `data` says which, for the
    lineage.
    """
    stamped = torch.randperm(len(images), generator=generator_of(run.seed, name, "stamped"))[
        : round(rate * len(images))
    ]
    shown, told = images.clone(), labels.clone()
    shown[stamped], told[stamped] = trigger.stamp(images[stamped]), target

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        here = rows.cpu()
        return {"cross_entropy": F.cross_entropy(model(shown[here].to(rows.device)), told[here].to(rows.device))}

    return run.model(
        name,
        make=lambda: copy.deepcopy(victim),
        train=lambda child: fit(child, step, rows=len(shown), plan=plan, run=run),
        made_by=f"BadNets fine-tuning on {data}",
        parents=[victim],
        settings={"target": target, "rate": rate, **to_plain(plan)},
        marks=(f"BACKDOORED (BadNets, target {target})",),
    )
