"""Claims and ablations that belong to some presets only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heredity.core.execute import Order, challenge, claims_of, run_once
from heredity.core.outcome import Claim, Metric, Outcome
from heredity.core.run import Machine, Run
from heredity.core.system import Ablation, System


@dataclass(frozen=True)
class Config:
    size: float = 1.0
    colour: str = "red"


def run(config: Config, run: Run) -> Outcome:
    metrics = {"size": Metric(config.size)}
    return Outcome(metrics | ({"red": Metric(float(config.colour == "red"))} if config.size > 5 else {}))


SYSTEM = System(
    name="sized",
    title="A size",
    paper="Nobody",
    passes_on="size",
    data="none",
    presets={"small": Config(), "large": Config(size=9.0)},
    run=run,
    claims=(
        Claim("grown", "It has a size.", "size", "at least", 1.0, "no-size"),
        Claim("red", "A large one is red.", "red", "at least", 1.0, "no-colour", presets=("large",)),
    ),
    ablations={
        "no-size": Ablation("nothing", {"size": 0.0}),
        "no-colour": Ablation("without colour", {"colour": "grey"}, presets=("large",)),
    },
)


def order(preset: str) -> Order:
    return Order(SYSTEM, preset, SYSTEM.preset(preset), machine=Machine(accelerator="cpu"))


def test_a_claim_is_judged_where_it_is_measured(tmp_path: Path) -> None:
    assert [claim.id for claim in claims_of(SYSTEM)] == ["grown", "red"]
    for preset, ids in (("small", ["grown"]), ("large", ["grown", "red"])):
        found: dict[str, Any] = run_once(order(preset), tmp_path / preset)
        assert [claim["id"] for claim in found["claims"]] == ids
        assert all(claim["holds"] for claim in found["claims"])


def test_a_challenge_takes_out_what_the_preset_has(tmp_path: Path) -> None:
    for preset, names in (("small", {"no-size"}), ("large", {"no-size", "no-colour"})):
        found = challenge(order(preset), 1, tmp_path / preset)
        assert {name for verdict in found["verdicts"] for name in verdict["holds_without"]} == names
        assert all(verdict["verdict"] == "supported" for verdict in found["verdicts"])
