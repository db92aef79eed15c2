"""Claims that are only reported: judged like the others, but a "no" fails neither a run nor a challenge."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from heredity.cli import _conclude
from heredity.core.execute import Order, challenge, run_once
from heredity.core.outcome import Claim, Metric, Outcome
from heredity.core.progress import Reporter
from heredity.core.run import Machine, Run
from heredity.core.system import Ablation, System


@dataclass(frozen=True)
class Config:
    idea: bool = True
    proxy: float = 0.0


def measure(config: Config, run: Run) -> Outcome:
    return Outcome({"size": Metric(float(config.idea)), "proxy": Metric(config.proxy)})


SYSTEM = System(
    name="question",
    title="An open question",
    paper="Nobody, 2026",
    passes_on="nothing",
    data="none",
    presets={"quick": Config()},
    run=measure,
    claims=(
        Claim("idea-works", "It works.", "size", "at least", 1.0, "no-idea"),
        Claim("proxy-matters", "The proxy matters.", "proxy", "at least", 1.0, "no-proxy", reported=True),
    ),
    ablations={"no-idea": Ablation("", {"idea": False}), "no-proxy": Ablation("", {"proxy": 0.0})},
)


def order(**changes: object) -> Order:
    return Order(SYSTEM, "quick", Config(**changes), machine=Machine(accelerator="cpu"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("proxy", "word"), [(0.0, "reported: no"), (1.0, "reported: yes")])
def test_the_run_says_it_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], proxy: float, word: str
) -> None:
    results = run_once(order(proxy=proxy), tmp_path / "run", reporter=Reporter(quiet=True))
    assert _conclude(results, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert f"{word}  proxy-matters" in said
    assert "holds  idea-works" in said
    page = (tmp_path / "run/report.html").read_text()
    assert "1 of 1</strong> claim holds, 1 reported either way" in page
    assert (
        _conclude(
            run_once(order(idea=False), tmp_path / "without", reporter=Reporter(quiet=True)), tmp_path / "without"
        )
        == 3
    )


def test_the_verdict_of_a_challenge(tmp_path: Path) -> None:
    found = challenge(order(), 1, tmp_path, reporter=Reporter(quiet=True))
    words = {verdict["id"]: (verdict["verdict"], verdict["reported"]) for verdict in found["verdicts"]}
    assert words == {"idea-works": ("supported", False), "proxy-matters": ("does not hold", True)}
