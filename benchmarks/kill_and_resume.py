"""Kill a smoke run at random moments, resume it each time, and compare with an uninterrupted one, bit for bit.

python benchmarks/kill_and_resume.py ssl-wm --kills 20
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def metrics_of(directory: Path) -> dict[str, Any]:
    """The metrics of a finished run."""
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))["metrics"]


def main() -> None:
    """Every round begins a run of its own, kills it once at a moment drawn from the whole run's length, and resumes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    base = [sys.executable, "-m", "heredity", "run", options.system, "smoke", "--quiet"]
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        began = time.monotonic()
        subprocess.run([*base, "--out", str(whole)], stdout=subprocess.DEVNULL, check=False)
        length = time.monotonic() - began
        wrong = 0
        for number in range(options.kills):
            out = Path(place) / f"killed-{number}"
            process = subprocess.Popen([*base, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            moment = moments.uniform(0.05, 0.95) * length
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.wait()
            stages = len(list((out / "stages").glob("*/stage.json")))
            resume = ["--resume"] if (out / "config.yaml").exists() else []
            subprocess.run([*base, "--out", str(out), *resume], stdout=subprocess.DEVNULL, check=False)
            same = metrics_of(out) == metrics_of(whole)
            wrong += not same
            print(
                f"killed at {moment:6.1f} s after {stages:3d} stages: {'same bits' if same else 'DIFFERENT'}",
                flush=True,
            )
    print(f"{options.kills - wrong} of {options.kills} ended in the same bits")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
