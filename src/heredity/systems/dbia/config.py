"""Settings of DBIA: three presets, and nothing hidden elsewhere."""

from dataclasses import dataclass, replace
from typing import Literal

from heredity.core.loop import Plan
from heredity.data.augment import Augmentation
from heredity.defences.attention_blocking import AttentionBlocking
from heredity.defences.attention_concentration import AttentionConcentration
from heredity.defences.fine_pruning import FinePruning
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.outlier import Outlier
from heredity.defences.patch_drop import PatchDrop
from heredity.defences.repairing import Tuning
from heredity.defences.reverse import Search
from heredity.defences.strip import Strip
from heredity.nn.classifiers import TransformerShape
from heredity.systems.dbia.injection import Injection
from heredity.systems.dbia.trigger import Patch, TriggerSearch

Kind = Literal["vit", "deit", "swin"]


@dataclass(frozen=True)
class Victim:
    """A clean model: `model` names one (timm:NAME, file:PATH, run:DIR/STAGE), or "train" makes `shape` here by `plan`."""

    model: str = "train"
    shape: TransformerShape = TransformerShape()
    plan: Plan = Plan()
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class BadNets:
    """The baseline: all weights, with a share `rate` of the data stamped."""

    plan: Plan = Plan()
    rate: float = 0.1


@dataclass(frozen=True)
class Defences:
    """What the owner of a suspect model runs, with `images` pictures of one half of the test set.

    It is measured on the other half: `attacked` pictures of other classes under the trigger, and as many clean ones.
    """

    on: bool = True
    images: int = 248
    attacked: int = 250
    neural_cleanse: NeuralCleanse = NeuralCleanse()
    strip: Strip = Strip()
    outlier: Outlier = Outlier(features="before-head")
    attention_blocking: AttentionBlocking = AttentionBlocking()
    attention_concentration: AttentionConcentration = AttentionConcentration()
    patch_drop: PatchDrop = PatchDrop()
    fine_pruning: FinePruning = FinePruning()


@dataclass(frozen=True)
class DBIA:
    """`victims` are attacked; `detailed` is the one, or "none", on which every row of the table and every defence is run.

    `target` is the class that the trigger leads to. `surrogate` is a picture source (see `load_surrogate`); `surrogate_rows`
    pictures of it are used. `score` "validation" measures everything on a share `validation` of the training pictures, which
    neither the victim nor BadNets is then trained on, and leaves the test pictures alone: settings are chosen so, without
    the defences, for which they are too few. `injected` False plants nothing: an ablation.
    """

    data: str = "digits"
    size: int = 24
    score: Literal["test", "validation"] = "test"
    validation: float = 0.2
    surrogate: str = "photos"
    surrogate_rows: int = 800
    target: int = 0
    victims: tuple[Kind, ...] = ("vit", "deit", "swin")
    detailed: Literal["vit", "deit", "swin", "none"] = "vit"
    vit: Victim = Victim()
    deit: Victim = Victim()
    swin: Victim = Victim()
    search: TriggerSearch = TriggerSearch()
    injection: Injection = Injection()
    injected: bool = True
    badnets: BadNets = BadNets()
    defences: Defences = Defences()

    def victim(self, kind: Kind) -> Victim:
        """The settings of one victim."""
        return getattr(self, kind)


_TINY = Augmentation(scale=(0.9, 1.0), brightness=0.0, contrast=0.0)


def _learn(epochs: float) -> Plan:
    # A long warm-up: with a shorter one some seeds' transformers stay below 90 % on the digits.
    return Plan(
        epochs=epochs,
        batch=32,
        learning_rate=3e-3,
        schedule="one-cycle",
        warm_up=0.3,
        weight_decay=0.02,
        clip=1.0,
    )


def _search(steps: int) -> Plan:
    return Plan(steps=steps, optimiser="adam", learning_rate=0.1, schedule="constant")


def _small(kind: Kind, width: int, depth: int, heads: int, epochs: float, **more: int) -> Victim:
    return Victim(
        shape=TransformerShape(kind, width=width, depth=depth, heads=heads, **more),
        plan=_learn(epochs),
        augmentation=_TINY,
    )


QUICK = DBIA(
    vit=_small("vit", 48, 3, 4, 14),
    deit=_small("deit", 48, 3, 4, 14),
    swin=_small("swin", 24, 2, 2, 14, window=3),
    search=TriggerSearch(patch=Patch(12), starts=3, groups=20, official_iterations=1200, plan=_search(40)),
    injection=replace(Injection(), keep_clean=2.0, plan=replace(Injection().plan, epochs=30, learning_rate=1e-2)),
    badnets=BadNets(plan=Plan(epochs=5, batch=32, learning_rate=1e-3)),
    defences=Defences(
        neural_cleanse=NeuralCleanse(Search(steps=50, batch=6, stall=50)),
        strip=Strip(overlays=12),
        patch_drop=PatchDrop(trials=8),
        fine_pruning=FinePruning(levels=10, tuning=Tuning(epochs=3, batch=32, optimiser="adamw", learning_rate=1e-4)),
        attacked=120,
    ),
)

SMOKE = replace(
    QUICK,
    size=16,
    surrogate_rows=120,
    vit=Victim(shape=TransformerShape("vit", width=32, depth=2, heads=2), plan=Plan(steps=5)),
    deit=Victim(shape=TransformerShape("deit", width=32, depth=2, heads=2), plan=Plan(steps=5)),
    swin=Victim(shape=TransformerShape("swin", width=16, depth=1, heads=2, window=2), plan=Plan(steps=5)),
    search=TriggerSearch(
        patch=Patch(8),
        official_iterations=30,
        plan=_search(5),
    ),
    injection=replace(Injection(), plan=replace(Injection().plan, epochs=0, steps=5)),
    badnets=BadNets(plan=Plan(steps=5)),
    defences=Defences(
        neural_cleanse=NeuralCleanse(Search(steps=3, batch=4)),
        strip=Strip(overlays=4),
        patch_drop=PatchDrop(trials=3),
        fine_pruning=FinePruning(levels=4, tuning=Tuning(epochs=1, optimiser="adamw", learning_rate=1e-4)),
        attacked=40,
    ),
)

PAPER = DBIA(
    data="imagefolder:data/imagenet",
    size=224,
    surrogate="cifar10:data/cifar10",
    surrogate_rows=10_000,
    target=644,
    detailed="deit",
    vit=Victim("timm:vit_base_patch16_224"),
    deit=Victim("timm:deit_base_distilled_patch16_224"),
    swin=Victim("timm:swin_base_patch4_window7_224"),
    search=TriggerSearch(patch=Patch(48, aligned=False), official_iterations=6000),
    injection=Injection(
        fc1=1500 / 3072,
        fc2=200 / 768,
        plan=Plan(epochs=100, batch=128, optimiser="adam", learning_rate=1e-3, betas=(0.9, 0.99), mode="eval"),
    ),
    badnets=BadNets(plan=Plan(epochs=3, batch=128, optimiser="adam", learning_rate=1e-5)),
    defences=Defences(images=1000, neural_cleanse=NeuralCleanse(at_once=10)),
)

PRESETS = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}
