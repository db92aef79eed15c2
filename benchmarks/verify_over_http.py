"""Verify over HTTP on loopback: smooth, then with faults in a tenth of the requests and kills; compare, and time.

python benchmarks/verify_over_http.py [--share 0.1] [--kills 2]

A small encoder is pre-trained on digits, marked and probed, so that there is something to find. Both verifications use one
nonce; transcripts are compared in everything but their times, verdicts in every field.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heredity.core.lineage import save_model
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.resolver import resolve_encoder
from heredity.pretrain.contrastive import SimCLR, simclr
from heredity.transfer.probe import probe
from heredity.transfer.task import Task

HEREDITY = [sys.executable, "-m", "heredity"]


def prepare(place: Path) -> None:
    """A key, its commitment, and the child of a thief in a folder."""
    digits = load_images("digits").train
    with Run.temporary() as run:
        encoder = run.model(
            "clean",
            make=lambda: make_encoder(EncoderShape(width=8), 16),
            train=lambda net: simclr(
                net, digits.images, SimCLR(plan=Plan(steps=40, batch=128, learning_rate=2e-3)), run
            ),
            made_by="SimCLR",
        )
    save_model(place / "clean.safetensors", encoder)
    command(place, "ssl-wm", "keygen", "mine.key.json", "--owner", "Ada", "--size", "16")
    marking = ("--images", "digits", "--steps", "150", "--batch", "32")
    command(place, "ssl-wm", "embed", "mine.key.json", "file:clean.safetensors", "marked.safetensors", *marking)
    rows = (digits.images[:400], digits.labels[:400])
    with Run.temporary() as run:
        marked = resolve_encoder(f"file:{place / 'marked.safetensors'}", image=16)
        child = probe(marked, Task("digits", 10, rows, rows, rows), run=run, name="child")
    save_model(place / "child.safetensors", child)


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `heredity WORDS` in a folder."""
    done = subprocess.run([*HEREDITY, *words], cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-500:]}")
    return done


@contextmanager
def service(place: Path, port: int, share: float) -> Iterator[int]:
    """`heredity serve` as a process; yields the port."""
    words = ["serve", "child.safetensors", "--port", str(port), "--faults", str(share)]
    process = subprocess.Popen([*HEREDITY, *words], cwd=place, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def verification(place: Path, port: int, name: str) -> list[str]:
    """The command that verifies into NAME.jsonl and NAME.json."""
    words = ["ssl-wm", "verify", "mine.key.json", "--endpoint", f"http://127.0.0.1:{port}", "--images", "digits"]
    words += ["--nonce", "a beacon", "--looks", "1", "--number", "300", "--timeout", "1", "--resume"]
    return [*HEREDITY, *words, "--record", f"{name}.jsonl", "--out", f"{name}.json"]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a transcript without their times."""
    return [{**json.loads(line), "t": None} for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Prints a line for each part; exits 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--kills", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place)
        with service(place, 0, 0.0) as port:
            began = time.monotonic()
            subprocess.run(verification(place, port, "smooth"), cwd=place, check=True)
            whole = time.monotonic() - began
        smooth = lines(place / "smooth.jsonl")
        times = [json.loads(line)["t"] for line in (place / "smooth.jsonl").read_text(encoding="utf-8").splitlines()]
        print(f"smooth: {len(smooth) - 1:,} queries in {whole:.1f} s with start and verdict", flush=True)
        print(f"        {(len(times) - 1) / (times[-1] - times[0]):,.0f} queries/s while asking", flush=True)
        with service(place, port, options.share):
            for number in range(options.kills):
                killed = subprocess.Popen(verification(place, port, "rough"), cwd=place, stderr=subprocess.DEVNULL)
                wanted = len(smooth) * (number + 1) // (options.kills + 1)
                while killed.poll() is None and answered(place / "rough.jsonl") < wanted:
                    time.sleep(0.02)
                killed.kill()
                killed.wait()
                print(f"kill -9 after {answered(place / 'rough.jsonl') - 1:,} answers", flush=True)
            subprocess.run(verification(place, port, "rough"), cwd=place, check=True)
        same = lines(place / "rough.jsonl") == smooth
        verdicts = [json.loads((place / f"{name}.json").read_text(encoding="utf-8")) for name in ("smooth", "rough")]
        again = command(
            place,
            "ssl-wm",
            "verify",
            "mine.key.json",
            "--transcript",
            "rough.jsonl",
            "--images",
            "digits",
            "--out",
            "again.json",
        )
        offline = json.loads((place / "again.json").read_text(encoding="utf-8"))
        print(
            f"transcript with {options.share:.0%} faults and {options.kills} kills: {'the same' if same else 'DIFFERENT'}"
        )
        print(f"verdict: {'the same' if verdicts[0] == verdicts[1] else 'DIFFERENT'}")
        print(f"verdict computed again from the transcript: {'the same' if offline == verdicts[1] else 'DIFFERENT'}")
        print(again.stdout.splitlines()[0])
    sys.exit(0 if same and verdicts[0] == verdicts[1] == offline else 1)


def answered(path: Path) -> int:
    """How many whole lines a transcript has."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main()
