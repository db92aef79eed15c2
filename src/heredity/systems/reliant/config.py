"""Settings of RELIANT: three presets, and nothing hidden elsewhere."""

from dataclasses import dataclass, field
from typing import Literal

from heredity.core.loop import Plan
from heredity.nn.graph import Net
from heredity.systems.reliant.proxy import Debiasing


def passes(number: int, rate: float = 0.01, decay: float = 1e-3) -> Plan:
    """So many passes over a whole graph with Adam at a constant rate; the best of what validation saw is kept."""
    return Plan(
        steps=number,
        batch=1,
        optimiser="adam",
        learning_rate=rate,
        weight_decay=decay,
        schedule="constant",
        patience=1_000_000,
    )


@dataclass(frozen=True)
class Distillation:
    """How one framework trains. `strength` is what alpha = 1 means in the units of its loss (CPF's: per root of a node)."""

    plan: Plan = field(default_factory=lambda: passes(150))
    strength: float = 1.0


@dataclass(frozen=True)
class Propagation:
    """CPF's label propagation: steps, dropout of features (in the scores and the network) and of attention."""

    steps: int = 4
    dropout: float = 0.5
    attention_dropout: float = 0.2


@dataclass(frozen=True)
class Front:
    """The utility-fairness fronts: one cell of the grid, several readings, one student for each alpha (0 = plain)."""

    teacher: str = "gcn"
    student: str = "mlp"
    framework: str = "kd"
    readings: tuple[str, ...] = ("penalty", "code", "absorb", "oracle")
    alphas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    adversary: tuple[float, ...] = (0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Reliant:
    """Every teacher x student x framework is a cell with a plain and a debiased student.

    `teachers` and `students` are kinds of network; their other settings are those of `teacher` and `student`. Three switches
    exist to take ideas out: `knowledge` "shuffled" gives students the teacher's answers for other nodes, `distilled` False
    leaves them the fairness term alone, `scaled` False measures alpha in the same units for all frameworks.
    """

    data: str = "biased-sbm"
    teachers: tuple[str, ...] = ("gcn", "sage")
    students: tuple[str, ...] = ("mlp", "gcn")
    frameworks: tuple[Literal["kd", "cpf", "akd"], ...] = ("kd", "cpf", "akd")
    teacher: Net = Net(layers=3)
    student: Net = Net(layers=2)
    teaching: Plan = field(default_factory=lambda: passes(150))
    debiasing: Debiasing = Debiasing()
    kd: Distillation = Distillation()
    cpf: Distillation = field(default_factory=lambda: Distillation(passes(120), strength=2.0))
    akd: Distillation = field(default_factory=lambda: Distillation(passes(80), strength=10.0))
    propagation: Propagation = Propagation()
    critics_see: Literal["log-probabilities", "as published"] = "log-probabilities"
    front: Front = Front()
    look_every: int = 2
    resamples: int = 300
    knowledge: Literal["teacher", "shuffled"] = "teacher"
    distilled: bool = True
    scaled: bool = True


QUICK = Reliant()

_SHORT = passes(6)

SMOKE = Reliant(
    data="biased-sbm?nodes=300",
    teacher=Net(hidden=8, layers=2),
    student=Net(hidden=8, layers=2),
    teaching=_SHORT,
    kd=Distillation(_SHORT),
    cpf=Distillation(_SHORT, strength=2.0),
    akd=Distillation(_SHORT, strength=10.0),
    front=Front(alphas=(1.0, 10.0), adversary=(1.0,)),
    resamples=50,
)

PAPER = Reliant(
    data="bail:data/bail?official",
    teachers=("gcn", "sage"),
    students=("mlp", "gcn"),
    frameworks=("kd", "cpf", "akd"),
    teacher=Net(layers=3, dropout=0.8, embedding=0),
    student=Net(layers=2, dropout=0.8),
    teaching=passes(1000),
    debiasing=Debiasing(alpha=1.0, proxy_decay=0.01),
    kd=Distillation(passes(1000, decay=0.01)),
    cpf=Distillation(passes(1000, decay=0.01), strength=8.7),
    akd=Distillation(passes(600, rate=1e-4, decay=5e-4), strength=10.0),
    propagation=Propagation(steps=9, dropout=0.8),
    critics_see="as published",
    look_every=1,
    resamples=1000,
)

PRESETS = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}
