"""TinyMIM: a small vision transformer that inherits token relations (Ren et al., CVPR 2023, arXiv 2301.01296).

The idea is in `relations`; `targets` holds what else could be copied, `student` how far a student runs, `distil` one stage.
"""

from heredity.core.system import Ablation, System

# Stages that have nothing to do with the teacher, and those that a change of the main arm leaves alone.
_ALONE = tuple(f"*/{arm}" for arm in ("scratch", "mae"))
_SWITCHES = (
    "first-half",
    "feature-intermediate",
    "feature-ffn",
    "feature-attention",
    "feature-attention-after",
    "feature-qkv",
    "cls-kl",
    "no-softmax",
    "qq-kk-vv",
    "relation-heads",
    "mean-heads",
    "masked",
    "reconstruction",
    "drop-path-0.1",
    "drop-path-0.3",
    "teacher-drop-path",
)
_OTHERS = (
    "teacher",
    *_ALONE,
    *(f"*/{arm}" for arm in ("cls", "feature", "last-block", "assistant", "sequential", *_SWITCHES)),
)


def _instead(arm: str, text: str, *presets: str) -> Ablation:
    return Ablation(text, {"main": arm}, _OTHERS, presets)


SYSTEM = System(
    name="tinymim",
    title="A small vision transformer that inherits a large one's token relations",
    paper="Ren et al., TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models, CVPR 2023, arXiv 2301.01296",
    passes_on="token relations",
    data="any images: digits, photos, imagefolder:DIR, cifar10:DIR and the others of `heredity data`; distillation needs no "
    "labels",
    presets="heredity.systems.tinymim.config:PRESETS",
    run="heredity.systems.tinymim.experiment:run",
    claims="heredity.systems.tinymim.claims:CLAIMS",
    commands="heredity.systems.tinymim.commands:COMMANDS",
    needs="heredity.systems.tinymim.needs:needs",
    ablations={
        "untrained-teacher": Ablation("the teacher has random weights", {"teacher_weights": "random"}, _ALONE),
        "untrained-assistant": Ablation(
            "the assistant of the sequence has random weights",
            {"assistant_taught": False},
            (
                "teacher",
                "*/relations",
                *(place for place in _OTHERS if "sequential" not in place and "assist" not in place),
            ),
            ("smoke", "study"),
        ),
        "cls-target": _instead("cls", "the student is taught the class token instead"),
        "feature-target": _instead("feature", "the student is taught the last block's output instead"),
        "last-block-target": _instead(
            "last-block", "the student is taught the last block's relations", "smoke", "study"
        ),
        "strong-regularisation": _instead(
            "strong-regularisation", "a quarter of the patches and drop path 0.3", "smoke", "study"
        ),
        **{arm: _instead(arm, f"the study's switch {arm} in the main arm", "study") for arm in _SWITCHES},
    },
)
