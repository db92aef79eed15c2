"""The command line as a user meets it: a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path


def heredity(*words: str | Path, path: Path | None = None, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run `heredity WORDS`; `path` is a folder with plug-ins."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "heredity", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)


def said(process: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said: exactly one line, without a traceback, that begins with the program's name."""
    lines = [line for line in process.stderr.splitlines() if line.startswith("heredity: ")]
    assert process.returncode == 1, process.stderr
    assert len(lines) == 1, process.stderr
    assert "Traceback" not in process.stderr
    return lines[0]
