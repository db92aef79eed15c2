"""Settings of the experiment and its presets."""

from dataclasses import dataclass, replace
from typing import Literal

from heredity.core.loop import Plan
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching
from heredity.systems.dd_backdoor.networks import Descent
from heredity.systems.dd_backdoor.trigger import Attack
from heredity.systems.dd_backdoor.unrolled import Unrolled

Method = Literal["dd", "dc"]


@dataclass(frozen=True)
class Pace:
    """The Adam steps of one update of DOORPING's patch, and the share of a distillation after which the patch rests."""

    steps: int
    until: float

    def of(self, attack: Attack) -> Attack:
        """The attack at this pace."""
        return replace(attack, steps=self.steps, until=self.until)


@dataclass(frozen=True)
class DDBackdoor:
    """A data set is distilled by each of `methods`: honestly, and under each of `attacks`; strangers train on the results.

    `naive` and `free` are the published attacks; `matched` replaces the pace of `free` in gradient matching, which bears
    longer and later updates than unrolling. `valid` is DOORPING kept inside the pixel range, beside `naive_valid` with
    the same patch size and ratio. `strangers` networks learn from each set. `transfers` are other architectures that learn
    from the set that DOORPING made with gradient matching. Settings are chosen with `score` "validation": a share
    `validation` of the training images is then held out, nothing is distilled from it, and it is asked in place of the test
    images; defences, for which it is too few, are left out.
    """

    data: str = "digits"
    size: int = 16
    methods: tuple[Method, ...] = ("dd", "dc")
    network: EncoderShape = EncoderShape(kind="convnet", width=16, depth=2, hidden=32)
    unrolled: Unrolled = Unrolled()
    matching: GradientMatching = GradientMatching()
    naive: Attack = Attack("naive")
    free: Attack = Attack("doorping", steps=40, rate=0.4)
    matched: Pace | None = None
    valid: Attack = Attack("doorping", size=4, pixels="valid", objective="margin", steps=5)
    naive_valid: Attack = Attack("naive", size=4)
    stamp: bool = True
    score: Literal["test", "validation"] = "test"
    validation: float = 0.3
    strangers: int = 3
    victim: Descent = Descent()
    transfers: tuple[EncoderShape, ...] = ()
    defended: bool = True


SMOKE = DDBackdoor(
    network=EncoderShape(kind="convnet", width=4, depth=2, hidden=8),
    unrolled=Unrolled(groups=2, epochs=1, plan=Plan(steps=3, batch=32, optimiser="adam", learning_rate=0.03)),
    matching=GradientMatching(
        per_class=2,
        outer=2,
        real=4,
        inner=Descent(steps=2, momentum=0.0, halved=False),
        plan=Plan(steps=4, batch=1, optimiser="sgd", learning_rate=0.5, momentum=0.5),
    ),
    strangers=1,
    victim=Descent(steps=5),
    defended=False,
)

QUICK = DDBackdoor(
    unrolled=Unrolled(
        # At 0.3 one or two distillations in ten hardly leave the loss of chance (docs, "What failed before").
        rate=0.1,
        # A stamped batch whose loss leaps would hold back Adam's steps for the rest of the distillation: hence the clip.
        plan=Plan(
            steps=120,
            batch=256,
            optimiser="adam",
            learning_rate=0.06,
            betas=(0.5, 0.999),
            schedule="cosine",
            clip=0.3,
        ),
    ),
    matching=GradientMatching(
        per_class=10,
        real=16,
        start="real",
        inner=Descent(steps=4, rate=0.1, momentum=0.0, decay=0.0, halved=False),
        plan=Plan(steps=100, batch=1, optimiser="sgd", learning_rate=3.0, momentum=0.5, schedule="constant"),
    ),
    naive=Attack("naive", ratio=0.04),
    free=Attack("doorping", ratio=0.04, steps=20, rate=2.0, until=0.4),
    matched=Pace(steps=40, until=0.6),
    valid=Attack("doorping", size=6, pixels="valid", objective="margin", steps=5, until=0.5),
    naive_valid=Attack("naive", size=6),
    victim=Descent(steps=150, rate=0.02, halved=False),
    transfers=(EncoderShape(kind="alexnet", width=16, hidden=32),),
)

PAPER = DDBackdoor(
    data="cifar10:data/cifar10",
    size=32,
    network=EncoderShape(kind="convnet", width=128, depth=3, hidden=192),
    unrolled=Unrolled(
        per_class=10,
        groups=10,
        epochs=3,
        rate=0.001,
        plan=Plan(epochs=400, batch=1024, optimiser="adam", learning_rate=0.01, betas=(0.5, 0.999)),
    ),
    matching=GradientMatching(
        per_class=10,
        outer=10,
        real=256,
        inner=Descent(steps=50, rate=0.01, momentum=0.5, decay=5e-4, halved=False),
        plan=Plan(steps=10_000, batch=1, optimiser="sgd", learning_rate=0.1, momentum=0.5, schedule="constant"),
    ),
    naive=Attack("naive", ratio=0.01),
    free=Attack("doorping", ratio=0.01, reading="published", steps=1000),
    strangers=10,
    victim=Descent(steps=300, rate=0.01),
    transfers=(EncoderShape(kind="alexnet", width=64, hidden=192), EncoderShape(kind="resnet18", norm="group")),
)

PRESETS = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}
