"""The options of `heredity scan` and `heredity repair`, and what they print. Heavy imports happen when they are called."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from heredity.core.errors import ConfigError


@dataclass(frozen=True)
class ScanOptions:
    """Ask every detector that applies about a foreign model, or about a training set in one safetensors file."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A classifier file (PATH), run:DIR/STAGE or timm:NAME; or a file of a training set (tensors images and labels)."""
    data: str | None = None
    """Clean images for the detectors, best of the kind that the model was made for: any data source. Unless given, photos, or
    a training set's own images."""
    inputs: str | None = None
    """Inputs to be judged one by one: any data source."""
    calibrate: int = 0
    """Train so many clean models of this architecture on DATA and take the thresholds from them."""
    shadows: int = 0
    """Train so many clean and so many backdoored small models of this architecture on DATA and ask MNTD, which learns from
    them (minutes)."""
    architecture: str | None = None
    """timm's name of weights that do not say what they are."""
    size: int | None = None
    """Side of such a model's images."""
    encoder: bool = False
    """The model is an encoder: ask DECREE alone."""
    seed: int = 0
    """Seed of the detectors' draws."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """No progress."""


def scan(options: ScanOptions) -> int:
    """Scan and print; 3 where something is flagged, else 0."""
    from heredity.audit import models, sets
    from heredity.audit.scan import lines, plain, scan_model
    from heredity.core.progress import Reporter
    from heredity.data.images import load_images

    reporter, caption = Reporter(quiet=options.quiet), "its own images"
    if models.is_image_set(options.model):
        found = models.load_image_set(options.model)
        side, content = found.images.shape[-1], found.content
        clean = None
        if options.data is not None:
            source = load_images(options.data, size=side, seed=options.seed)
            clean, caption = source.test.images, source.caption
        findings = sets.scan_set(found, clean=clean, seed=options.seed, reporter=reporter)
    else:
        opened = models.open_model(options.model, architecture=options.architecture, size=options.size)
        content = opened.content
        source = load_images(options.data or "photos", size=opened.size, seed=options.seed)
        caption = source.caption
        judged = None
        if options.inputs is not None:
            given = load_images(options.inputs, size=opened.size, seed=options.seed)
            judged = given.test.images
        findings = scan_model(
            opened,
            source,
            inputs=judged,
            calibrate_on=options.calibrate,
            shadows=options.shadows,
            encoder=options.encoder,
            seed=options.seed,
            reporter=reporter,
        )
    flagged = any(finding.flagged for finding in findings)
    if options.json:
        from heredity.core.files import finite

        told = {"model": options.model, "sha256": content, "data": caption, "flagged": flagged}
        print(json.dumps(finite({**told, "detectors": plain(findings)}), indent=1))
    else:
        print("\n".join([f"{options.model} (sha256 {content[:12]}), clean images: {caption}", *lines(findings)]))
    return 3 if flagged else 0


@dataclass(frozen=True)
class RepairOptions:
    """Write a child of a classifier from which a backdoor may be gone, with its lineage."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A classifier file (PATH), run:DIR/STAGE or timm:NAME."""
    with_: Annotated[str, tyro.conf.arg(name="with")]
    """fine-pruning, anp, nad, unlearning or unlearning-by-pruning."""
    data: str
    """Clean labelled images of the model's classes: any data source. Its test part measures what the repair costs."""
    out: Path
    """File to write (.safetensors). It must not exist."""
    rows: int = 500
    """Images of the training part that the repair sees."""
    architecture: str | None = None
    """timm's name of weights that do not say what they are."""
    size: int | None = None
    """Side of such a model's images."""
    seed: int = 0
    """Seed of the repair's draws."""


def repair(options: RepairOptions) -> int:
    """Repair, write and print."""
    from heredity.audit.mend import mend
    from heredity.audit.models import open_model
    from heredity.core.files import ensure_writable
    from heredity.core.lineage import save_model
    from heredity.core.randomness import generator_of
    from heredity.data.images import load_images

    if options.out.exists():
        raise ConfigError(f"{options.out} exists", remedy="choose another --out")
    opened = open_model(options.model, architecture=options.architecture, size=options.size)
    source = load_images(options.data, size=opened.size, seed=options.seed)
    ensure_writable(options.out)
    draws = generator_of(options.seed, "repair", options.with_)
    done = mend(opened, source, options.with_, rows=options.rows, generator=draws)
    save_model(options.out, done.repair.model)
    for name, value in done.repair.measures.items():
        print(f"  {name}: {value:.4g}")
    print(
        f"accuracy on {done.measured_on} held-out images: {done.before:.4f} before, {done.after:.4f} after "
        f"{done.repair.defence} with {done.seen} images ({done.repair.cost.seconds:.0f} s)\n{options.out}"
    )
    return 0
