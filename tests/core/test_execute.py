"""Claims that are only reported fail neither a run nor a challenge; those that nobody measured are confirmed by neither."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from heredity.cli.runs import conclude
from heredity.core.execute import Order, challenge, run_once
from heredity.core.outcome import Claim, Metric, Outcome
from heredity.core.progress import Reporter
from heredity.core.run import Machine, Run
from heredity.core.system import Ablation, System


@dataclass(frozen=True)
class Config:
    idea: bool = True
    proxy: float = 0.0
    measured: bool = True


def measure(config: Config, run: Run) -> Outcome:
    size = {"size": Metric(float(config.idea))} if config.measured else {}
    return Outcome({**size, "proxy": Metric(config.proxy)})


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
    assert conclude(results, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert f"{word}  proxy-matters" in said
    assert "holds  idea-works" in said
    page = (tmp_path / "run/report.html").read_text()
    assert "1 of 1</strong> claim holds, 1 reported either way" in page
    assert (
        conclude(run_once(order(idea=False), tmp_path / "without", reporter=Reporter(quiet=True)), tmp_path / "without")
        == 3
    )


def test_the_verdict_of_a_challenge(tmp_path: Path) -> None:
    found = challenge(order(), 1, tmp_path, reporter=Reporter(quiet=True))
    words = {verdict["id"]: (verdict["verdict"], verdict["reported"]) for verdict in found["verdicts"]}
    assert words == {"idea-works": ("supported", False), "proxy-matters": ("does not hold", True)}


def test_what_nobody_measured_is_called_so_and_not_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_once(order(measured=False), tmp_path / "run", reporter=Reporter(quiet=True))
    assert conclude(results, tmp_path / "run") == 3
    assert "unanswered  idea-works: not measured" in capsys.readouterr().out
    page = (tmp_path / "run/report.html").read_text()
    assert "0 of 0</strong> claims hold, 1 reported either way, 1 not measured" in page
    assert "does not hold" in page  # the reported one
    found = challenge(order(measured=False), 1, tmp_path / "challenge", reporter=Reporter(quiet=True))
    assert [verdict["verdict"] for verdict in found["verdicts"]] == ["unanswered", "does not hold"]
