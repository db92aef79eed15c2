"""Distillation from end to end: teacher and student see the same views, and the student reproduces what the target names."""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import architecture_of, lineage_of, remember
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.core.settings import to_plain
from heredity.data.pictures import Pictures
from heredity.nn.attention import attention_blocks, set_heads
from heredity.nn.encoders import Normalised
from heredity.nn.inference import evaluating
from heredity.pretrain.mae import MAE
from heredity.systems.tinymim.cache import TargetCache, cached_targets, fingerprint
from heredity.systems.tinymim.relations import check_heads, row_entropy
from heredity.systems.tinymim.student import Pupil, path_drops, tail_frozen
from heredity.systems.tinymim.targets import (
    Comparison,
    Target,
    as_attention,
    read_target,
    target_block,
    vision_transformer_in,
)
from heredity.systems.tinymim.views import Views, check_cacheable, recoloured, view


@dataclass(frozen=True)
class Distillation:
    """One stage of TinyMIM: every switch of the paper's study.

    `masked` is the share of patches that neither side sees (0: whole images). `reconstruction` weighs an auxiliary masked
    autoencoding loss of the student on the same patches. `drop_path` is the student's, `teacher_drop_path` the teacher's
    (which then cannot be cached). `cache` keeps the teacher's targets on disk for a finite set of views. `teacher_precision`
    "auto" takes bfloat16 on a GPU, and on a CPU that computes it in hardware; numbers then depend on the machine.
    """

    target: Target = Target()
    views: Views = Views()
    masked: float = 0.0
    reconstruction: float = 0.0
    decoder: MAE = MAE()
    drop_path: float = 0.1
    teacher_drop_path: float = 0.0
    cache: bool = False
    store: Literal["float32", "float16", "bfloat16"] = "float32"
    teacher_precision: Literal["float32", "bfloat16", "auto"] = "float32"
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=500, batch=128, learning_rate=4e-3, weight_decay=0.05, betas=(0.9, 0.95), schedule="one-cycle"
        )
    )


@dataclass(frozen=True)
class Matched:
    """A teacher and a student that can be compared: the blocks that are read (from 1), and the loss between them."""

    block: int
    student_block: int
    comparison: Comparison


def match(student: nn.Module, teacher: nn.Module, target: Target) -> Matched:
    """Check that the target exists on both sides; with adapt "last-block" the student's last block changes its heads.

    Raises ModelError for a model without one sequence of tokens, a block out of range, grids of patches that differ, prefix
    tokens that differ, and heads that do not divide.
    """
    inner, outer = vision_transformer_in(student), vision_transformer_in(teacher)
    own, theirs = attention_blocks(student), attention_blocks(teacher)
    block = target_block(target, teacher_depth=len(theirs), student_depth=len(own))
    shapes = [(vit.patch_embed.grid_size, int(vit.num_prefix_tokens)) for vit in (inner, outer)]  # pyright: ignore
    if shapes[0][0] != shapes[1][0]:
        raise ModelError(
            f"the student has a grid of {_by(shapes[0][0])} patches and the teacher of {_by(shapes[1][0])}",
            remedy="give them the same image size and patch size",
        )
    if shapes[0][1] != shapes[1][1] and target.kind != "cls" and target.relations.prefix == "kept":
        raise ModelError(
            f"the student has {shapes[0][1]} tokens before its patches and the teacher {shapes[1][1]}",
            remedy="set --prefix dropped, which compares patches only",
        )
    widths = int(inner.embed_dim), int(outer.embed_dim)  # pyright: ignore
    teacher_heads = int(theirs[block - 1].attn.num_heads)  # pyright: ignore
    if target.kind == "relations":
        check_heads(target.relations, student_width=widths[0], teacher_width=widths[1], teacher_heads=teacher_heads)
        if target.relations.adapt == "last-block":
            adapt_last_block(student, teacher_heads)
    comparison = Comparison(
        target,
        student_width=widths[0],
        teacher_width=widths[1],
        student_prefix=shapes[0][1],
        teacher_prefix=shapes[1][1],
        student_heads=int(own[-1].attn.num_heads),  # pyright: ignore
        teacher_heads=teacher_heads,
    )
    return Matched(block, len(own), comparison)


def adapt_last_block(student: nn.Module, heads: int) -> None:
    """Give the last block so many heads, and note it on the model: a file of the weights must say it (spec, trap 3)."""
    set_heads(attention_blocks(student)[-1], heads)
    if (architecture := architecture_of(student)) is not None:
        remember(student, {**architecture, "last_heads": heads})


def _by(grid: Any) -> str:
    return " x ".join(map(str, grid))


def distil(
    make: Callable[[], Normalised],
    teacher: nn.Module,
    pictures: Pictures,
    how: Distillation,
    *,
    run: Run,
    name: str,
    cache: Path | None = None,
) -> Any:
    """A student that reproduces the teacher's target on unlabelled pictures, as a stage of the run.

    `make` gives the untrained student. The teacher stays as it is. Targets are cached in `cache`, or for the time of this
    stage. Raises ModelError and ConfigError as `match` does, and for settings that exclude each other.
    """
    check(how, pictures)

    def prepared() -> Normalised:
        student = make()
        match(student, teacher, how.target)
        return student

    return run.model(
        name,
        make=prepared,
        train=lambda student: teach(student, teacher, pictures, how, run, name=name, cache=cache),
        made_by=f"TinyMIM ({how.target.kind})",
        parents=[teacher],
        settings=how,
    )


def check(how: Distillation, pictures: Pictures) -> None:
    """Settings that exclude each other, and too few pictures. Raises ConfigError or DataError."""
    if not 0 <= how.masked < 1:
        raise ConfigError(f"masked cannot be {how.masked:g}", remedy="a share of the patches from 0 to below 1")
    if how.reconstruction and not how.masked:
        raise ConfigError("reconstruction needs patches to reconstruct", remedy="set masked, e.g. 0.75")
    if how.cache and (how.masked or how.teacher_drop_path):
        raise ConfigError(
            "targets that change from step to step cannot be cached (masked, teacher_drop_path)",
            remedy="set cache to false",
        )
    if how.cache:
        check_cacheable(how.views)
    if not len(pictures):
        raise DataError("there are no pictures to distil on", remedy="give a folder with pictures")


def teach(
    student: Any,
    teacher: nn.Module,
    pictures: Pictures,
    how: Distillation,
    run: Run,
    *,
    name: str,
    cache: Path | None = None,
) -> None:
    """Train a student in place. One step: the shared view, the teacher's target (or its cached one), the student's loss."""
    matched = match(student, teacher, how.target)
    vit: Any = vision_transformer_in(student)
    shown = max(1, round(int(vit.patch_embed.num_patches) * (1 - how.masked)))
    pupil = Pupil(student, matched.comparison, how.target, block=matched.student_block, recipe=_decoder(how))
    pupil.reconstruction = how.reconstruction
    seed = run.seed
    rows = len(pictures) * max(1, how.views.count)
    asked = Teacher(teacher, how, matched.block, run)
    stored, place = _stored(asked, pictures, how, run, name, cache, rows, matched.block) if how.cache else (None, None)
    asked.warn_of_flat_relations(pictures, run)
    fitted = rows if how.views.count else len(pictures)
    until = matched.student_block - 1 if how.reconstruction == 0 else matched.student_block

    with (
        tail_frozen(student, how.target, matched.student_block, whole=how.reconstruction > 0),
        path_drops(student, how.drop_path, until) as drops,
        path_drops(asked.model, how.teacher_drop_path, matched.block) as teacher_drops,
    ):

        def step(model: nn.Module, numbers: Tensor, draws: Draws) -> dict[str, Tensor]:
            for drop in (*drops, *teacher_drops):
                drop.draws = draws
            seen = view(pictures, numbers, how.views, draws, seed=seed)
            kept = None
            if how.masked:
                order = draws.uniform(len(numbers), int(vit.patch_embed.num_patches)).argsort(dim=1)
                kept = order[:, :shown].to(numbers.device)
            taught = stored[numbers] if stored is not None else asked(seen, kept)
            return model(recoloured(seen, how.views, draws), taught, kept)

        groups = param_groups_weight_decay(pupil, how.plan.weight_decay, no_weight_decay_list=("pos_embed",))
        fit(pupil, step, rows=fitted, plan=how.plan, run=run, groups=groups)
    if place is not None and cache is None:
        run.fabric.barrier()
        if run.fabric.is_global_zero:
            shutil.rmtree(place, ignore_errors=True)


def _decoder(how: Distillation) -> MAE | None:
    return how.decoder if how.reconstruction else None


class Teacher:
    """The teacher as it is asked: in inference mode, up to its block, in the precision that the recipe names."""

    def __init__(self, model: nn.Module, how: Distillation, block: int, run: Run) -> None:
        self.model = copy.deepcopy(model).to(run.fabric.device).eval().requires_grad_(False)
        if how.teacher_drop_path:
            self.model.train()
        self.target, self.block = how.target, block
        device = run.fabric.device.type
        low = how.teacher_precision == "bfloat16" or (how.teacher_precision == "auto" and computes_bfloat16(device))
        self.context = (lambda: torch.autocast(device, torch.bfloat16)) if low else nullcontext

    def __call__(self, images: Tensor, kept: Int[Tensor, "batch kept"] | None = None) -> Tensor:
        """The target of uint8 images, as `read_target` gives it."""
        # Not torch.inference_mode: its tensors may not enter the student's graph.
        with torch.no_grad(), self.context():
            return read_target(self.model, images, self.target, self.block, kept=kept)

    def warn_of_flat_relations(self, pictures: Pictures, run: Run) -> None:
        """Tell when relations say nothing: pictures of one colour, or a teacher that prefers no token."""
        if self.target.kind != "relations":
            return
        with evaluating(self.model):
            some = self(pictures[torch.arange(min(16, len(pictures)), device=run.fabric.device)])
        shares = [row_entropy(as_attention(some), pair) for pair in self.target.relations.pairs]
        if min(shares) > 0.99:
            run.reporter.say(
                "warning: the teacher's relations are all but uniform on these pictures, so that there is little to learn"
            )


def computes_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster here: on any GPU, and on CPUs with AVX-512 BF16 or AMX."""
    if device != "cpu":
        return True
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _in_hardware()
    )


def _in_hardware() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _stored(
    teacher: Teacher,
    pictures: Pictures,
    how: Distillation,
    run: Run,
    name: str,
    cache: Path | None,
    rows: int,
    block: int,
) -> tuple[TargetCache, Path]:
    # Below the stage's fits: what lies there vanishes when the stage is done.
    place = cache or run.directory / "stages" / name.replace("/", "--") / "fits" / "targets"
    identity = {
        "teacher": lineage_of(teacher.model).content,
        "target": to_plain(how.target),
        "block": block,
        "views": to_plain(how.views),
        "precision": how.teacher_precision,
        "seed": run.seed if how.views.fixed and not how.views.shift else 0,
        "pictures": fingerprint(pictures),
    }
    draws = Draws(torch.Generator())

    def compute(numbers: Tensor) -> Tensor:
        return teacher(view(pictures, numbers, how.views, draws, seed=run.seed))

    run.reporter.begin(f"{name}: targets", rows)
    found = cached_targets(
        place,
        rows,
        compute,
        identity,
        fabric=run.fabric,
        store=getattr(torch, how.store),
        tick=lambda done, total: run.reporter.tick(done, {}),
    )
    run.reporter.end()
    return found, place
