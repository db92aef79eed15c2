"""`heredity serve` as a process: it says where it is, answers, and ends cleanly when told to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from helpers.command import heredity, said

from heredity.core.errors import HeredityError, ModelError
from heredity.core.lineage import save_model
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.serve.server import listen, load_service
from heredity.systems.ssl_wm.proof.modality import IMAGE


@pytest.fixture
def child(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderShape(width=8), 16)
    save_model(tmp_path / "encoder.safetensors", encoder)
    save_model(tmp_path / "child.safetensors", Classifier(encoder, features=32, classes=3))
    return tmp_path / "child.safetensors"


def test_it_serves_until_it_is_interrupted(child: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "heredity", "serve", str(child), "--port", "0"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().rsplit(" ", 1)[1].strip()
        assert httpx.get(f"{address}/health", trust_env=False, timeout=30).json() == {"status": "up"}
        inputs = [IMAGE.payload(torch.zeros(3, 16, 16, dtype=torch.uint8))] * 3
        labels = httpx.post(f"{address}/v1/predict", json={"inputs": inputs}, trust_env=False, timeout=30).json()[
            "labels"
        ]
        assert len(set(labels)) == 1
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
        assert complaint == ""
    finally:
        process.kill()
        process.wait()


def test_what_cannot_be_served_is_said(child: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="an encoder, not a classifier"):
        load_service(str(tmp_path / "encoder.safetensors"))
    with pytest.raises(ModelError, match="no file"):
        load_service(str(tmp_path / "none.safetensors"))
    with pytest.raises(ModelError, match="16 pixels, not 32"):
        load_service(f"file:{child}", size=32)
    assert load_service(str(child)).size == 16
    taken = listen("127.0.0.1", 0)
    with pytest.raises(HeredityError, match="choose another --port"):
        listen("256.256.256.256", 0)
    taken.close()
    assert "--port" in said(heredity("serve", child, "--port", "99999999"))
