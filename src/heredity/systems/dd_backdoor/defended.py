"""Every defence that applies, against a network that learnt from DOORPING's distilled set, and against the set itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from heredity.core.randomness import generator_of
from heredity.data.labelled import LabelledImages
from heredity.defences import (
    activation_clustering,
    anp,
    beatrix,
    fine_pruning,
    nad,
    neural_cleanse,
    neuron_stimulation,
    outlier,
    spectral_signatures,
    strip,
)
from heredity.defences.activation_clustering import ActivationClustering
from heredity.defences.contract import DataVerdict, InputFilter, Repair
from heredity.defences.spectral_signatures import SpectralSignatures
from heredity.metrics.detection import auroc
from heredity.systems.dd_backdoor.distilled import DistilledSet
from heredity.systems.dd_backdoor.trigger import Attack, paste
from heredity.systems.dd_backdoor.victims import success

Row = dict[str, Any]
CAUGHT, REPAIRED, TOLD_APART = 0.5, 0.2, 0.9


def defended(
    backdoored: nn.Module,
    honest: nn.Module,
    made: DistilledSet,
    patch: Tensor,
    attack: Attack,
    test: LabelledImages,
    *,
    seed: int,
) -> dict[str, Row]:
    """A row for each defence: its number on the backdoored side, on the honest one, its threshold, and whether it works.

    A scan works where it flags the backdoored network for the target and not the honest one. A filter works where it turns
    away half of the stamped inputs at a false-rejection rate of 1 %; inputs are clipped to the pixel range, as any picture
    is. A filter of training data works where it tells the target's images from the others with an AUROC of 0.9. A repair
    works where the trigger, out of range as it is, succeeds on at most a fifth of the images afterwards, for at most ten
    points of accuracy. Test images are halved: defenders see the first half.
    """
    half = len(test.labels) // 2
    images, labels = test.images[:half], test.labels[:half]
    later, truth = test.images[half:].float() / 255.0, test.labels[half:]
    stamped = paste(later[truth != attack.target], patch, attack.margin).clamp(0.0, 1.0)

    def fresh(name: str) -> torch.Generator:
        return generator_of(seed, "defended", name)

    def scan(name: str, of: Callable[..., Any]) -> Row:
        found = [of(model, images, generator=fresh(name)) for model in (backdoored, honest)]
        caught = found[0].flagged and attack.target in found[0].suspects and not found[1].flagged
        return _row(found[0].score, found[1].score, found[0].threshold.value, caught)

    def entrance(name: str, of: Callable[..., InputFilter]) -> Row:
        shares = [
            float(of(model, images, generator=fresh(name))(stamped).rejected.float().mean())
            for model in (backdoored, honest)
        ]
        return _row(shares[0], shares[1], CAUGHT, shares[0] >= CAUGHT)

    def sieve(verdict: DataVerdict) -> Row:
        guilty = made.labels == attack.target
        told = auroc(verdict.scores[guilty].tolist(), verdict.scores[~guilty].tolist())
        return _row(told, None, TOLD_APART, told >= TOLD_APART)

    def mended(repair: Repair) -> Row:
        def asked(model: nn.Module) -> Any:
            return success(model, later, truth, patch, target=attack.target, margin=attack.margin)

        before, after = asked(backdoored), asked(repair.model)
        cheap = before.clean_accuracy - after.clean_accuracy <= 0.1
        works = after.attack_success_rate <= REPAIRED and cheap
        return _row(after.attack_success_rate, asked(honest).attack_success_rate, REPAIRED, works)

    samples = (made.images / 255.0).clamp(0.0, 1.0)
    clusters = activation_clustering.scan(
        backdoored, samples, made.labels, ActivationClustering(allow_tiny=True), generator=fresh("clusters")
    )
    signatures = spectral_signatures.scan(backdoored, samples, made.labels, SpectralSignatures(allow_tiny=True))
    return {
        "neural cleanse (index)": scan("neural cleanse", neural_cleanse.scan),
        "neuron stimulation (ABS)": scan("stimulation", neuron_stimulation.scan),
        "STRIP (stamped inputs rejected)": entrance("strip", strip.fit),
        "outlier (stamped inputs rejected)": entrance("outlier", outlier.fit),
        "Beatrix (stamped inputs rejected)": entrance("beatrix", beatrix.fit),
        "activation clustering (AUROC on the set)": sieve(clusters),
        "spectral signatures (AUROC on the set)": sieve(signatures),
        "fine-pruning (success left)": mended(
            fine_pruning.repair(backdoored, images, labels, generator=fresh("fine-pruning"))
        ),
        "ANP (success left)": mended(anp.repair(backdoored, images, labels, generator=fresh("anp"))),
        "NAD (success left)": mended(nad.repair(backdoored, images, labels, generator=fresh("nad"))),
    }


def _row(backdoored: float, honest: float | None, threshold: float, works: bool) -> Row:
    return {"backdoored": backdoored, "honest": honest, "threshold": threshold, "works": bool(works)}
