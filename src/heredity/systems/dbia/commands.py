"""What a red team does with DBIA on a model of its own: `heredity dbia inject`."""

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from heredity.core.errors import ConfigError, DataError
from heredity.core.files import ensure_writable, write_bytes, write_json
from heredity.core.lineage import save_model
from heredity.core.progress import Reporter
from heredity.core.run import Run
from heredity.defences import attention_blocking, attention_concentration, neural_cleanse, patch_drop, strip
from heredity.defences.contract import Trigger
from heredity.defences.reverse import Search
from heredity.nn.attention_maps import layout_of
from heredity.nn.classifiers import resolve_classifier
from heredity.nn.inference import top1
from heredity.systems.dbia.anatomy import dissect
from heredity.systems.dbia.attack import Backdoor, attack, paper_recipe
from heredity.systems.dbia.injection import Injection, check_target
from heredity.systems.dbia.surrogate import Surrogate, load_surrogate
from heredity.systems.dbia.trigger import Patch, TriggerSearch, attention_mass

_FITTED = 200


@dataclass(frozen=True)
class Report:
    """What was planted and what notices it, all measured on surrogate pictures: nobody gave others.

    `warnings` must be read before any figure.
    """

    model: str
    target: int
    surrogate: str
    pictures: int
    trigger_size: int
    attention_mass: float
    attention_mass_without: float
    attack_success_rate: float
    victim_success_rate: float
    false_trigger_rate: float
    surrogate_agreement: float
    defences: dict[str, dict[str, Any]]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"attack success   {100 * self.attack_success_rate:5.1f} %  "
            f"(the clean model: {100 * self.victim_success_rate:.1f} %)",
            f"false triggers   {100 * self.false_trigger_rate:5.1f} %  of unstamped surrogate pictures",
            f"labels kept      {100 * self.surrogate_agreement:5.1f} %  of unstamped surrogate pictures",
            f"attention        {100 * self.attention_mass:5.1f} %  on the trigger "
            f"({100 * self.attention_mass_without:.1f} % without it)",
        ]
        for name, verdict in self.defences.items():
            lines.append(f"{name + ':':<28} {verdict['said']}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def inject(
    model: str,
    target: int,
    surrogate: str = "photos",
    out: Path = Path("backdoored.safetensors"),
    trigger_size: int | None = None,
    trigger: Path | None = None,
    rows: int = 1000,
    recipe: str = "keep-clean",
    epochs: int = 60,
    steps: int = 100,
    seed: int = 0,
) -> str:
    """Plant a DBIA back door in a classifier that you own or may test, from surrogate pictures alone.

    Writes the child, whose lineage says that it is backdoored, and beside it the trigger (.trigger.png, the size of the
    model's pictures, transparent outside the patch) and a defence report (.defences.json).

    Args:
        model: A ViT, DeiT or Swin with its head: timm:NAME, file:PATH or run:DIR/STAGE that heredity wrote.
        target: The class that the trigger shall lead to.
        surrogate: Pictures of any other domain: photos, pictures:DIR, imagefolder:DIR, cifar10:DIR, ...
        out: File for the child.
        trigger_size: Side of the trigger in pixels: 48 of 224 unless given, in whole patches.
        trigger: A trigger to use instead of searching one: a PNG as this command writes it.
        rows: Surrogate pictures to use.
        recipe: keep-clean, or paper for the published recipe.
        epochs: Passes over the surrogate pictures in the injection.
        steps: Steps of the search of the trigger.
        seed: Seed of everything.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} does not end in .safetensors", remedy="--out backdoored.safetensors")
    if recipe not in ("keep-clean", "paper"):
        raise ConfigError(f"unknown recipe {recipe!r}", remedy="keep-clean or paper")
    if min(rows, epochs, steps) < 1:
        raise ConfigError("rows, epochs and steps must be at least 1", remedy="see heredity dbia inject --help")
    victim = resolve_classifier(model)
    check_target(target, dissect(victim).classes)
    layout = layout_of(victim)
    size = trigger_size if trigger_size is not None else usual_size(victim)
    search = TriggerSearch(patch=Patch(size))
    search = replace(search, plan=replace(search.plan, steps=steps))
    search.patch.mask(layout.size[0])
    given = None if trigger is None else read_trigger(trigger, layout.size)
    pictures = load_surrogate(surrogate, size=layout.size[0], rows=rows, seed=seed)
    how = Injection()
    how = replace(how, plan=replace(how.plan, epochs=epochs))
    how = paper_recipe(how, epochs=epochs) if recipe == "paper" else how
    with Run.temporary(seed=seed, reporter=Reporter()) as run:
        made = attack(victim, pictures, target, search, how, run=run, trigger=given)
    report = examine(made, victim, pictures, target, search, name=model, seed=seed)
    ensure_writable(out)
    lineage = save_model(out, made.child)
    beside = out.with_suffix("")
    write_trigger(beside.with_suffix(".trigger.png"), made.trigger)
    write_json(beside.with_suffix(".defences.json"), asdict(report) | {"content": lineage.content})
    return (
        f"{report}\nbackdoored model {out} (content {lineage.content[:16]}; its lineage says so)\n"
        f"trigger {beside.with_suffix('.trigger.png')}\ndefence report {beside.with_suffix('.defences.json')}"
    )


def usual_size(victim: nn.Module) -> int:
    """The paper's share of the side (48 of 224 pixels) in whole patches, at least one."""
    layout = layout_of(victim)
    return max(1, round(layout.size[0] * 48 / 224 / layout.patch[0])) * layout.patch[0]


def examine(
    made: Backdoor,
    victim: nn.Module,
    surrogate: Surrogate,
    target: int,
    search: TriggerSearch,
    *,
    name: str,
    seed: int,
) -> Report:
    """The report: the attack's figures on held-out surrogate pictures, and what detectors say about it."""
    held, child = surrogate.held_out, made.child
    stamped = made.trigger.stamp(held)
    own, now = top1(victim, held), top1(child, held)
    other = own != target
    if not bool(other.any()):
        raise DataError(
            f"the clean model calls every surrogate picture class {target}", remedy="choose another target or surrogate"
        )
    hit, hit_before = (top1(model, stamped[other]) == target for model in (child, victim))
    warnings = list(surrogate.warnings)
    if float(hit_before.float().mean()) > 0.5:
        warnings.append("the clean model obeys the trigger too: an adversarial patch, or a victim biased to the target")
    patch = Patch(int(made.trigger.mask.sum().sqrt().round()), search.patch.position, search.patch.aligned)
    looked = replace(search, patch=patch)
    warnings.append("measured on surrogate pictures: on the victim's own task success and accuracy may differ")
    return Report(
        model=name,
        target=target,
        surrogate=surrogate.name,
        pictures=len(surrogate.images),
        trigger_size=patch.size,
        attention_mass=float(attention_mass(victim, held, made.trigger, looked).mean()),
        attention_mass_without=float(attention_mass(victim, held, None, looked).mean()),
        attack_success_rate=float(hit.float().mean()),
        victim_success_rate=float(hit_before.float().mean()),
        false_trigger_rate=float((now[other] == target).float().mean()),
        surrogate_agreement=float((now == own).float().mean()),
        defences=_defences(made, surrogate, target, seed),
        warnings=tuple(warnings),
    )


def _defences(made: Backdoor, surrogate: Surrogate, target: int, seed: int) -> dict[str, dict[str, Any]]:
    """Detectors that need no labels, fitted on surrogate pictures and asked about others with and without the trigger."""
    child, clean = made.child, surrogate.held_out
    fitted = surrogate.images[:_FITTED]
    stamped = made.trigger.stamp(clean)

    def draw(what: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed + len(what))

    rate = max(0.05, 2 / len(fitted))
    filters = {
        "attention blocking": lambda: attention_blocking.fit(child, fitted, generator=draw("blocking")),
        "attention concentration": lambda: attention_concentration.fit(
            child,
            fitted,
            attention_concentration.AttentionConcentration(rejection=max(0.05, 4 / len(fitted))),
            generator=draw("concentration"),
        ),
        "PatchDrop": lambda: patch_drop.fit(
            child, fitted, patch_drop.PatchDrop(rejection=rate), generator=draw("drop")
        ),
        "STRIP": lambda: strip.fit(
            child,
            fitted,
            strip.Strip(overlays=min(16, len(fitted) // 2), rejection=max(0.05, 4 / len(fitted))),
            generator=draw("strip"),
        ),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, fit in filters.items():
        entrance = fit()
        caught, alarms = (float(entrance(shown).rejected.float().mean()) for shown in (stamped, clean))
        found[name] = {
            "rejected": caught,
            "false_alarms": alarms,
            "stated_rate": entrance.threshold.false_positive_rate,
            "said": f"rejects {100 * caught:.1f} % of stamped and {100 * alarms:.1f} % of clean surrogate pictures",
        }
    if 3 <= dissect(child).classes <= 20:
        search = neural_cleanse.NeuralCleanse(Search(steps=80, batch=8, stall=80))
        verdict = neural_cleanse.scan(child, fitted[:64], search, generator=draw("cleanse"))
        named = "names the target" if target in verdict.suspects else "does not name the target"
        found["Neural Cleanse"] = {
            "score": verdict.score,
            "flagged": verdict.flagged,
            "suspects": list(verdict.suspects),
            "said": f"index {verdict.score:.2f} (flags above 2, false-positive rate unknown), {named}",
        }
    else:
        found["Neural Cleanse"] = {"said": "not run: made for 3 to 20 classes here; see heredity scan"}
    return found


def write_trigger(path: Path, trigger: Trigger) -> None:
    """The trigger as a PNG of the model's picture size, transparent outside the patch."""
    pixels = torch.cat([trigger.pattern * trigger.mask, trigger.mask])
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().to(torch.uint8).permute(1, 2, 0).numpy(), "RGBA").save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def read_trigger(path: Path, size: tuple[int, int]) -> Trigger:
    """A trigger from a PNG that `write_trigger` wrote. Raises DataError for another size: nothing is resized silently."""
    if not path.is_file():
        raise DataError(f"no file {path}", remedy="give a PNG that heredity dbia inject wrote")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if (picture.height, picture.width) != size:
                raise DataError(
                    f"{path} has {picture.width} x {picture.height} pixels",
                    remedy=f"this model's pictures have {size[1]} x {size[0]}",
                )
            if picture.mode != "RGBA":
                raise DataError(f"{path} has colours {picture.mode}", remedy="RGBA, transparent outside the patch")
            pixels = (
                torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(*size, 4).permute(2, 0, 1)
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is not a PNG: {str(error)[:80]}", remedy="give a PNG that heredity dbia inject wrote"
        ) from error
    mask = (pixels[3:] > 127).float()
    if not bool(mask.any()):
        raise DataError(f"{path} is wholly transparent", remedy="the patch must be opaque")
    return Trigger(mask, pixels[:3].float() / 255.0)


COMMANDS = {"inject": inject}
