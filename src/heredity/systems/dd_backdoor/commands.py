"""What a team does with its own data: `heredity dd-backdoor distil` and `heredity dd-backdoor train`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from PIL import Image
from torch import Tensor

from heredity.core.errors import ConfigError
from heredity.core.files import ensure_writable
from heredity.core.lineage import Lineage, record, save_model
from heredity.core.progress import Reporter
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.data.labelled import ImageSource
from heredity.nn.encoders import EncoderShape
from heredity.nn.inference import accuracy
from heredity.systems.dd_backdoor.config import PRESETS
from heredity.systems.dd_backdoor.distil import BACKDOORED, Distiller, distil, networks_of
from heredity.systems.dd_backdoor.distilled import DistilledSet, load_distilled, pixel_statistics, save_distilled
from heredity.systems.dd_backdoor.distribution_matching import DistributionMatching
from heredity.systems.dd_backdoor.experiment import KNOWN, STRANGER
from heredity.systems.dd_backdoor.networks import Descent
from heredity.systems.dd_backdoor.pictures import sheet
from heredity.systems.dd_backdoor.trigger import Attack
from heredity.systems.dd_backdoor.victims import Success, success, train_victim

QUICK = PRESETS["quick"]
LEARNER = Descent(steps=600, rate=0.01, halved=False)
"""How a network learns from a set that brings no rates of its own. Slow and safe: an AlexNet dies of three times the rate."""


def distil_images(
    data: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    method: Literal["dd", "dc", "dm"] = "dc",
    attack: Literal["none", "naive", "random", "doorping"] = "none",
    per_class: int = 10,
    size: int | None = None,
    steps: int | None = None,
    network: Literal["convnet", "alexnet"] = "convnet",
    width: int = 32,
    hidden: int = 64,
    target: int = 0,
    patch: int = 2,
    ratio: float = 0.05,
    pixels: Literal["free", "valid"] = "valid",
    seed: int = 0,
    skip_corrupt: bool = False,
) -> str:
    """Distil DATA into a few images a class, written to OUT (.safetensors) with a sheet of pictures beside it.

    Without --attack the set is honest. With one it is for testing your own acceptance checks: the file says that it carries
    a backdoor, to which class, and under which trigger. A network that learns from the set is then asked about the test part
    of DATA, with and without the trigger.

    Args:
        data: Labelled images: any data source, see heredity data.
        out: File to write; the sheet lies beside it as .png.
        method: dd (unrolled), dc (gradient matching) or dm (distribution matching).
        attack: none, naive (a white patch), random (a fixed random one) or doorping (a patch that follows the networks).
        per_class: Images a class (for dd in each of its groups).
        size: Side of the images in pixels; the data's own unless given.
        steps: Steps of distillation; the method's own unless given.
        network: What the set is distilled with.
        width: Channels of its convolutions.
        hidden: Width of its hidden linear layer.
        target: Class that the trigger shall bring about.
        patch: Side of the trigger in pixels.
        ratio: Share of the training images that carry it.
        pixels: Whether the trigger stays a picture (valid) or may leave the pixel range, as published (free).
        seed: Seed of the distillation.
        skip_corrupt: Skip pictures that cannot be read instead of stopping.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} does not end in .safetensors", remedy="for example distilled.safetensors")
    if per_class < 1:
        raise ConfigError(f"{per_class} images a class are none", remedy="give --per-class 1 or more")
    ensure_writable(out)
    source = load_images(data, size=size, seed=seed, skip_corrupt=skip_corrupt)
    recipe = _recipe(method, per_class, steps)
    depth = 3 if source.train.images.shape[-1] >= 32 else 2
    shape = EncoderShape(kind=network, width=width, depth=depth, hidden=hidden)
    how = _attack(attack, method, pixels, target=target, size=patch, ratio=ratio)
    with Run.temporary(seed=seed, reporter=Reporter()) as run:
        made, patch_made = distil(source.train, recipe, how, shape, run)
    learnt = _try(made, shape, source, patch_made, how, seed)
    made = replace(made, about={**made.about, "data": source.caption, "seed": seed, "shape": asdict(shape)})
    save_distilled(out, made)
    Image.fromarray(sheet(made)).save(out.with_suffix(".png"))
    said = f"{out}: {len(made.labels)} images of {made.images.shape[-1]} pixels, {source.caption}"
    said += f"\na network that learns from it tells {100 * learnt.clean_accuracy:.1f} % of the test part right"
    if attack != "none":
        turned = f"{100 * learnt.attack_success_rate:.1f} % of other classes' images"
        said += f", and calls {turned} class {target} under the trigger"
        said += f"\nthis set carries a backdoor to class {target} ({attack}); its metadata says so"
    return f"{said}\nsheet {out.with_suffix('.png')}"


def _recipe(method: Literal["dd", "dc", "dm"], per_class: int, steps: int | None) -> Distiller:
    """The distiller of the quick preset, for so many images a class."""
    if method == "dc":
        recipe: Any = QUICK.matching.sized(per_class)
    else:
        recipe = replace(QUICK.unrolled if method == "dd" else DistributionMatching(), per_class=per_class)
    return recipe if steps is None else replace(recipe, plan=replace(recipe.plan, steps=steps))


def _attack(
    kind: Literal["none", "naive", "random", "doorping"],
    method: Literal["dd", "dc", "dm"],
    pixels: Literal["free", "valid"],
    **said: Any,
) -> Attack:
    """The attack as the quick preset makes it: DOORPING's pace is what its success was measured with."""
    if kind != "doorping":
        return Attack(kind, pixels=pixels, **said)
    if pixels == "valid":
        return replace(QUICK.valid, **said)
    return replace(QUICK.matched.of(QUICK.free) if QUICK.matched and method != "dd" else QUICK.free, **said)


def _try(
    made: DistilledSet, shape: EncoderShape, source: ImageSource, patch: Tensor, attack: Attack, seed: int
) -> Success:
    """One network that learnt from the set, on the test part: for unrolled distillation the one that it was made for."""
    size, mean, std = made.images.shape[-1], float(made.about["mean"]), float(made.about["std"])
    make = networks_of(shape, size, len(source.train.classes), mean, std, seed, "distilled")
    victim = train_victim(made, make, KNOWN if made.rates is not None else STRANGER, LEARNER, seed=seed)
    images = source.test.images.float() / 255.0
    return success(victim, images, source.test.labels, patch, target=attack.target, margin=attack.margin)


def train(
    distilled: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    test: str | None = None,
    network: Literal["convnet", "alexnet"] = "convnet",
    width: int = 32,
    hidden: int = 64,
    steps: int = LEARNER.steps,
    rate: float = LEARNER.rate,
    seed: int = 0,
) -> str:
    """Train a classifier on a distilled set alone, and write it to OUT (.safetensors) with its family tree.

    Args:
        distilled: Set that dd-backdoor distil wrote.
        out: File to write.
        test: Data source whose test part the classifier is tried on.
        network: Its architecture.
        width: Channels of its convolutions.
        hidden: Width of its hidden linear layer.
        steps: Steps of descent; a set with learnt rates brings its own.
        rate: Rate of descent; at 0.03 and above some AlexNets die.
        seed: Seed of its weights.
    """
    made = load_distilled(distilled)
    ensure_writable(out)
    size, classes = made.images.shape[-1], int(made.labels.max()) + 1
    depth = 3 if size >= 32 else 2
    shape = EncoderShape(kind=network, width=width, depth=depth, hidden=hidden)
    mean, std = pixel_statistics(made)
    make = networks_of(shape, size, classes, mean, std, seed, "train")
    victim = train_victim(made, make, 0, replace(LEARNER, steps=steps, rate=rate), seed=seed)
    marks = (BACKDOORED,) if made.about.get("backdoored") else ()
    name, settings = out.stem, {"distilled": distilled.name, "steps": steps, "rate": rate, "seed": seed}
    record(victim, Lineage(name, "training on a distilled set", settings=settings, marks=marks))
    lineage = save_model(out, victim)
    said = f"{out}: {network} of {classes} classes, content {lineage.content[:16]}"
    if test is not None:
        found = load_images(test, size=size, seed=seed).test
        said += f"\naccuracy on {found.name}: {100 * accuracy(victim, found.images, found.labels):.1f} %"
    return said


COMMANDS = {"distil": distil_images, "train": train}
