from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from heredity.audit import calibration
from heredity.cli import main
from heredity.core.lineage import save_model
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.neuron_stimulation import NeuronStimulation
from heredity.defences.reverse import Search
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder

SHAPE = EncoderShape(width=4)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A file of an untrained classifier of ten classes for pictures of 8 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(make_encoder(SHAPE, 8), features=16, classes=10)
    save_model(tmp_path / "model.safetensors", model)
    return tmp_path / "model.safetensors"


@pytest.fixture(autouse=True)
def _brief_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is what the commands say, not how well a patch is found."""
    monkeypatch.setattr(calibration, "CLEANSE", NeuralCleanse(Search(steps=8, batch=8)))
    monkeypatch.setattr(calibration, "STIMULATION", NeuronStimulation(steps=4, candidates=3, area=0.1))
    clean = [-0.01 - 0.001 * number for number in range(19)]
    scores = dict.fromkeys((*calibration.SCANNERS, "activation-clustering"), clean)
    monkeypatch.setattr(
        calibration, "shipped", lambda: {"models": "19 clean models made up for this test", "scores": scores}
    )
