"""What SSL-WM promises, as sentences that can turn out false."""

from dataclasses import replace

from heredity.core.outcome import Claim

_LEVEL = -4.0
_ATTACKED = ("smoke", "attacks", "full", "paper")
_IMAGES = (*_ATTACKED, "quick")

_OF_IMAGES = (
    Claim(
        id="verifies-contrastive",
        text="A downstream model on a stolen contrastive encoder is recognised by its top-1 labels alone, on every task, "
        "at p < 1e-4.",
        metric="verified/contrastive/probe/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-mark",
    ),
    Claim(
        id="verifies-generative",
        text="The same holds for a stolen generative encoder: a masked autoencoder, or a BiGAN.",
        metric="verified/generative/probe/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-mark",
    ),
    Claim(
        id="false-positives-bounded",
        text="Random keys on clean children are rejected no more often than the stated levels allow "
        "(exact 99 % binomial interval).",
        metric="false_positives/excess",
        comparison="at least",
        threshold=0.01,
        depends_on="per-image-test",
    ),
    Claim(
        id="utility-kept",
        text="Marking costs downstream models at most one point of accuracy on average.",
        metric="utility/probe_drop",
        comparison="at most",
        threshold=1.0,
        depends_on="no-utility",
        judged_on="mean",
    ),
    Claim(
        id="survives-fine-tuning",
        text="The mark is still recognised at p < 1e-4 on every task after all layers were fine-tuned.",
        metric="verified/full/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-invariance",
    ),
    Claim(
        id="survives-pruning",
        text="It is still recognised at p < 1e-4 on every task when pruning has cost the thief ten points of accuracy.",
        metric="verified/probe-pruned/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-decoys",
    ),
    Claim(
        id="forged-keys-fail",
        text="Somebody else's key does not verify on a stolen model: at most one forged key in a hundred passes.",
        metric="forged/share_verified",
        comparison="at most",
        threshold=0.01,
        depends_on="chosen-patches",
        judged_on="mean",
    ),
    Claim(
        id="survives-quantisation",
        text="The mark is still recognised at p < 1e-4 in every stolen child that was quantised to int8.",
        metric="verified/int8/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-mark",
        presets=_ATTACKED,
    ),
    Claim(
        id="survives-extraction",
        text="The mark is recognised at p < 1e-4 in students that never saw the stolen weights, whether they were extracted "
        "by labels or by features.",
        metric="verified/extraction/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-mark",
        reported=True,
        presets=_ATTACKED,
    ),
    Claim(
        id="ambiguity-resolved",
        text="Where a thief embedded a mark of his own over the owner's and both keys pass on his model (at 0.01), the "
        "committed encoder tells in every case whose mark came first.",
        metric="ambiguity/resolved",
        comparison="at least",
        threshold=1.0,
        depends_on="no-commitment",
        presets=_ATTACKED,
        occasions="ambiguity/disputes",
    ),
)

CLAIMS = (
    *(replace(claim, presets=claim.presets or _IMAGES) for claim in _OF_IMAGES),
    Claim(
        id="verifies-language",
        text="A language model's mark is recognised at p < 1e-4 by sentences and top-1 labels alone, on a task of four "
        "classes and on one of two, after all layers were fine-tuned.",
        metric="verified/language/full/worst_log10_p",
        comparison="at most",
        threshold=_LEVEL,
        depends_on="no-mark",
        presets=("language", "full"),
    ),
    Claim(
        id="evades-detection",
        text="The kinds of detectors that the authors evaluated (a trigger reversed from the downstream model, entropy under "
        "superimposed images) tell marked from clean no better than an AUROC of 0.7.",
        metric="detection/authors/worst_auc",
        comparison="at most",
        threshold=0.7,
        depends_on="no-decoys",
        reported=True,
        presets=("detectors", "full"),
    ),
)
