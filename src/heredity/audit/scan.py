"""`heredity scan`: every detector that applies to a foreign model, one verdict each, and how often each is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy.stats import binom
from torch import Tensor, nn

from heredity.audit.calibration import IMAGES, SCANNERS, clean_scores, judged, shipped_threshold
from heredity.audit.models import Opened
from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import architecture_of
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of
from heredity.data.labelled import ImageSource
from heredity.defences import (
    attention_blocking,
    attention_concentration,
    beatrix,
    decree,
    mntd,
    outlier,
    patch_drop,
    strip,
)
from heredity.defences.contract import InputFilter, Threshold, calibrate
from heredity.nn.inference import outputs
from heredity.nn.resolver import build

FITTED = 512
_SURE = 0.01


@dataclass(frozen=True)
class Finding:
    """One detector's verdict as people and programs read it. `false_positive_rate` None: nobody has measured it.

    `flagged` None: the detector has no verdict, and `note` says why.
    """

    detector: str
    kind: Literal["model", "inputs", "data"]
    flagged: bool | None
    score: float | None = None
    threshold: float | None = None
    threshold_from: str = ""
    false_positive_rate: float | None = None
    suspects: tuple[int, ...] = ()
    seconds: float = 0.0
    queries: int = 0
    measures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def scan_model(
    opened: Opened,
    source: ImageSource,
    *,
    inputs: Tensor | None = None,
    calibrate_on: int = 0,
    shadows: int = 0,
    encoder: bool = False,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> list[Finding]:
    """Ask every detector that applies about a model. Detectors see the test part of `source`, which should be clean.

    `inputs` are pictures to be judged one by one by the input filters. `calibrate_on` > 0 trains that many clean models of
    the same architecture on the source's training part and takes thresholds from them; `shadows` > 0 trains that many clean
    and backdoored ones each on a few of its images and asks MNTD. Raises ModelError for a model without a classification
    head, unless it is an `encoder`, which DECREE looks at.
    """
    reporter = reporter or Reporter(quiet=True)
    images = source.test.images
    if opened.headless and not encoder:
        raise ModelError("the model has no classification head", remedy="give a classifier, or add --encoder")
    if encoder:
        return [_decree(opened.model, images, seed)]
    thresholds = _thresholds(opened.model, source, calibrate_on, seed, reporter)
    classes = outputs(opened.model, images[:2]).shape[1]
    findings = []
    for name, scanner in SCANNERS.items():
        reporter.say(f"  asking {name}: about {scanner.asks(classes):,} images")
        verdict, score = scanner.run(opened.model, images[:IMAGES], generator_of(seed, "scan", name))
        score, threshold, measured_on = judged(verdict, score, thresholds[name])
        # A paper's threshold without a measured rate is no verdict: Neural Cleanse's flags four of ten clean digit nets.
        flagged = None if threshold.false_positive_rate is None else threshold.flags(score)
        worst = max(range(len(verdict.class_scores)), key=verdict.class_scores.__getitem__)
        findings.append(
            Finding(
                name,
                "model",
                flagged=flagged,
                score=score,
                threshold=threshold.value,
                threshold_from=measured_on,
                false_positive_rate=threshold.false_positive_rate,
                suspects=(worst,) if flagged else (),
                seconds=verdict.cost.seconds,
                queries=verdict.cost.queries,
                measures={
                    **verdict.measures,
                    "published score": verdict.score,
                    "published threshold": verdict.threshold.value,
                },
                note=scanner.title,
            )
        )
    if shadows:
        findings.append(_mntd(opened.model, source, shadows, seed, reporter))
    findings += [
        _judge(name, fit, opened.model, images, inputs, seed, reporter)
        for name, fit in filters_for(opened.model).items()
    ]
    return findings


Fit = Callable[[nn.Module, Tensor, torch.Generator], InputFilter]


def filters_for(model: nn.Module) -> dict[str, Fit]:
    """The input filters that a model can be asked through; those on attention for transformers only."""
    found: dict[str, Fit] = {
        "strip": lambda model, images, draws: strip.fit(model, images, generator=draws),
        "beatrix": lambda model, images, draws: beatrix.fit(model, images, generator=draws),
        "outlier": lambda model, images, draws: outlier.fit(
            model, images, outlier.Outlier(features="before-head"), generator=draws
        ),
    }
    if any(hasattr(getattr(module, "attn", None), "qkv") for module in model.modules()):
        found |= {
            "attention-blocking": lambda model, images, draws: attention_blocking.fit(model, images, generator=draws),
            "patch-drop": lambda model, images, draws: patch_drop.fit(model, images, generator=draws),
            "attention-concentration": lambda model, images, draws: attention_concentration.fit(
                model, images, generator=draws
            ),
        }
    return found


def _thresholds(
    model: nn.Module, source: ImageSource, count: int, seed: int, reporter: Reporter
) -> Mapping[str, tuple[Threshold, str] | None]:
    if count < 0 or count == 1:
        raise ConfigError(
            f"--calibrate {count}", remedy="give two models or more; n of them state a rate of 1 / (n + 1)"
        )
    if not count:
        return {name: shipped_threshold(name) for name in SCANNERS}
    reporter.say(f"  training and scanning {count} clean models")
    scores = clean_scores(model, source, count, seed=seed, reporter=reporter)
    return {
        name: (
            calibrate(values, 1 / (count + 1), source="clean models"),
            f"{count} clean models of this architecture, trained here on {source.caption}",
        )
        for name, values in scores.items()
    }


def _mntd(model: nn.Module, source: ImageSource, shadows: int, seed: int, reporter: Reporter) -> Finding:
    if shadows < 4:
        raise ConfigError(f"--shadows {shadows}", remedy="give four or more; a third of them set the threshold")
    architecture = architecture_of(model)
    if architecture is None:
        raise ConfigError("the model's architecture is not on record", remedy="leave out --shadows")
    judging = max(1, shadows // 3)
    how = mntd.MetaAnalysis(teaching=shadows - judging, judging=judging, rate=1 / (judging + 1))
    reporter.say(f"  mntd: training {2 * shadows} shadow models")
    fitted = mntd.fit(
        lambda: build(architecture),
        source.train.images[:FITTED],
        source.train.labels[:FITTED],
        how,
        generator=generator_of(seed, "scan", "mntd"),
        tick=lambda done, total: reporter.say(f"  mntd: {done} of {total} shadow models"),
    )
    found = fitted(model)
    learnt_from = f"{min(FITTED, len(source.train.images))} images of {source.caption}"
    return Finding(
        "mntd",
        "model",
        flagged=found.flagged,
        score=found.score,
        threshold=found.threshold.value,
        threshold_from=f"{judging} clean shadow models, trained here on {learnt_from}",
        false_positive_rate=found.threshold.false_positive_rate,
        seconds=fitted.cost.seconds + found.cost.seconds,
        queries=fitted.cost.queries + found.cost.queries,
        measures=found.measures,
        note="what a classifier of models says that learnt from shadow models",
    )


def _decree(model: nn.Module, images: Tensor, seed: int) -> Finding:
    found = decree.scan(model, images[:IMAGES], generator=generator_of(seed, "scan", "decree"))
    return Finding(
        "decree",
        "model",
        flagged=None,
        score=found.score,
        threshold=found.threshold.value,
        threshold_from="the paper",
        false_positive_rate=None,
        seconds=found.cost.seconds,
        queries=found.cost.queries,
        measures=found.measures,
        note="1 - PL1; the paper flags above 0.9, but how many clean encoders of this kind stay below is not known",
    )


def _judge(
    name: str, fit: Fit, model: nn.Module, images: Tensor, inputs: Tensor | None, seed: int, reporter: Reporter
) -> Finding:
    """A filter's verdict on given inputs: flagged where it rejects more than chance would in one of a hundred clean sets."""
    if inputs is None:
        return Finding(name, "inputs", None, note="judges inputs: give some with --inputs")
    reporter.say(f"  asking {name}")
    try:
        fitted = fit(model, images[:FITTED], generator_of(seed, "scan", name))
    except DataError as error:
        return Finding(name, "inputs", None, note=str(error))
    except ModelError as error:
        if "finite" in error.problem:
            raise
        return Finding(name, "inputs", None, note=f"does not apply: {error.problem}")
    found = fitted(inputs)
    rejected, rate = int(found.rejected.sum()), float(fitted.threshold.false_positive_rate or 0.0)
    # More rejections than a set of as many clean inputs would have with a probability of 1 %.
    limit = int(binom.ppf(1 - _SURE, len(inputs), rate))
    known = f"{fitted.threshold.clean} clean images of the source"
    return Finding(
        name,
        "inputs",
        flagged=rejected > limit,
        score=rejected / len(inputs),
        threshold=limit / len(inputs),
        threshold_from=f"{known}, of which a share of {rate:.3g} is rejected at most",
        false_positive_rate=_SURE,
        seconds=fitted.cost.seconds + found.cost.seconds,
        queries=fitted.cost.queries + found.cost.queries,
        measures={"rejected": float(rejected), "inputs": float(len(inputs))},
        note="share of the inputs that are rejected",
    )


def plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON-ready data."""
    return [
        {**vars(finding), "suspects": list(finding.suspects), "measures": dict(finding.measures)}
        for finding in findings
    ]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Findings for people: one line a detector, and one about its threshold."""
    told = []
    for finding in findings:
        word = {True: "FLAGGED", False: "quiet", None: "no verdict"}[finding.flagged]
        if finding.score is None:
            told.append(f"{'not asked':<10} {finding.detector:<24} {finding.note}")
            continue
        names = f"; class {', '.join(map(str, finding.suspects))}" if finding.suspects else ""
        limit = "" if finding.threshold is None else f", flagged above {finding.threshold:.4g}"
        told.append(f"{word:<10} {finding.detector:<24} {finding.score:.4g}{limit}{names}")
        rate = finding.false_positive_rate
        stated = "not measured" if rate is None else f"{rate:.3g}"
        told.append(f"{'':<10} {'':<24} false-positive rate {stated} ({finding.threshold_from}); {finding.note}")
    return told
