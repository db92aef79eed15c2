"""What every system's whole recipe is asked: a smoke run, a kill at any moment, stages that a challenge copies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers.command import heredity
from heredity.core.execute import Order, keep_stages, run_once
from heredity.report.plain import read_results


def metrics_of(directory: Path) -> dict[str, Any]:
    """What a finished run measured."""
    return read_results(directory)["metrics"]


def smoke_run(system: str, place: Path) -> str:
    """A smoke run through the command line into a folder; its output. Claims may fail at that size, nothing else."""
    done = heredity("run", system, "smoke", "--out", place)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def killed_and_resumed(words: list[str], place: Path, waits: Iterable[float]) -> int:
    """`heredity WORDS`, killed so many seconds after it begins, each time resumed, at last to its end; how often it died."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    kills = 0
    for wait in waits:
        command = [sys.executable, "-m", "heredity", *words, "--out", str(place)]
        command += ["--resume"] if place.exists() else []
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The clock starts when the run does, not when the interpreter does.
        while not (place / "config.yaml").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    done = heredity(*words, "--out", place, "--resume")
    assert done.returncode in (0, 3), done.stderr
    return kills


def computed_and_kept(finished: Path, order: Order, place: Path) -> tuple[Path, Path, set[str]]:
    """A challenge's order run twice: from nothing, and from what it may copy of a finished run.

    Returns both folders and the names of the copied stages, of which there must be one at least.
    """
    fresh, kept = place / "fresh", place / "kept"
    run_once(order, fresh)
    keep_stages(finished, order, kept)
    copied = {stage.name for stage in (kept / "stages").iterdir()}
    assert copied, order.ablation
    run_once(order, kept, resume=True)
    return fresh, kept, copied
