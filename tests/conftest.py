"""Every test runs offline, with shapes and types checked at run time, and without touching the user's folders."""

import os
import socket
from pathlib import Path

import helpers.checker
import pytest
import torch
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
HOOK = install_import_hook("heredity", f"{helpers.checker.__name__}.check")
# One thread a process: the tests run in several processes, and on a busy machine two threads for a tiny product cost most.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails; loopback is what several processes talk over."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for {address[0]}")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: HEREDITY_DATA, or ../shared/data beside the checkout."""
    repository = Path(__file__).resolve().parents[1]
    place = Path(os.environ.get("HEREDITY_DATA", repository.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("no real data here: set HEREDITY_DATA to measure on it")
    return place
