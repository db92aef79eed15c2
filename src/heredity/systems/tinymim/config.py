"""Settings of TinyMIM: its presets and the arms of its study, and nothing hidden elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from heredity.core.loop import Plan
from heredity.core.settings import override
from heredity.data.augment import Augmentation
from heredity.nn.encoders import EncoderShape
from heredity.pretrain.mae import MAE
from heredity.systems.tinymim.distil import Distillation
from heredity.systems.tinymim.finetune import FineTuning
from heredity.systems.tinymim.views import Views
from heredity.transfer.segmentation import Segmentation

_STILL = Augmentation(scale=(1.0, 1.0), brightness=0.0, contrast=0.0)


@dataclass(frozen=True)
class Rate:
    """Learning rates of one kind of arm: of its pre-training and of its fine-tuning."""

    pretraining: float = 4e-3
    finetuning: float = 4e-3


@dataclass(frozen=True)
class Rates:
    """The rates of every kind of arm, chosen on validation images (the docs page lists the trials)."""

    scratch: Rate = Rate()
    mae: Rate = Rate()
    relations: Rate = Rate()
    feature: Rate = Rate()
    cls: Rate = Rate()


@dataclass(frozen=True)
class TinyMIM:
    """A teacher made by masked autoencoding, students made by every arm, and what they are worth after fine-tuning.

    `teacher_from` is "train", or names an encoder (timm:NAME, file:PATH, ...). `labelled` pictures (0: all) train the
    classifier, `validation` others choose settings; `score` says on which part the metrics are measured. `transfer` is
    another source for the labelled pictures. `dense` are the arms that are also made into segmenters of strokes: pixels
    brighter than `stroke` have their picture's class. Three switches take ideas out: `teacher_weights` "random" leaves the
    teacher untrained, `assistant_taught` False the assistant, and `main` names the arm that is run as "relations".
    """

    data: str = "digits"
    transfer: str = ""
    size: int = 8
    teacher_from: str = "train"
    teacher: EncoderShape = EncoderShape(kind="vit", width=64, patch=2, depth=8, heads=4)
    assistant: EncoderShape = EncoderShape(kind="vit", width=48, patch=2, depth=8, heads=4)
    student: EncoderShape = EncoderShape(kind="vit", width=32, patch=2, depth=6, heads=2)
    teacher_weights: Literal["mae", "random"] = "mae"
    assistant_taught: bool = True
    main: str = "relations"
    teaching: MAE = MAE()
    mae: MAE = MAE()
    distillation: Distillation = Distillation()
    finetuning: FineTuning = FineTuning()
    segmentation: Segmentation = Segmentation()
    rates: Rates = Rates()
    labelled: int = 100
    validation: int = 600
    score: Literal["test", "validation"] = "test"
    arms: tuple[str, ...] = ("scratch", "mae", "cls", "feature", "relations")
    dense: tuple[str, ...] = ()
    measure_teacher: bool = False
    stroke: int = 80
    skip_corrupt: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to make a student: its kind (which rates it takes) and what it changes in the distillation."""

    text: str
    kind: Literal["scratch", "mae", "relations", "feature", "cls"]
    changes: Mapping[str, Any] = field(default_factory=dict)


_DIRECT = "relations of"
ARMS: dict[str, Arm] = {
    "scratch": Arm("no pre-training", "scratch"),
    "mae": Arm("the student's own masked autoencoding", "mae"),
    "relations": Arm("query-key and value-value relations of an intermediate block (TinyMIM)", "relations"),
    "cls": Arm("class token, smooth L1", "cls", {"target.kind": "cls", "target.block": 0, "target.loss": "smooth_l1"}),
    "cls-kl": Arm("class token, divergence", "cls", {"target.kind": "cls", "target.block": 0}),
    "feature": Arm("output of the last block", "feature", {"target.kind": "feature", "target.block": -1}),
    "feature-intermediate": Arm("output of the same block as relations", "feature", {"target.kind": "feature"}),
    "feature-ffn": Arm("feed-forward branch", "feature", {"target.kind": "feature", "target.place": "ffn-branch"}),
    "feature-attention": Arm(
        "attention branch", "feature", {"target.kind": "feature", "target.place": "attention-branch"}
    ),
    "feature-attention-after": Arm(
        "attention branch after the sum", "feature", {"target.kind": "feature", "target.place": "attention-residual"}
    ),
    "feature-qkv": Arm("queries, keys, values", "feature", {"target.kind": "feature", "target.place": "qkv"}),
    "last-block": Arm(f"{_DIRECT} the last block", "relations", {"target.block": -1}),
    "first-half": Arm(f"{_DIRECT} the block at half the depth", "relations", {"target.block": 4}),
    "no-softmax": Arm("scaled products without softmax", "relations", {"target.relations.softmax": False}),
    "qq-kk-vv": Arm("query-query, key-key, value-value", "relations", {"target.relations.pairs": ("qq", "kk", "vv")}),
    "relation-heads": Arm(
        "both cut into 8 heads",
        "relations",
        {"target.relations.adapt": "relation-heads", "target.relations.relation_heads": 8},
    ),
    "mean-heads": Arm("relations averaged over heads", "relations", {"target.relations.adapt": "mean"}),
    "masked": Arm("a quarter of the patches", "relations", {"masked": 0.75, "cache": False}),
    "reconstruction": Arm(
        "a quarter of the patches and masked autoencoding",
        "relations",
        {"masked": 0.75, "cache": False, "reconstruction": 1.0},
    ),
    "drop-path-0.1": Arm("student drop path 0.1", "relations", {"drop_path": 0.1}),
    "drop-path-0.3": Arm("student drop path 0.3", "relations", {"drop_path": 0.3}),
    "teacher-drop-path": Arm("teacher drop path 0.1", "relations", {"teacher_drop_path": 0.1, "cache": False}),
    "strong-regularisation": Arm(
        "a quarter of the patches, drop path 0.3", "relations", {"masked": 0.75, "cache": False, "drop_path": 0.3}
    ),
    "sequential": Arm("through an assistant, whose last block is read", "relations"),
}


def arm_of(config: TinyMIM, name: str) -> Arm:
    """What is run under an arm's name: the arm itself, or for "relations" the one that `main` names."""
    return ARMS[config.main if name == "relations" else name]


def distillation_of(config: TinyMIM, name: str) -> Distillation:
    """The distillation of an arm: the config's with the arm's changes, at the rate of its kind."""
    arm = arm_of(config, name)
    changed = override(config.distillation, arm.changes)
    rate = getattr(config.rates, arm.kind).pretraining
    return replace(changed, plan=replace(changed.plan, learning_rate=rate))


def _steps(number: int, rate: float = 4e-3, batch: int = 128) -> Plan:
    return Plan(
        steps=number, batch=batch, learning_rate=rate, weight_decay=0.05, betas=(0.9, 0.95), schedule="one-cycle"
    )


def _reconstructing(number: int, rate: float, batch: int = 128) -> MAE:
    return MAE(
        mask=0.75,
        decoder_width=32,
        decoder_depth=2,
        decoder_heads=4,
        augmentation=_STILL,
        plan=_steps(number, rate, batch),
    )


QUICK = TinyMIM(
    teaching=_reconstructing(1000, 3e-3),
    mae=_reconstructing(400, 4e-3),
    distillation=Distillation(
        views=Views(shift=1, colour=None), cache=True, decoder=_reconstructing(0, 4e-3), drop_path=0.0, plan=_steps(400)
    ),
)

_SHORT = Plan(steps=3, batch=16, learning_rate=1e-3, weight_decay=0.05, schedule="one-cycle")

SMOKE = replace(
    QUICK,
    teacher=EncoderShape(kind="vit", width=32, patch=2, depth=4, heads=4),
    assistant=EncoderShape(kind="vit", width=24, patch=2, depth=4, heads=4),
    student=EncoderShape(kind="vit", width=16, patch=2, depth=3, heads=2),
    teaching=replace(QUICK.teaching, plan=_SHORT),
    mae=replace(QUICK.mae, plan=_SHORT),
    distillation=replace(QUICK.distillation, views=Views(shift=0, fixed=1, colour=None), plan=_SHORT),
    finetuning=FineTuning(plan=_SHORT),
    segmentation=Segmentation(plan=_SHORT),
    validation=50,
    arms=("scratch", "mae", "cls", "feature", "relations", "last-block", "masked", "sequential"),
    dense=("scratch", "mae", "relations"),
    measure_teacher=True,
)

STUDY = replace(
    QUICK,
    arms=tuple(arm for arm in ARMS if arm != "strong-regularisation"),
    dense=("scratch", "mae", "cls", "feature", "relations", "last-block"),
    measure_teacher=True,
)

_PUBLISHED_MAE = MAE(
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
    augmentation=Augmentation(scale=(0.2, 1.0), aspect=4 / 3, flip=0.5, brightness=0.0, contrast=0.0),
    plan=Plan(
        epochs=300,
        batch=4096,
        learning_rate=2.4e-3,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        schedule="one-cycle",
        warm_up=0.05,
    ),
)

# The published recipe: MAE's ViT-L, made first, teaches a ViT-B (300 epochs each way; batches over 32 GPUs).
PAPER = TinyMIM(
    data="imagefolder:data/imagenet",
    size=224,
    teacher=EncoderShape(kind="vit", width=1024, patch=16, depth=24, heads=16),
    assistant=EncoderShape(kind="vit", width=768, patch=16, depth=12, heads=12),
    student=EncoderShape(kind="vit", width=768, patch=16, depth=12, heads=12),
    teaching=replace(_PUBLISHED_MAE, plan=replace(_PUBLISHED_MAE.plan, epochs=1600, warm_up=0.025)),
    mae=_PUBLISHED_MAE,
    distillation=Distillation(
        teacher_precision="auto",
        drop_path=0.1,
        plan=_PUBLISHED_MAE.plan,
    ),
    finetuning=FineTuning(
        plan=Plan(
            epochs=100,
            batch=1024,
            learning_rate=2e-3,
            weight_decay=0.05,
            betas=(0.9, 0.999),
            schedule="one-cycle",
            warm_up=0.05,
        ),
        layer_decay=0.65,
        drop_path=0.2,
        augmentation="strong",
        views=Views(
            crop=Augmentation(scale=(0.08, 1.0), aspect=4 / 3, flip=0.5, brightness=0.0, contrast=0.0), colour=None
        ),
        last_heads="standard",
    ),
    rates=Rates(
        scratch=Rate(0.0, 2e-3),
        mae=Rate(2.4e-3, 2e-3),
        relations=Rate(2.4e-3, 2e-3),
        feature=Rate(2.4e-3, 2e-3),
        cls=Rate(2.4e-3, 2e-3),
    ),
    labelled=0,
    validation=0,
    dense=(),
    measure_teacher=True,
    arms=("scratch", "mae", "cls", "feature", "relations", "last-block"),
)

PRESETS = {"smoke": SMOKE, "quick": QUICK, "study": STUDY, "paper": PAPER}
