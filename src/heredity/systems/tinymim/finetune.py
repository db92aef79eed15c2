"""Fine-tuning a distilled transformer (paper, section 4.1): pooled patches, layer-wise rates, strong augmentation."""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from torchvision.transforms import v2

from heredity.core.errors import DataError
from heredity.core.lineage import architecture_of, remember
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.pictures import LabelledPictures, Pictures
from heredity.nn.attention import attention_blocks, set_heads
from heredity.nn.encoders import Classifier, Normalised, feature_size
from heredity.nn.inference import evaluating
from heredity.systems.tinymim.student import path_drops
from heredity.systems.tinymim.targets import vision_transformer_in
from heredity.systems.tinymim.views import Views, view
from heredity.transfer.layerwise import layer_groups


@dataclass(frozen=True)
class FineTuning:
    """How a student becomes a classifier.

    `last_heads` "pretrain" keeps the last block's number of heads, which its weights were trained with; "standard" gives it
    that of the other blocks, as the published code does without saying so. `drop_path` is constant over the blocks.
    `augmentation` "strong" is RandAugment (2 operations, magnitude 9), mixup, cutmix and random erasing of the paper.
    """

    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=400, batch=50, learning_rate=4e-3, weight_decay=0.05, schedule="one-cycle", optimiser="adamw"
        )
    )
    layer_decay: float = 0.8
    drop_path: float = 0.0
    label_smoothing: float = 0.1
    last_heads: Literal["pretrain", "standard"] = "pretrain"
    augmentation: Literal["views", "strong"] = "views"
    views: Views = Views(shift=1, colour=None)
    mixup: float = 0.8
    cutmix: float = 1.0
    erasing: float = 0.25


def finetune(encoder: Normalised, data: LabelledPictures, how: FineTuning, *, run: Run, name: str) -> Any:
    """A classifier on a copy of the encoder, as a stage of the run. Raises DataError for labels of one class only."""
    present = data.labels.unique()
    if len(present) < 2:
        raise DataError(
            "all training labels are the same class", remedy="give labelled pictures of two classes or more"
        )
    vit: Any = vision_transformer_in(encoder)
    side = int(vit.patch_embed.img_size[0])

    def make() -> Classifier:
        copied = copy.deepcopy(encoder).requires_grad_(True)
        if how.last_heads == "standard":
            blocks: Any = attention_blocks(copied)
            set_heads(blocks[-1], int(blocks[0].attn.num_heads))
            known = architecture_of(copied) or {}
            remember(copied, {key: value for key, value in known.items() if key != "last_heads"})
        classifier = Classifier(copied, features=feature_size(copied, image=side), classes=len(data.classes))
        nn.init.trunc_normal_(classifier.head.weight, std=2e-5)
        nn.init.zeros_(classifier.head.bias)
        return classifier

    return run.model(
        name,
        make=make,
        train=lambda child: train_classifier(child, data, how, run),
        made_by="fine-tuning",
        parents=[encoder],
        settings=how,
    )


def train_classifier(child: nn.Module, data: LabelledPictures, how: FineTuning, run: Run) -> None:
    """Train in place by cross-entropy with smoothed, possibly mixed labels."""
    assert isinstance(child, Classifier)
    vit = vision_transformer_in(child)
    classes, rows = len(data.classes), len(data.labels) * max(1, how.views.count)
    strong = _strong(how, classes) if how.augmentation == "strong" else None
    groups = layer_groups(vit, child.head, how.plan, how.layer_decay)
    with path_drops(child, how.drop_path, len(attention_blocks(child))) as drops:

        def step(model: nn.Module, numbers: Tensor, draws: Draws) -> dict[str, Tensor]:
            for drop in drops:
                drop.draws = draws
            images = view(data.pictures, numbers, how.views, draws, seed=run.seed)
            labels = data.labels[(numbers // max(1, how.views.count)).cpu()].to(numbers.device)
            wanted = F.one_hot(labels, classes).float()
            if strong is not None:
                images, wanted = strong(images, labels)
            return {"cross_entropy": F.cross_entropy(model(images), wanted, label_smoothing=how.label_smoothing)}

        fit(child, step, rows=rows, plan=how.plan, run=run, groups=groups)


def _strong(how: FineTuning, classes: int) -> Any:
    """The paper's augmentation by torchvision, which draws from torch's generator: `fit` seeds it in every step."""
    policy, erase = v2.RandAugment(num_ops=2, magnitude=9), v2.RandomErasing(p=how.erasing)
    mixes = [v2.MixUp(alpha=how.mixup, num_classes=classes)] if how.mixup else []
    mixes += [v2.CutMix(alpha=how.cutmix, num_classes=classes)] if how.cutmix else []
    mix = v2.RandomChoice(mixes) if mixes else None

    def apply(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.stack([erase(policy(image)) for image in images])
        if mix is None:
            return images, F.one_hot(labels, classes).float()
        return mix(images.float(), labels)

    return apply


def predicted(
    model: nn.Module, pictures: Pictures, *, batch: int = 256, among: Tensor | None = None
) -> Int[Tensor, "n"]:
    """The class of each picture; `among` are the only classes to choose from (ImageNet-A and -R have 200 of 1000)."""
    device = next(model.parameters()).device
    found: list[Tensor] = []
    with evaluating(model):
        for rows in torch.arange(len(pictures), device=device).split(batch):
            scores = model(pictures[rows]).float()
            if among is not None:
                allowed = torch.full_like(scores, -torch.inf)
                allowed[:, among.to(device)] = 0.0
                scores = scores + allowed
            found.append(scores.argmax(dim=1).cpu())
    return torch.cat(found)
