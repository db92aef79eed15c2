"""TinyMIM on models and pictures of one's own: `heredity tinymim distil | finetune | evaluate | export | import`."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import tyro
from torch import nn

from heredity.core.errors import ConfigError, DataError, HeredityError, ModelError, RunError
from heredity.core.files import ensure_writable, write_text
from heredity.core.lineage import ARCHITECTURE_KEY, architecture_of, lineage_of, load_tensors, read_lineage, save_model
from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.run import Machine, Run
from heredity.data.pictures import Pictures, labelled_pictures, unlabelled
from heredity.nn.encoders import Classifier, Normalised
from heredity.nn.resolver import build, load_file, parse_architecture, resolve_encoder
from heredity.systems.tinymim.checkpoints import import_checkpoint, read_checkpoint
from heredity.systems.tinymim.distil import Distillation, match
from heredity.systems.tinymim.distil import distil as distil_stage
from heredity.systems.tinymim.encoders import initialise
from heredity.systems.tinymim.evaluate import accuracy_on, corruption_errors
from heredity.systems.tinymim.export import export_onnx
from heredity.systems.tinymim.finetune import FineTuning, predicted
from heredity.systems.tinymim.finetune import finetune as finetune_stage
from heredity.systems.tinymim.relations import Relations
from heredity.systems.tinymim.results import multiply_adds, parameters_of
from heredity.systems.tinymim.targets import Target, vision_transformer_in
from heredity.systems.tinymim.views import COLOURS, CROPS, Views


def distil(
    teacher: str,
    student: str,
    images: str,
    out: Path,
    assistant: str | None = None,
    size: int | None = None,
    architecture: str | None = None,
    target: Literal["relations", "cls", "feature"] = "relations",
    block: int = 0,
    adapt: Literal["last-block", "relation-heads", "mean"] = "last-block",
    relation_heads: int = 0,
    prefix: Literal["kept", "dropped"] = "kept",
    masked: float = 0.0,
    drop_path: float = 0.1,
    epochs: float = 100.0,
    steps: int = 0,
    batch: int = 128,
    learning_rate: float = 1.5e-4,
    cache: Path | None = None,
    views: int = 0,
    flip: bool = True,
    seed: int = 0,
    devices: int = 1,
    precision: str = "32-true",
    accelerator: str = "auto",
    skip_corrupt: bool = False,
) -> str:
    """Make a small student of a teacher and unlabelled pictures, and write it to OUT (.safetensors) with its lineage.

    A run that was interrupted goes on when the same command is given again.

    Args:
        teacher: timm:NAME, file:PATH, hf:REPO, dir:PATH or run:DIR/STAGE; e.g. a file that `heredity import` wrote.
        student: A timm name, e.g. vit_tiny_patch16_224, or a shape, e.g. vit:width=192,depth=12,heads=3,patch=16.
        images: A folder of pictures (any depth, no labels), or a data source; see heredity data.
        out: File to write.
        assistant: A model between the two, named as the student: teacher -> assistant -> student, each for the whole plan.
        size: Side of the pictures in pixels; the student's own unless given.
        architecture: Shape of teacher weights that do not say it.
        target: What is copied.
        block: Teacher's block that is read, from 1, or from the end if negative; 0: the last of a teacher as deep as the
            student, else three quarters of the way.
        adapt: What happens where the numbers of heads differ.
        relation_heads: For --adapt relation-heads: how many.
        prefix: Whether class and register tokens take part.
        masked: Share of the patches that neither side sees.
        drop_path: The student's stochastic depth.
        epochs: Passes over the pictures.
        steps: Optimiser steps, instead of epochs.
        batch: Pictures a step.
        learning_rate: Base rate: multiplied by batch / 256, as published.
        cache: Folder where the teacher's targets are kept: needs --views.
        views: Fixed random crops of each picture; 0 draws new ones in every step.
        flip: Whether views may be mirrored; --no-flip for digits, signs and text.
        seed: Seed of the training.
        devices: Devices (processes) on this machine.
        precision: Lightning Fabric's precision: 32-true, bf16-mixed, 16-mixed.
        accelerator: Lightning Fabric's accelerator: auto, cpu, gpu.
        skip_corrupt: Leave out pictures that cannot be read, and list them in OUT.skipped.txt.
    """
    ensure_writable(out)
    side = size or _own_size(student)
    relations = Relations(adapt=adapt, relation_heads=relation_heads, prefix=prefix)
    crop = CROPS if flip else replace(CROPS, flip=0.0)
    how = Distillation(
        target=Target(kind=target, block=block, relations=relations),
        views=Views(crop=crop, fixed=views, colour=COLOURS),
        masked=masked,
        drop_path=drop_path,
        cache=cache is not None,
        teacher_precision="auto",
        plan=Plan(
            epochs=epochs,
            steps=steps,
            batch=batch,
            learning_rate=learning_rate * batch / 256,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            schedule="one-cycle",
            warm_up=0.05,
        ),
    )
    source = resolve_encoder(teacher, image=side, architecture=architecture)
    for name in filter(None, (assistant, student)):
        match(new_encoder(name, side), source, how.target)
    pictures = unlabelled(images, size=side, seed=seed, skip_corrupt=skip_corrupt)
    settings = {
        "teacher": lineage_of(source).content,
        "student": student,
        "assistant": assistant,
        "how": how,
        "size": side,
    }
    machine = Machine(devices=devices, precision=precision, accelerator=accelerator)
    with _workplace(out, "tinymim distil", seed, settings, machine) as run:
        between = source.to(run.fabric.device)
        if assistant is not None:
            place = cache / "teacher" if cache is not None else None
            between = distil_stage(
                lambda: new_encoder(assistant, side), between, pictures, how, run=run, name="assistant", cache=place
            )
            # Only queries, keys and values of an assistant's last block were taught.
            how = replace(how, target=replace(how.target, block=-1))
        place = cache / "assistant" if cache is not None and assistant is not None else cache
        made = distil_stage(
            lambda: new_encoder(student, side), between, pictures, how, run=run, name="student", cache=place
        )
        lineage = save_model(out, made) if run.fabric.is_global_zero else lineage_of(made)
        history = run.history("student") if run.fabric.is_global_zero else {}
    terms = ", ".join(f"{name} {values[0]:.4g} -> {values[-1]:.4g}" for name, values in history.items())
    said = [
        f"teacher  {parameters_of(source) / 1e6:6.2f} M parameters  {multiply_adds(source, side) / 1e6:9.1f} M multiply-adds",
        f"student  {parameters_of(made) / 1e6:6.2f} M parameters  {multiply_adds(made, side) / 1e6:9.1f} M multiply-adds",
        f"pictures {len(pictures)}" + _skipped(pictures, out),
        f"losses   {terms}",
        f"student  {out} (content {lineage.content[:16]})",
    ]
    return "\n".join(said)


def new_encoder(name: str, size: int) -> Normalised:
    """An untrained encoder by a timm name or a shape, with pooled patches, as the published code begins it."""
    architecture = parse_architecture(name, size)
    if architecture["kind"] == "timm" and "vit" in name:
        architecture = {**architecture, "pool": "avg"}
    encoder = build(architecture)
    assert isinstance(encoder, Normalised)
    initialise(vision_transformer_in(encoder))
    return encoder


def _own_size(name: str) -> int:
    if not timm.is_model(name):
        raise ConfigError(f"the size of the pictures of {name!r} is not known", remedy="add --size, e.g. --size 64")
    known = timm.get_pretrained_cfg(name)
    return int(known.input_size[-1]) if known is not None else 224


def _skipped(pictures: Pictures, out: Path) -> str:
    """A remark on the files that were left out, which are listed in a file of their own."""
    if not pictures.skipped:
        return ""
    listed = out.with_name(out.name + ".skipped.txt")
    write_text(listed, "\n".join(pictures.skipped) + "\n")
    return f", {len(pictures.skipped)} unreadable ones left out: {listed}, first {pictures.skipped[0]}"


@contextmanager
def _workplace(out: Path, verb: str, seed: int, settings: dict[str, Any], machine: Machine) -> Iterator[Run]:
    """A run beside OUT that an interrupted command finds again, and that goes away when it is done."""
    place = out.with_name(out.name + ".run")
    identity = {"system": verb, "seed": seed, **settings}
    begun = (place / "config.yaml").exists()
    try:
        run = Run.open(place, identity, machine=machine, resume=begun, reporter=Reporter())
    except RunError as error:
        raise RunError(
            error.problem, remedy=f"repeat the command that was interrupted as it was, or remove {place}"
        ) from error
    try:
        yield run
    except HeredityError:
        if not any(place.rglob("*.safetensors")):
            shutil.rmtree(place, ignore_errors=True)
        raise
    run.fabric.barrier()
    if run.fabric.is_global_zero:
        shutil.rmtree(place, ignore_errors=True)


def finetune(
    model: str,
    data: str,
    out: Path,
    recipe: Literal["auto", "tiny", "small", "base"] = "auto",
    size: int | None = None,
    architecture: str | None = None,
    last_heads: Literal["pretrain", "standard"] = "pretrain",
    augmentation: Literal["strong", "views"] = "strong",
    flip: bool = True,
    epochs: float | None = None,
    steps: int = 0,
    batch: int = 128,
    learning_rate: float | None = None,
    seed: int = 0,
    devices: int = 1,
    precision: str = "32-true",
    accelerator: str = "auto",
    skip_corrupt: bool = False,
) -> str:
    """Make a classifier of a distilled student and labelled pictures, write it to OUT, and say how accurate it is.

    Args:
        model: The student: file:PATH (or just PATH), or any other encoder that is a vision transformer.
        data: Labelled pictures: imagefolder:DIR or any other data source.
        out: File to write.
        recipe: Rates and lengths by size: auto goes by the width (to 192, to 384, wider).
        size: Side of the pictures; the model's own unless given.
        architecture: Shape of weights that do not say it.
        last_heads: Whether the last block keeps the heads it was trained with; "standard" is what the published code does.
        augmentation: RandAugment, mixup, cutmix and erasing; or crops only.
        flip: Whether pictures may be mirrored; --no-flip for digits, signs and text.
        epochs: Passes over the pictures: 200 for tiny and small, 100 for base, unless given.
        steps: Optimiser steps, instead of epochs.
        batch: Pictures a step.
        learning_rate: Rate at a batch of 256, scaled by the batch: 5e-4 unless given.
        seed: Seed of the training.
        devices: Devices (processes) on this machine.
        precision: Lightning Fabric's precision.
        accelerator: Lightning Fabric's accelerator.
        skip_corrupt: Leave out pictures that cannot be read.
    """
    ensure_writable(out)
    encoder = _load(model, size, architecture)
    if isinstance(encoder, Classifier) or not isinstance(encoder, Normalised):
        raise ModelError(f"{model} is a classifier, not an encoder", remedy="give the student before its head")
    vit: Any = vision_transformer_in(encoder)
    width, side = int(vit.embed_dim), int(vit.patch_embed.img_size[0])
    chosen = recipe if recipe != "auto" else ("tiny" if width <= 192 else "small" if width <= 384 else "base")
    train, test = labelled_pictures(data, size=side, seed=seed, skip_corrupt=skip_corrupt)
    how = recipe_of(chosen)
    how = replace(
        how,
        augmentation=augmentation,
        last_heads=last_heads,
        views=how.views if flip else replace(how.views, crop=replace(how.views.crop, flip=0.0)),
        plan=replace(
            how.plan,
            batch=batch,
            steps=steps,
            epochs=epochs if epochs is not None else how.plan.epochs,
            learning_rate=(5e-4 if learning_rate is None else learning_rate) * batch / 256,
        ),
    )
    machine = Machine(devices=devices, precision=precision, accelerator=accelerator)
    settings = {"student": lineage_of(encoder).content, "data": data, "how": how}
    with _workplace(out, "tinymim finetune", seed, settings, machine) as run:
        made = finetune_stage(encoder, train, how, run=run, name="classifier")
        right = (predicted(made, test.pictures) == test.labels).float()
        lineage = save_model(out, made) if run.fabric.is_global_zero else lineage_of(made)
        if run.fabric.is_global_zero:
            write_text(classes_file(out), "\n".join(train.classes) + "\n")
    noise = 196.0 * float(right.mean() * (1 - right.mean()) / len(right)) ** 0.5
    return (
        f"{100 * float(right.mean()):.1f} % (+- {noise:.1f}) of {len(right)} held-out pictures, {len(train.classes)} classes"
        + _skipped(train.pictures, out)
        + f"\nclassifier {out} (content {lineage.content[:16]})\nclasses    {classes_file(out)}"
    )


def classes_file(model: Path) -> Path:
    """Where a classifier's class names lie, one a line."""
    return model.with_name(model.name + ".classes.txt")


def recipe_of(size: Literal["tiny", "small", "base"] | str) -> FineTuning:
    """The paper's fine-tuning by size (spec, section 3): length, decay by layer, drop path."""
    epochs, decay, drop = {"tiny": (200, 0.8, 0.0), "small": (200, 0.75, 0.1), "base": (100, 0.65, 0.2)}[size]
    return FineTuning(
        plan=Plan(epochs=epochs, batch=1024, learning_rate=2e-3, weight_decay=0.05, schedule="one-cycle", warm_up=0.05),
        layer_decay=decay,
        drop_path=drop,
        augmentation="strong",
        mixup=0.2 if size == "tiny" else 0.8,
        views=Views(crop=replace(CROPS, scale=(0.08, 1.0)), colour=None),
    )


def _load(model: str, size: int | None, architecture: str | None) -> nn.Module:
    """A model by its specification or path; the size of its pictures is its own unless told."""
    path = Path(model.removeprefix("file:")).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        side = size or _size_in(path)
        return load_file(path, image=side, architecture=architecture)
    if size is None:
        raise ConfigError(f"the size of the pictures of {model} is not known", remedy="add --size, e.g. --size 224")
    return resolve_encoder(model, image=size, architecture=architecture)


def _size_in(path: Path) -> int:
    import json

    try:
        known = json.loads(load_tensors(path)[1].get(ARCHITECTURE_KEY, "{}"))
        side = known.get("encoder", known).get("image")
    except (ValueError, AttributeError):
        side = None
    if type(side) is not int:
        raise ConfigError(f"{path} does not say the size of its pictures", remedy="add --size, e.g. --size 224")
    return side


def evaluate(
    model: Annotated[Path, tyro.conf.Positional],
    images: Annotated[Path, tyro.conf.Positional],
    variant: Literal["imagenet", "a", "r", "c"] = "imagenet",
    classes: Path | None = None,
    skip_corrupt: bool = False,
) -> str:
    """Say how accurate a classifier is on a folder of class folders, or on ImageNet-A, -R or -C.

    Args:
        model: A classifier that finetune or import wrote.
        images: A folder with one folder for each class; for -C <corruption>/<severity>/<class>/*.
        variant: Of -A and -R only the classes with a folder may be answered; -C gives errors.
        classes: Class names in the order of the model's scores, one a line; MODEL.classes.txt unless given.
        skip_corrupt: Leave out pictures that cannot be read.
    """
    loaded = load_file(model, image=_size_in(model))
    if not isinstance(loaded, Classifier):
        raise ModelError(
            f"{model} is an encoder without a head", remedy="make a classifier of it with tinymim finetune"
        )
    side = int(vision_transformer_in(loaded).patch_embed.img_size[0])  # pyright: ignore
    names = _classes(classes or classes_file(model), loaded.head.out_features)
    if variant == "c":
        found = corruption_errors(loaded, images, names, size=side, skip_corrupt=skip_corrupt)
        lines = [f"{name:<20} {100 * error:5.1f} % errors" for name, error in found.errors.items()]
        lines.append(f"mean corruption error (unnormalised) {100 * found.mean_error:.1f} %")
        mce = f"{100 * found.mce:.1f} %" if found.mce is not None else "needs all 15 corruptions"
        return "\n".join([*lines, f"mCE (normalised by AlexNet) {mce}"])
    share, count, skipped = accuracy_on(
        loaded, images, names, size=side, subset=variant in ("a", "r"), skip_corrupt=skip_corrupt
    )
    left_out = f"; {len(skipped)} unreadable ones left out, first {skipped[0]}" if skipped else ""
    return f"{100 * share:.1f} % of {count} pictures{left_out}"


def _classes(path: Path, count: int) -> tuple[str, ...]:
    if not path.is_file():
        raise DataError(f"no file {path}", remedy="give the class names in order, one a line, with --classes")
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{path} has {len(set(names))} names for {count} classes", remedy="one name a line, each once")
    return names


def export(
    model: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
) -> str:
    """Write a student or classifier as ONNX (uint8 images in, free batch size), checked with onnxruntime.

    Args:
        model: A .safetensors file that heredity wrote.
        out: File to write, e.g. student.onnx.
    """
    side = _size_in(model)
    difference = export_onnx(load_file(model, image=side), out, size=side)
    return (
        f"{out}: uint8 images batch x 3 x {side} x {side}; onnxruntime differs from torch by at most {difference:.1g}"
    )


def import_file(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path | None = None,
    kind: Literal["auto", "mae", "tinymim"] = "auto",
    size: int = 224,
    heads: int | None = None,
    last_heads: int | None = None,
) -> str:
    """Turn a released MAE or TinyMIM checkpoint (.pth) into safetensors for timm's model of the same shape.

    Args:
        file: The .pth file; nothing in it is run.
        out: File to write: FILE with the ending .safetensors unless given.
        kind: Whose numbers of heads it has, which no file says; auto goes by the file's name (mae...).
        size: Side of the pictures; positions are interpolated.
        heads: Heads of all blocks.
        last_heads: Heads of the last block.
    """
    place = out or file.with_suffix(".safetensors")
    ensure_writable(place)
    chosen = kind if kind != "auto" else ("mae" if file.name.lower().startswith("mae") else "tinymim")
    found = import_checkpoint(
        read_checkpoint(file), name=file.stem, kind=chosen, size=size, heads=heads, last_heads=last_heads
    )
    lineage = save_model(place, found.model)
    read_lineage(place)
    architecture = architecture_of(found.model) or {}
    known = architecture.get("encoder", architecture)
    lines: Sequence[str] = [
        f"{place}: {known.get('name')}, read as {chosen} (content {lineage.content[:16]})",
        *(f"  {note}" for note in found.notes),
        f"use it: heredity tinymim distil --teacher file:{place} --student vit_tiny_patch16_224 --images DIR --out OUT",
    ]
    return "\n".join(lines)


COMMANDS = {"distil": distil, "finetune": finetune, "evaluate": evaluate, "export": export, "import": import_file}

__all__ = ["COMMANDS", "distil", "evaluate", "export", "finetune", "import_file", "new_encoder", "recipe_of"]
