"""Settings of SSL-WM: three presets, and nothing hidden elsewhere."""

from dataclasses import dataclass
from typing import Literal

from heredity.core.loop import Plan
from heredity.data.augment import Augmentation
from heredity.nn.encoders import EncoderShape
from heredity.pretrain.contrastive import SimCLR
from heredity.pretrain.mae import MAE
from heredity.systems.ssl_wm.embed import Embedding
from heredity.systems.ssl_wm.embedding import MarkLoss
from heredity.systems.ssl_wm.keys import KeyParameters
from heredity.systems.ssl_wm.language_config import LANGUAGE, Language
from heredity.transfer.finetune import FineTuning


@dataclass(frozen=True)
class Contrastive:
    """The contrastive encoder: shape, SimCLR, and how it is marked."""

    encoder: EncoderShape = EncoderShape()
    pretraining: SimCLR = SimCLR()
    embedding: Embedding = Embedding()


@dataclass(frozen=True)
class Generative:
    """The generative encoder: shape, masked autoencoding, and how it is marked."""

    encoder: EncoderShape = EncoderShape(kind="vit", width=64)
    pretraining: MAE = MAE()
    embedding: Embedding = Embedding()


@dataclass(frozen=True)
class Verification:
    """The black-box test. `images` base images, `decoys` foreign patches, `picks` sampled permutations, level `alpha`.

    Three switches exist to take ideas out: `unit` "images" tests images instead of keys, `key` "wrong" verifies with a key
    that was never embedded, `forgery` "chosen" lets a forger pick patches by querying the model instead of deriving them.
    """

    images: int = 128
    decoys: int = 24
    picks: int = 200_000
    alpha: float = 1e-4
    unit: Literal["keys", "images"] = "keys"
    key: Literal["owner", "wrong"] = "owner"
    forgery: Literal["derived", "chosen"] = "derived"


@dataclass(frozen=True)
class Thief:
    """What is done to a stolen encoder, with `rows` labelled images of which a share is for validation.

    Pruning goes through `prune_steps` until `lost` points of accuracy are gone; every `prune_verify`-th step and the last
    one are verified.
    """

    rows: int = 800
    validation: float = 0.125
    full: FineTuning = FineTuning()
    hard: FineTuning = FineTuning()
    last: FineTuning = FineTuning()
    scratch: FineTuning = FineTuning()
    prune_steps: tuple[float, ...] = tuple(round(0.2 + 0.02 * step, 2) for step in range(40))
    prune_verify: int = 10
    lost: float = 10.0


@dataclass(frozen=True)
class Calibration:
    """False positives: clean children and random keys. Every trial has fresh keys and decoys.

    `probes` heads per task on random halves of the thief's rows, besides the fine-tuned and from-scratch children;
    `keys` random keys per clean child, `forged` per stolen child, each tested on `images`.
    """

    probes: int = 2
    keys: int = 7
    forged: int = 17
    images: int = 24
    picks: int = 5000


@dataclass(frozen=True)
class SSLWM:
    """`data` pre-trains (and labels the tasks "classes", "loops", "parity", "halves"); a task may name another source."""

    data: str = "digits"
    size: int = 16
    tasks: tuple[str, ...] = ("classes", "loops", "parity")
    families: tuple[Literal["contrastive", "generative", "language"], ...] = ("contrastive", "generative")
    mark: bool = True
    key: KeyParameters = KeyParameters(patch=5, margin=1, reference_size=16)
    contrastive: Contrastive = Contrastive()
    generative: Generative = Generative()
    language: Language = LANGUAGE
    verification: Verification = Verification()
    thief: Thief = Thief()
    calibration: Calibration = Calibration()


def _thief(epochs: float, *, rates: tuple[float, float] = (3e-4, 1e-3), patience: int = 5, decay: float = 0.0) -> Thief:
    def tuning(rate: float, **more: object) -> FineTuning:
        settings = {"probe_first": more.pop("probe_first", True), "last": more.pop("last", 0)}
        plan = Plan(
            epochs=epochs,
            batch=64,
            optimiser="adam",
            learning_rate=rate,
            schedule="constant",
            weight_decay=decay,
            patience=patience,
        )
        return FineTuning(plan=plan, **settings)  # pyright: ignore[reportArgumentType]

    return Thief(
        full=tuning(rates[0]),
        hard=tuning(rates[1]),
        last=tuning(rates[1], last=1),
        scratch=tuning(1e-3, probe_first=False),
    )


_DIGIT_VIEWS = Augmentation(scale=(0.4, 1.0), aspect=1.3, rotate=15.0, brightness=0.4, contrast=0.4)
_DIGIT_MARK = Augmentation(scale=(0.5, 1.0), rotate=10.0)


def _mark_plan(steps: int, batch: int = 48) -> Plan:
    return Plan(steps=steps, batch=batch, optimiser="adam", learning_rate=1e-3, clip=5.0, mode="eval")


QUICK = SSLWM(
    contrastive=Contrastive(
        pretraining=SimCLR(
            augmentation=_DIGIT_VIEWS, plan=Plan(epochs=40, batch=256, learning_rate=2e-3, schedule="one-cycle")
        ),
        embedding=Embedding(strong=_DIGIT_MARK, plan=_mark_plan(600)),
    ),
    generative=Generative(
        pretraining=MAE(
            mask=0.6,
            augmentation=Augmentation(scale=(0.6, 1.0), rotate=10.0, brightness=0.0, contrast=0.0),
            plan=Plan(epochs=80, batch=64, learning_rate=1e-3, schedule="one-cycle", weight_decay=0.05),
        ),
        embedding=Embedding(
            loss=MarkLoss(distance=3.0, direction="prototype"), strong=_DIGIT_MARK, plan=_mark_plan(1000, 32)
        ),
    ),
    thief=_thief(30),
)

SMOKE = SSLWM(
    tasks=("classes", "parity"),
    contrastive=Contrastive(
        encoder=EncoderShape(width=8),
        pretraining=SimCLR(plan=Plan(steps=6, batch=64, learning_rate=2e-3)),
        embedding=Embedding(plan=_mark_plan(6)),
    ),
    generative=Generative(
        encoder=EncoderShape(kind="vit", width=32, depth=2),
        pretraining=MAE(plan=Plan(steps=6, batch=64, learning_rate=1e-3)),
        embedding=Embedding(plan=_mark_plan(6)),
    ),
    verification=Verification(images=16, decoys=24, picks=2000),
    thief=_thief(1, patience=1),
    calibration=Calibration(probes=1, keys=2, forged=2, images=8, picks=500),
)

_PAPER_VIEWS = Augmentation(
    scale=(0.08, 1.0), aspect=4 / 3, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.2, jitter=0.8
)


def _paper_mark(weight: float) -> Embedding:
    plan = Plan(epochs=100, batch=192, optimiser="adam", learning_rate=1e-3)
    return Embedding(loss=MarkLoss(kind="official", utility=1.0, anchor=weight), strong=_PAPER_VIEWS, plan=plan)


PAPER = SSLWM(
    data="cifar10:data/cifar10",
    size=32,
    tasks=("classes", "stl10:data/stl10", "gtsrb:data/gtsrb", "idx:data/mnist", "imagefolder:data/cinic10"),
    key=KeyParameters(),
    contrastive=Contrastive(
        encoder=EncoderShape(kind="resnet18", norm="batch"),
        pretraining=SimCLR(
            temperature=0.5,
            hidden=512,
            output=128,
            head_norm=True,
            augmentation=_PAPER_VIEWS,
            plan=Plan(
                epochs=500, batch=192, optimiser="adam", learning_rate=1e-3, weight_decay=1e-6, schedule="constant"
            ),
        ),
        embedding=_paper_mark(1.0),
    ),
    generative=Generative(
        encoder=EncoderShape(kind="vit", width=192, depth=12, heads=3),
        pretraining=MAE(
            decoder_width=96,
            augmentation=Augmentation(scale=(0.2, 1.0), aspect=4 / 3, flip=0.5, brightness=0.0, contrast=0.0),
            plan=Plan(epochs=400, batch=256, learning_rate=1.5e-4, weight_decay=0.05, schedule="one-cycle"),
        ),
        embedding=_paper_mark(1.0),
    ),
    verification=Verification(images=256, picks=1_000_000),
    thief=_thief(50, rates=(1e-4, 1e-3), decay=5e-4),
)

PRESETS = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER, "language": SSLWM(families=("language",))}
