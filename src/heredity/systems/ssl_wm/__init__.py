"""SSL-WM: a black-box ownership mark for self-supervised encoders (Lv et al., NDSS 2024, arXiv 2209.03563).

The ideas, each in a file of its own: `keys` (where patches come from), `trigger` (where they go), `embedding` (the losses),
`verification` (the test).
"""

from heredity.core.system import Ablation, System

# Stages that a change of the embedding leaves alone, and those that a change of the verification leaves alone too.
_UNMARKED = (
    "*/clean",
    "*/untrained",
    "*/clean-probe",
    "*/clean-full",
    "*/clean-half-*",
    "*/scratch",
    "detectors/clean-*",
)
_ALL_MODELS = (
    *_UNMARKED,
    "*/marked",
    "*/stolen-*",
    "*/overwritten",
    "*/extracted-labels",
    "*/extracted-features",
    "detectors/*",
)
_ALL_VERDICTS = ("*/verdict", "*/pruned-*", "*/false-positives", "*/forged-keys")
_ATTACKED = ("smoke", "attacks", "full", "paper")
_IMAGES = (*_ATTACKED, "quick")
_MARKS = (*_IMAGES, "language")
_FAMILIES = ("contrastive", "generative", "moco", "byol", "bigan", "language", "detection")


def _loss(**changes: object) -> dict[str, object]:
    return {f"{family}.embedding.loss.{name}": value for family in _FAMILIES for name, value in changes.items()}


SYSTEM = System(
    name="ssl-wm",
    title="A black-box ownership mark for self-supervised encoders",
    paper="Lv et al., SSL-WM: A Black-Box Watermarking Approach for Encoders Pre-trained by Self-Supervised Learning, "
    "NDSS 2024, arXiv 2209.03563",
    passes_on="the owner's watermark",
    data="any images: digits, photos, imagefolder:DIR, cifar10:DIR, idx:DIR, npz:FILE and the others of `heredity data`",
    presets="heredity.systems.ssl_wm.config:PRESETS",
    run="heredity.systems.ssl_wm.experiment:run",
    claims="heredity.systems.ssl_wm.claims:CLAIMS",
    commands="heredity.systems.ssl_wm.commands:COMMANDS",
    needs="heredity.systems.ssl_wm.needs:needs",
    ablations={
        "no-mark": Ablation("the stolen encoder was never marked", {"mark": False}, _UNMARKED, _MARKS),
        "no-invariance": Ablation("no loss maps marked inputs together", _loss(anchor=0.0), _UNMARKED, _MARKS),
        "no-utility": Ablation(
            "nothing ties the encoder to its clean self", _loss(utility=0.0, decoy=0.0), _UNMARKED, _MARKS
        ),
        "no-decoys": Ablation("no loss keeps foreign patches harmless", _loss(decoy=0.0), _UNMARKED),
        "wrong-key": Ablation(
            "verified with a key that was not embedded", {"verification.key": "wrong"}, _ALL_MODELS, _MARKS
        ),
        "per-image-test": Ablation(
            "images, not keys, are the unit of the test", {"verification.unit": "images"}, _ALL_MODELS, _IMAGES
        ),
        "chosen-patches": Ablation(
            "forgers choose patches freely", {"verification.forgery": "chosen"}, _ALL_MODELS, _IMAGES
        ),
        "no-commitment": Ablation(
            "a dispute is settled by the thief's encoder, not by one that the owner committed to",
            {"verification.encoder": "suspect's"},
            (*_ALL_MODELS, *_ALL_VERDICTS),
            _ATTACKED,
        ),
    },
)
