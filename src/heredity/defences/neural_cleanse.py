"""Neural Cleanse (Wang et al., S&P 2019): a class that a much smaller patch reaches than any other has a backdoor."""

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.defences.contract import (
    Examination,
    ModelVerdict,
    Threshold,
    classes_of,
    clean_images,
    examining,
)
from heredity.defences.reverse import Reversed, Search, smallest_triggers, stamp
from heredity.metrics.detection import mad_index

PAPER = Threshold(2.0, "paper")


@dataclass(frozen=True)
class NeuralCleanse:
    """How the patches are searched (section 4 of the paper; its epochs over a clean set are steps of small batches here).

    `at_once` classes share a batch, 0 meaning all: memory grows with it. Every class sees the same images either way.
    """

    search: Search = field(default_factory=Search)
    at_once: int = 0


def scan(
    model: nn.Module,
    images: Tensor,
    config: NeuralCleanse | None = None,
    *,
    generator: torch.Generator,
    threshold: Threshold = PAPER,
) -> ModelVerdict:
    """Search the smallest patch that sends every image to a class, for all classes in one batch.

    `images` are clean ones of any class, uint8 or [0, 1]. A class's score is its anomaly index: how many median absolute
    deviations its patch is smaller than the median one. The model's score is the highest; `suspects` are the classes
    above the threshold. Measures: the smallest and the median size in pixels, and the share of images that the smallest
    one turns.

    The paper's threshold of 2 has no known false-positive rate: a clean model of digits, where a stroke makes an 8, may
    exceed it. Give one from `calibrate` on clean models of the same kind. Raises ModelError for fewer than three classes.
    """
    config = config or NeuralCleanse()
    with examining(model) as ask:
        clean = clean_images(images, at_least=2).to(ask.device)
        classes = classes_of(ask.all(clean[:2]))
        found = _smallest_patches(ask, clean, classes, config, generator)
        scores = -mad_index(found.sizes.tolist())
        worst = int(scores.argmax())
        trigger = found.trigger(worst)
        turned = ask.all(trigger.stamp(clean.cpu())).argmax(dim=1) == worst
        suspects = tuple(int(label) for label in scores.argsort()[::-1] if threshold.flags(float(scores[label])))
        return ModelVerdict(
            detector="Neural Cleanse",
            score=float(scores[worst]),
            threshold=threshold,
            cost=ask.cost(),
            class_scores=tuple(scores.tolist()),
            suspects=suspects,
            triggers=(trigger, *(found.trigger(label) for label in suspects if label != worst)),
            measures={
                "smallest": float(found.sizes[worst]),
                "median": float(found.sizes.median()),
                "turned": float(turned.float().mean()),
                "classes without a patch": float((~found.found).sum()),
            },
        )


def _smallest_patches(
    ask: Examination, clean: Tensor, classes: int, config: NeuralCleanse, generator: torch.Generator
) -> Reversed:
    """The smallest patch into each class. Every group of classes sees the same start and the same batches."""
    state, groups = generator.get_state(), []
    for aims in torch.arange(classes, device=ask.device).split(config.at_once or classes):

        def goal(masks: Tensor, patterns: Tensor, draws: torch.Generator, aims: Tensor = aims) -> tuple[Tensor, Tensor]:
            rows = torch.randperm(len(clean), generator=draws)[: config.search.batch]
            stamped = stamp(clean[rows.to(ask.device)], masks, patterns)
            logits = ask(stamped.flatten(0, 1)).unflatten(0, (len(aims), -1))
            aim = aims[:, None].expand(logits.shape[:2])
            loss = F.cross_entropy(logits.transpose(1, 2), aim, reduction="none").mean(dim=1)
            return loss, (logits.argmax(dim=2) == aim).float().mean(dim=1)

        generator.set_state(state)
        groups.append(smallest_triggers(goal, len(aims), clean[0], config.search, generator))
    return Reversed(*(torch.cat([getattr(group, part.name) for group in groups]) for part in fields(Reversed)))
