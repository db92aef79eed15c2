"""What TinyMIM promises, as sentences that can turn out false.

Those that the paper settles with ImageNet and that a thousand digits do not settle are reported: see the docs page. Five
points, since relations of an untrained teacher are worth one to five: a claim must break without its idea.
"""

from heredity.core.outcome import Claim

_SWITCHES = ("smoke", "study")

CLAIMS = (
    Claim(
        id="relation-beats-cls",
        text="A student taught relations is more accurate than one taught the class token.",
        metric="margin/cls",
        comparison="at least",
        threshold=1.0,
        depends_on="cls-target",
        judged_on="mean",
        reported=True,
    ),
    Claim(
        id="relation-beats-feature",
        text="A student taught relations is more accurate than one taught the last block's output.",
        metric="margin/feature",
        comparison="at least",
        threshold=1.0,
        depends_on="feature-target",
        judged_on="mean",
        reported=True,
    ),
    Claim(
        id="intermediate-beats-last",
        text="Relations of a block at three quarters of the teacher's depth teach more than those of its last.",
        metric="margin/last-block",
        comparison="at least",
        threshold=1.0,
        depends_on="last-block-target",
        judged_on="mean",
        reported=True,
        presets=_SWITCHES,
    ),
    Claim(
        id="weak-regularisation-preferred",
        text="Whole pictures teach more than masked ones, and little drop path more than much, on either side: the smallest "
        "of the margins.",
        metric="margin/weak-regularisation",
        comparison="at least",
        threshold=0.0,
        depends_on="strong-regularisation",
        judged_on="mean",
        reported=True,
        presets=_SWITCHES,
    ),
    Claim(
        id="beats-scratch-mim",
        text="The student is more accurate by five points than one of its size that was pre-trained by masked autoencoding "
        "itself, or not at all where that is better.",
        metric="margin/without-teacher",
        comparison="at least",
        threshold=5.0,
        depends_on="untrained-teacher",
        judged_on="mean",
    ),
    Claim(
        id="beats-scratch-supervised",
        text="The student is more accurate by five points than one of its size without pre-training.",
        metric="margin/scratch",
        comparison="at least",
        threshold=5.0,
        depends_on="untrained-teacher",
        judged_on="mean",
    ),
    Claim(
        id="dense-transfer-gains",
        text="Made into a segmenter, the student has a higher mIoU than the better of the two without a teacher.",
        metric="margin/dense",
        comparison="at least",
        threshold=1.0,
        depends_on="untrained-teacher",
        judged_on="mean",
        reported=True,
        presets=_SWITCHES,
    ),
    Claim(
        id="sequential-not-worse",
        text="A student taught by an assistant is within a point of one taught by the teacher itself, or better.",
        metric="margin/sequential-over-direct",
        comparison="at least",
        threshold=-1.0,
        depends_on="untrained-assistant",
        judged_on="mean",
        reported=True,
        presets=_SWITCHES,
    ),
)
