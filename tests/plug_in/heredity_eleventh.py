"""An eleventh system: a student that learns a teacher's answers instead of labels, and what it inherits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heredity.core.loop import Plan, fit
from heredity.core.outcome import Bars, Claim, Metric, Outcome
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.core.system import Ablation, System


@dataclass(frozen=True)
class Config:
    """How wide the hidden layer of both is, how they train, and whether the student sees the teacher at all."""

    hidden: int = 8
    plan: Plan = Plan(steps=150, batch=32, learning_rate=0.02)
    taught: bool = True


def run(config: Config, run: Run) -> Outcome:
    """Teacher from labels, student from the teacher, compared on what neither has seen."""
    inputs = torch.rand(400, 2, generator=generator_of(run.seed, "inputs"))
    labels = (inputs.sum(dim=1) > 1).long()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(2, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 2))

    def learn(answers: Tensor):
        def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            return {"cross_entropy": nn.functional.cross_entropy(model(inputs[rows]), answers[rows])}

        return lambda model: fit(model, step, rows=300, plan=config.plan, run=run)

    teacher = run.model("teacher", make=make, train=learn(labels), made_by="labels")
    guesses = torch.randint(2, (400,), generator=generator_of(run.seed, "guesses"))
    answers = teacher(inputs).argmax(dim=1) if config.taught else guesses
    student = run.model("student", make=make, train=learn(answers), made_by="distillation", parents=[teacher])
    same = (teacher(inputs[300:]).argmax(dim=1) == student(inputs[300:]).argmax(dim=1)).float().mean()
    agreement = run.table("agreement", lambda: 100 * float(same))
    run.figure("agreement", Bars(("student",), {"agreement": (agreement,)}, "%"), caption="Agreement.", alt="One bar.")
    return Outcome({"agreement": Metric(agreement, "%", True)})


SYSTEM = System(
    name="eleventh",
    title="A student that learns a teacher's answers",
    paper="Nobody, 2026",
    passes_on="answers",
    data="generated",
    presets={"smoke": Config(plan=Plan(steps=5)), "quick": Config(), "paper": Config(hidden=64)},
    run=run,
    claims=(
        Claim("answers-inherited", "The student answers as its teacher.", "agreement", "at least", 90.0, "no-teacher"),
    ),
    ablations={"no-teacher": Ablation("the student learns guesses", {"taught": False}, ("teacher",))},
)
