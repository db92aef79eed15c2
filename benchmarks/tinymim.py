"""TinyMIM's distillation step against the plain formulation: ratio of steps a second, equal numbers, and peak memory.

python benchmarks/tinymim.py --batch 4 --steps 6 --threads 1

Plain is how one would write it down: the whole teacher in float32 with attention written out, relations as probabilities and
their logarithm, nothing cached, the whole student run. Ours ends both forward passes at the queries, keys, values that are
needed. Variants alternate, so that other work on the machine slows all of them alike; the ratio is that of medians. Peak
memory is measured in a process of its own for each variant, above that of the two models.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from heredity.nn.attention import attention_blocks, set_heads
from heredity.nn.encoders import Normalised
from heredity.systems.tinymim.distil import computes_bfloat16
from heredity.systems.tinymim.student import Pupil, tail_frozen
from heredity.systems.tinymim.targets import Comparison, Target, read_target

HEADS = 6


def plain_attention(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A block with attention written out: tokens behind it, and its queries, keys and values."""
    attention = block.attn
    batch, length, width = tokens.shape
    heads = attention.num_heads
    qkv = attention.qkv(block.norm1(tokens)).reshape(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    relation = (query @ key.transpose(-2, -1) * (width // heads) ** -0.5).softmax(dim=-1)
    mixed = attention.proj((relation @ value).transpose(1, 2).reshape(batch, length, width))
    tokens = tokens + mixed
    return tokens + block.mlp(block.norm2(tokens)), query, key, value


def plain_relations(encoder: Normalised, images: Tensor) -> list[Tensor]:
    """R_qk and R_vv of the last block, from a run of the whole model."""
    vit: Any = encoder.inner
    pixels = (images.float() / 255.0 - encoder.mean) / encoder.std
    tokens = vit._pos_embed(vit.patch_embed(pixels))
    query = key = value = tokens
    for block in vit.blocks:
        tokens, query, key, value = plain_attention(block, tokens)
    vit.norm(tokens)
    scale = query.shape[-1] ** -0.5
    return [
        (query @ key.transpose(-2, -1) * scale).softmax(dim=-1),
        (value @ value.transpose(-2, -1) * scale).softmax(dim=-1),
    ]


def plain_step(student: Normalised, teacher: Normalised, images: Tensor) -> Tensor:
    """Loss and gradients, written down as the equations stand."""
    with torch.no_grad():
        wanted = plain_relations(teacher, images)
    loss = torch.zeros(())
    for target, mine in zip(wanted, plain_relations(student, images), strict=True):
        rows = target.shape[0] * target.shape[1] * target.shape[2]
        loss = loss + (target * (target.log() - mine.log())).sum() / rows
    loss.backward()
    return loss.detach()


def pair() -> tuple[Normalised, Normalised]:
    """A ViT-S as teacher and a ViT-T as student with the teacher's heads in its last block, both of random weights."""
    torch.manual_seed(0)
    made: list[Any] = [timm.create_model(f"vit_{size}_patch16_224", num_classes=0) for size in ("small", "tiny")]
    teacher, student = Normalised(made[0]), Normalised(made[1])
    for model in made:
        for block in model.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=0.08)
    set_heads(attention_blocks(student)[-1], HEADS)
    return student, teacher.eval().requires_grad_(False)


def our_step(student: Normalised, teacher: Normalised, *, low: bool, cached: bool) -> Callable[[Tensor], Tensor]:
    """The same step as the toolkit takes it."""
    target = Target(block=12)
    comparison = Comparison(
        target,
        student_width=192,
        teacher_width=384,
        student_prefix=1,
        teacher_prefix=1,
        student_heads=HEADS,
        teacher_heads=HEADS,
    )
    pupil = Pupil(student, comparison, target, block=12, recipe=None)
    kept: dict[int, Tensor] = {}

    def step(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            taught = kept.get(id(images))
            if taught is None:
                with torch.no_grad():
                    taught = read_target(teacher, images, target, 12)
            if cached:
                kept[id(images)] = taught
            loss = torch.stack(list(pupil(images, taught).values())).sum()
        loss.backward()
        return loss.detach()

    return step


def variants(only: str = "") -> dict[str, Callable[[Tensor], Tensor]]:
    """Every way of taking the step (or only one), all from the same weights."""
    made: dict[str, Callable[[Tensor], Tensor]] = {}
    student, teacher = pair()
    made["plain"] = lambda images: plain_step(student, teacher, images)
    if only == "plain":
        return made
    for name, low, cached in (
        ("ours, float32", False, False),
        ("ours, cached targets", False, True),
        ("ours, bfloat16", True, False),
        ("ours, bfloat16 and cached", True, True),
    ):
        if only and name != only:
            continue
        own = student if only else pair()[0]
        made[name] = our_step(own, teacher, low=low, cached=cached)
        frozen = tail_frozen(own, Target(), 12, whole=False)
        frozen.__enter__()
        made[name].__dict__["frozen"] = frozen
    return made


def main() -> None:
    """Print a table of ratios; with --only, run one variant and print its peak memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.randint(256, (options.batch, 3, 224, 224), dtype=torch.uint8)
    steps = variants(options.only)
    if options.only:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        steps[options.only](images)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return
    losses = {name: float(step(images)) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            began = time.process_time()
            step(images)
            seconds[name].append(time.process_time() - began)
    print(f"bfloat16 in hardware: {computes_bfloat16('cpu')}; batch {options.batch}, {options.threads} thread(s)")
    print(f"{'':<28}{'CPU s a step':>13}{'ratio':>8}{'loss':>12}{'differs by':>12}{'peak MB':>9}")
    plain = statistics.median(seconds["plain"])
    for name, took in seconds.items():
        command = [sys.executable, __file__, "--only", name, "--batch", str(options.batch)]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        middle = statistics.median(took)
        gap = abs(losses[name] - losses["plain"]) / losses["plain"]
        print(f"{name:<28}{middle:13.3f}{plain / middle:8.2f}{losses[name]:12.6f}{gap:12.1e}{peak:9.0f}")


if __name__ == "__main__":
    main()
