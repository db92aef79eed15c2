"""TinyMIM from end to end: a teacher, students by every arm, all fine-tuned alike (Ren et al., CVPR 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError, suggestion
from heredity.core.outcome import Outcome
from heredity.core.run import Run
from heredity.data.pictures import LabelledPictures, Pictures, balanced, labelled_pictures
from heredity.metrics.segmentation import mean_iou
from heredity.nn.attention import attention_blocks, run_up_to
from heredity.nn.encoders import EncoderShape, Normalised
from heredity.nn.inference import evaluating
from heredity.nn.resolver import resolve_encoder
from heredity.pretrain.mae import MAE, mae
from heredity.systems.tinymim import pictures as figures
from heredity.systems.tinymim.config import ARMS, TinyMIM, arm_of, distillation_of
from heredity.systems.tinymim.distil import distil
from heredity.systems.tinymim.encoders import untrained
from heredity.systems.tinymim.finetune import finetune, predicted
from heredity.systems.tinymim.results import measured
from heredity.systems.tinymim.targets import target_block
from heredity.systems.tinymim.views import Views, view
from heredity.transfer.probe import fit_head
from heredity.transfer.segmentation import segment, segmented


@dataclass(frozen=True)
class Bench:
    """What all arms of a run have in common: pictures without labels, a few with, and those to measure on."""

    config: TinyMIM
    run: Run
    pictures: Pictures
    labelled: LabelledPictures
    validation: LabelledPictures
    test: LabelledPictures
    heads: int

    def scored(self) -> LabelledPictures:
        """The part that metrics are measured on."""
        return self.test if self.config.score == "test" else self.validation

    def new(self, shape: EncoderShape) -> Normalised:
        """An untrained encoder. Students of all arms have the teacher's number of heads in their last block (spec, 5.1)."""
        return untrained(shape, self.config.size, last_heads=self.heads)


def run(config: TinyMIM, run: Run) -> Outcome:
    """A teacher, its students, and what each is worth with the same few labels."""
    unknown = [arm for arm in (*config.arms, *config.dense, config.main) if arm not in ARMS]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}", remedy=suggestion(unknown[0], ARMS))
    bench = open_bench(config, run)
    teacher = make_teacher(bench)
    students = {arm: make_student(bench, arm, teacher) for arm in config.arms}
    found = {arm: examine(bench, arm, student) for arm, student in students.items()}
    probed = {arm: probe(bench, arm, student) for arm, student in students.items()}
    own = examine(bench, "teacher", teacher) if config.measure_teacher else None
    dense = {arm: examine_densely(bench, arm, students[arm]) for arm in config.dense if arm in students}
    figures.draw(bench.test.pictures, teacher, own, students, found, dense, config, run)
    return measured(teacher, own, students, found, probed, dense, config, run, skipped=bench.pictures.skipped)


def open_bench(config: TinyMIM, run: Run) -> Bench:
    """Read the pictures and choose those with labels; the seed chooses."""
    how = {"size": config.size, "seed": run.seed, "skip_corrupt": config.skip_corrupt}
    train, test = labelled_pictures(config.data, **how)
    pictures = train.pictures
    if config.transfer:
        train, test = labelled_pictures(config.transfer, **how)
    each = config.labelled // len(train.classes)
    if config.labelled and not each:
        raise ConfigError(f"{config.labelled} labelled pictures are fewer than classes", remedy="raise labelled")
    rows, others = balanced(train.labels, each or len(train.labels), seed=run.seed, name="labelled")
    validation = train.chosen(others[: config.validation]) if config.validation else test
    return Bench(config, run, pictures, train.chosen(rows), validation, test, config.teacher.heads)


def make_teacher(bench: Bench) -> nn.Module:
    """The teacher: made here by masked autoencoding (or, an ablation, left untrained), or somebody else's."""
    config, run = bench.config, bench.run
    if config.teacher_from != "train":
        return resolve_encoder(config.teacher_from, image=config.size).to(run.fabric.device).eval()

    def train(encoder: Any) -> None:
        if config.teacher_weights == "mae":
            pretrain(encoder, bench, config.teaching)

    made_by = "masked autoencoding" if config.teacher_weights == "mae" else "random weights"
    return run.model(
        "teacher",
        make=lambda: untrained(config.teacher, config.size),
        train=train,
        made_by=made_by,
        settings=config.teaching,
    )


def pretrain(encoder: Any, bench: Bench, how: MAE) -> None:
    """Masked autoencoding on the same views as distillation; positions stay as they are."""
    views = _all_views(bench.pictures, bench.config.distillation.views, bench.run.seed)
    encoder.inner.pos_embed.requires_grad_(False)
    mae(encoder, views, how, bench.run)
    encoder.inner.pos_embed.requires_grad_(True)


def _all_views(pictures: Pictures, how: Views, seed: int) -> Pictures:
    """A finite set of shifts laid out; random crops are drawn by masked autoencoding itself."""
    if not how.shift or pictures.memory is None:
        return pictures
    rows = torch.arange(len(pictures) * how.count)
    return Pictures(view(pictures, rows, how, _no_draws(), seed=seed), size=pictures.size)


def _no_draws() -> Any:
    from heredity.core.randomness import Draws

    return Draws(torch.Generator())


def make_student(bench: Bench, arm: str, teacher: nn.Module) -> Any:
    """A student by one arm, before fine-tuning."""
    config, run = bench.config, bench.run
    kind = arm_of(config, arm).kind
    stage = f"student/{arm}"
    if kind in ("scratch", "mae"):
        how = replace(config.mae, plan=replace(config.mae.plan, learning_rate=config.rates.mae.pretraining))

        def train(encoder: Any) -> None:
            if kind == "mae":
                pretrain(encoder, bench, how)

        made_by = "masked autoencoding" if kind == "mae" else "random weights"
        return run.model(stage, make=lambda: bench.new(config.student), train=train, made_by=made_by, settings=how)
    how = distillation_of(config, arm)
    source = teacher
    if arm == "sequential":
        source = make_assistant(bench, teacher)
        # Only queries, keys and values of an assistant's last block were taught: that is the block to read.
        how = replace(how, target=replace(how.target, block=-1))
    return distil(lambda: bench.new(config.student), source, bench.pictures, how, run=run, name=stage)


def make_assistant(bench: Bench, teacher: nn.Module) -> Any:
    """The one between: a complete student of the teacher (or, an ablation, left untrained), as it was pre-trained."""
    config, run = bench.config, bench.run
    if not config.assistant_taught:
        return run.model(
            "student/assistant",
            make=lambda: bench.new(config.assistant),
            train=lambda _: None,
            made_by="random weights",
        )
    how = distillation_of(config, "sequential")
    return distil(lambda: bench.new(config.assistant), teacher, bench.pictures, how, run=run, name="student/assistant")


def examine(bench: Bench, arm: str, student: Any) -> dict[str, Any]:
    """What a student (or the teacher itself) is worth: fine-tuned on the few labels, in % of the pictures it has not seen."""
    config, run = bench.config, bench.run
    kind = "mae" if arm == "teacher" else arm_of(config, arm).kind
    rate = getattr(config.rates, kind).finetuning
    how = replace(config.finetuning, plan=replace(config.finetuning.plan, learning_rate=rate))
    child = finetune(student, bench.labelled, how, run=run, name=f"finetuned/{arm}")
    scored = bench.scored()

    def compute() -> dict[str, Any]:
        right = predicted(child, scored.pictures) == scored.labels
        chosen_by = predicted(child, bench.validation.pictures) == bench.validation.labels
        return {
            "accuracy": 100.0 * float(right.float().mean()),
            "validation": 100.0 * float(chosen_by.float().mean()),
            "right": "".join(map(str, right.int().tolist())),
        }

    return run.table(f"examined/{arm}", compute)


def probe(bench: Bench, arm: str, student: Any) -> float:
    """Accuracy in % of a linear map from the patches that enter the last block, averaged, with the student unchanged.

    Not from the output: behind a relation student's last queries, keys and values nothing has been trained (spec, trap 15).
    """
    run = bench.run

    def features(pictures: Pictures) -> Tensor:
        parts = []
        prefix = int(student.inner.num_prefix_tokens)
        with evaluating(student):
            for rows in torch.arange(len(pictures), device=run.fabric.device).split(256):
                tokens = run_up_to(student, pictures[rows], -1).tokens
                parts.append(tokens[:, prefix:].mean(dim=1).cpu())
        return torch.cat(parts)

    def compute() -> float:
        scored = bench.scored()
        classes = len(bench.labelled.classes)
        weight, bias = fit_head(features(bench.labelled.pictures), bench.labelled.labels, classes=classes)
        answers = (features(scored.pictures) @ weight.T + bias).argmax(dim=1)
        return 100.0 * float((answers == scored.labels).float().mean())

    return run.table(f"probed/{arm}", compute)


def examine_densely(bench: Bench, arm: str, student: Any) -> Mapping[str, Any]:
    """mIoU in % of a segmenter made of the student: every pixel of a stroke has the class of its digit, the others none."""
    config, run = bench.config, bench.run
    rate = getattr(config.rates, arm_of(config, arm).kind).finetuning
    how = replace(config.segmentation, plan=replace(config.segmentation.plan, learning_rate=rate))
    classes = len(bench.labelled.classes) + 1
    images, masks = strokes(bench.labelled, config.stroke)
    child = segment(student, images, masks, how, classes=classes, run=run, name=f"segmented/{arm}")

    def compute() -> dict[str, Any]:
        pixels, truth = strokes(bench.scored(), config.stroke)
        return {"miou": 100.0 * mean_iou(segmented(child, pixels), truth, classes=classes)}

    return run.table(f"examined-densely/{arm}", compute)


def strokes(data: LabelledPictures, threshold: int) -> tuple[Tensor, Tensor]:
    """Pictures with a class for every pixel: 0 for the ground, 1 + the picture's class where it is brighter than that."""
    images = data.pictures[torch.arange(len(data.labels))]
    bright = images.float().mean(dim=1) > threshold
    return images, torch.where(bright, data.labels[:, None, None] + 1, 0)


def block_read(teacher: nn.Module, student: nn.Module, config: TinyMIM) -> int:
    """The teacher's block that the arm "relations" reads."""
    depths = len(attention_blocks(teacher)), len(attention_blocks(student))
    return target_block(config.distillation.target, teacher_depth=depths[0], student_depth=depths[1])
