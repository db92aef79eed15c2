"""Settings of SSL-WM: its presets, and nothing hidden elsewhere."""

from dataclasses import dataclass, replace
from typing import Literal

from heredity.core.loop import Plan
from heredity.data.augment import Augmentation
from heredity.nn.encoders import EncoderShape
from heredity.pretrain.bigan import BiGAN
from heredity.pretrain.byol import BYOL
from heredity.pretrain.contrastive import SimCLR
from heredity.pretrain.mae import MAE
from heredity.pretrain.moco import MoCo
from heredity.systems.ssl_wm.detection import Detection
from heredity.systems.ssl_wm.language_config import LANGUAGE, Language
from heredity.systems.ssl_wm.mark.embed import Embedding
from heredity.systems.ssl_wm.mark.embedding import MarkLoss
from heredity.systems.ssl_wm.mark.keys import KeyParameters
from heredity.transfer.extract import Extraction
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
class MomentumContrastive:
    """An encoder pre-trained by MoCo v2, and how it is marked."""

    encoder: EncoderShape = EncoderShape()
    pretraining: MoCo = MoCo()
    embedding: Embedding = Embedding()


@dataclass(frozen=True)
class SelfPredictive:
    """An encoder pre-trained by BYOL, and how it is marked."""

    encoder: EncoderShape = EncoderShape()
    pretraining: BYOL = BYOL()
    embedding: Embedding = Embedding()


@dataclass(frozen=True)
class Adversarial:
    """An encoder pre-trained as part of a BiGAN (the published generative one), and how it is marked."""

    encoder: EncoderShape = EncoderShape()
    pretraining: BiGAN = BiGAN()
    embedding: Embedding = Embedding()


Parent = Contrastive | Generative | MomentumContrastive | SelfPredictive | Adversarial
Family = Literal["contrastive", "generative", "moco", "byol", "bigan"]
KINDS: dict[str, tuple[str, ...]] = {
    "contrastive": ("contrastive", "moco", "byol"),
    "generative": ("generative", "bigan"),
}


@dataclass(frozen=True)
class Verification:
    """The black-box test. `images` base images, `decoys` foreign patches, `picks` sampled permutations, level `alpha`;
    a dispute over two keys names its suspect and is judged at `dispute_alpha`.

    Four switches exist to take ideas out: `unit` "images" tests images instead of keys, `key` "wrong" verifies with a key
    that was never embedded, `forgery` "chosen" lets a forger pick patches by querying the model instead of deriving them,
    `encoder` "suspect's" settles a dispute by the thief's encoder instead of the one that the owner committed to.
    """

    images: int = 128
    decoys: int = 24
    picks: int = 200_000
    alpha: float = 1e-4
    unit: Literal["keys", "images"] = "keys"
    key: Literal["owner", "wrong"] = "owner"
    forgery: Literal["derived", "chosen"] = "derived"
    encoder: Literal["committed", "suspect's"] = "committed"
    dispute_alpha: float = 0.01


@dataclass(frozen=True)
class Thief:
    """What is done to a stolen encoder, with `rows` labelled images of which a share is for validation.

    Pruning goes through `prune_steps` until `lost` points of accuracy are gone; every `prune_verify`-th step and the last
    one are verified. The last step is halved `prune_halvings` times: one step can cost far more than `lost` points.
    """

    rows: int = 800
    validation: float = 0.125
    full: FineTuning = FineTuning()
    hard: FineTuning = FineTuning()
    last: FineTuning = FineTuning()
    scratch: FineTuning = FineTuning()
    prune_steps: tuple[float, ...] = tuple(round(0.2 + 0.02 * step, 2) for step in range(40))
    prune_verify: int = 10
    prune_halvings: int = 0
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
class Attacks:
    """The price table, made for `tasks` (none: no table).

    int8 scales come from `calibration` images; the extracted `student` has a shape of its own; a second mark is embedded
    over the first in `overwriting_steps`; `treatments` are what the thief's service does to pictures before its model.
    """

    tasks: tuple[str, ...] = ()
    calibration: int = 200
    student: EncoderShape = EncoderShape(width=12)
    by_labels: Extraction = Extraction()
    by_features: Extraction = Extraction()
    overwriting_steps: int = 300
    treatments: tuple[str, ...] = (
        "noise 0.015",
        "noise 0.1",
        "jpeg 90",
        "jpeg 50",
        "jpeg 30",
        "resize 0.75",
        "resize 0.5",
        "blur 0.5",
        "shift 1",
        "shift 2",
        "bits 4",
        "bits 3",
    )


@dataclass(frozen=True)
class SSLWM:
    """`data` pre-trains (and labels the tasks "classes", "loops", "parity", "halves"); a task may name another source.

    Encoders of `families` are stolen for every task and by every means; those of `further` families for the first task, by a
    probe, by full fine-tuning and by quantisation. The modality "text" adds the language half, or runs it alone;
    `detectors` shows many small encoders, clean and marked, to published detectors.
    """

    data: str = "digits"
    size: int = 16
    tasks: tuple[str, ...] = ("classes", "loops", "parity")
    families: tuple[Family, ...] = ("contrastive", "generative")
    further: tuple[Family, ...] = ()
    modalities: tuple[Literal["image", "text"], ...] = ("image",)
    mark: bool = True
    key: KeyParameters = KeyParameters(patch=5, margin=1, reference_size=16)
    contrastive: Contrastive = Contrastive()
    generative: Generative = Generative()
    moco: MomentumContrastive = MomentumContrastive()
    byol: SelfPredictive = SelfPredictive()
    bigan: Adversarial = Adversarial()
    language: Language = LANGUAGE
    detectors: bool = False
    detection: Detection = Detection()
    verification: Verification = Verification()
    thief: Thief = Thief()
    calibration: Calibration = Calibration()
    attacks: Attacks = Attacks()


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

_JPEG = (20, 95)
# Encoders that are pre-trained for seconds lose more to a mark than quick's: twice its utility weight, and time to obey it.
_GENTLE = 12.0

ATTACKS = replace(
    QUICK,
    thief=replace(QUICK.thief, prune_halvings=3),
    tasks=("classes", "parity"),
    families=("contrastive",),
    contrastive=replace(QUICK.contrastive, embedding=replace(QUICK.contrastive.embedding, jpeg=_JPEG)),
    further=("moco", "byol", "bigan"),
    moco=MomentumContrastive(
        pretraining=MoCo(
            augmentation=_DIGIT_VIEWS, plan=Plan(steps=200, batch=128, learning_rate=2e-3, schedule="one-cycle")
        ),
        embedding=Embedding(loss=MarkLoss(utility=_GENTLE), strong=_DIGIT_MARK, plan=_mark_plan(600)),
    ),
    byol=SelfPredictive(
        pretraining=BYOL(
            augmentation=_DIGIT_VIEWS, plan=Plan(steps=150, batch=128, learning_rate=3e-3, schedule="one-cycle")
        ),
        embedding=Embedding(
            loss=MarkLoss(utility=_GENTLE, unit="spread", distance=12.0), strong=_DIGIT_MARK, plan=_mark_plan(600)
        ),
    ),
    bigan=Adversarial(
        pretraining=BiGAN(),
        embedding=Embedding(
            loss=MarkLoss(utility=_GENTLE, unit="spread", distance=12.0, direction="prototype"),
            strong=_DIGIT_MARK,
            plan=_mark_plan(600),
        ),
    ),
    attacks=Attacks(
        tasks=("classes", "parity"),
        by_labels=Extraction(plan=Plan(epochs=20, batch=64, optimiser="adam", learning_rate=2e-3, patience=5)),
        by_features=Extraction(
            augmentation=_DIGIT_MARK, plan=Plan(epochs=30, batch=64, optimiser="adam", learning_rate=2e-3)
        ),
    ),
)

FULL = replace(
    ATTACKS,
    modalities=("image", "text"),
    families=QUICK.families,
    generative=replace(QUICK.generative, embedding=replace(QUICK.generative.embedding, jpeg=_JPEG)),
    tasks=QUICK.tasks,
    detectors=True,
)

DETECTORS = replace(QUICK, modalities=(), detectors=True)

_SMALL = EncoderShape(width=8)

SMOKE = SSLWM(
    tasks=("classes", "parity"),
    further=("moco", "byol", "bigan"),
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
    moco=MomentumContrastive(_SMALL, MoCo(queue=128, plan=Plan(steps=3, batch=64)), Embedding(plan=_mark_plan(3))),
    byol=SelfPredictive(_SMALL, BYOL(plan=Plan(steps=3, batch=64)), Embedding(plan=_mark_plan(3))),
    bigan=Adversarial(_SMALL, BiGAN(plan=Plan(steps=3, batch=64)), Embedding(plan=_mark_plan(3))),
    verification=Verification(images=16, decoys=24, picks=2000),
    thief=_thief(1, patience=1),
    calibration=Calibration(probes=1, keys=2, forged=2, images=8, picks=500),
    attacks=Attacks(
        tasks=("parity",),
        calibration=20,
        student=_SMALL,
        by_labels=Extraction(queries=100, plan=Plan(epochs=1, batch=64)),
        by_features=Extraction(queries=100, plan=Plan(epochs=1, batch=64)),
        overwriting_steps=3,
        treatments=("jpeg 50", "shift 1"),
    ),
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
    further=("moco", "byol", "bigan"),
    moco=MomentumContrastive(
        encoder=EncoderShape(kind="resnet18", norm="batch"),
        pretraining=MoCo(
            temperature=0.5,
            queue=4096,
            momentum=0.999,
            hidden=512,
            output=128,
            augmentation=_PAPER_VIEWS,
            plan=Plan(
                epochs=500, batch=192, optimiser="adam", learning_rate=1e-3, weight_decay=1e-6, schedule="constant"
            ),
        ),
        embedding=_paper_mark(5.0),
    ),
    byol=SelfPredictive(
        encoder=EncoderShape(kind="resnet18", norm="batch"),
        pretraining=BYOL(
            momentum=0.99,
            hidden=4096,
            output=256,
            augmentation=_PAPER_VIEWS,
            plan=Plan(epochs=1100, batch=128, optimiser="adam", learning_rate=3e-4, schedule="constant"),
        ),
        embedding=_paper_mark(1.0),
    ),
    bigan=Adversarial(
        encoder=EncoderShape(kind="resnet18", norm="batch"),
        pretraining=BiGAN(
            code=256,
            width=64,
            smooth=1.0,
            blur=0.0,
            discriminator_rate=1.0,
            plan=Plan(
                epochs=101, batch=256, optimiser="adam", learning_rate=1e-4, betas=(0.5, 0.999), schedule="constant"
            ),
        ),
        embedding=_paper_mark(10.0),
    ),
    attacks=Attacks(tasks=("classes",)),
    verification=Verification(images=256, picks=1_000_000),
    thief=_thief(50, rates=(1e-4, 1e-3), decay=5e-4),
)

LANGUAGE_ALONE = SSLWM(modalities=("text",))

PRESETS = {
    "smoke": SMOKE,
    "quick": QUICK,
    "attacks": ATTACKS,
    "detectors": DETECTORS,
    "language": LANGUAGE_ALONE,
    "full": FULL,
    "paper": PAPER,
}
