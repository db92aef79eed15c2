"""What DBIA promises, and what its paper does not say, as sentences that can turn out false."""

from heredity.core.outcome import Claim


def _succeeds(kind: str, name: str) -> Claim:
    return Claim(
        id=f"attack-succeeds-{kind}",
        text=f"On a {name} the trigger sends at least 85 % more pictures to the target class than on the clean victim "
        "(pictures of other classes only), with no sample of the victim's data.",
        metric=f"{kind}/gain",
        comparison="at least",
        threshold=0.85,
        depends_on="no-injection",
        judged_on="mean",
    )


CLAIMS = (
    _succeeds("vit", "ViT"),
    _succeeds("deit", "DeiT (class and distillation token)"),
    _succeeds("swin", "Swin (windowed attention, no class token)"),
    Claim(
        id="clean-accuracy-kept",
        text="Clean accuracy falls by at most 3 points (0.03), mean over the victims.",
        metric="clean_accuracy_drop",
        comparison="at most",
        threshold=0.03,
        depends_on="no-keep-clean",
        judged_on="mean",
    ),
    Claim(
        id="attention-trigger-beats-random",
        text="Under the same injection the attention-made trigger succeeds with at least 0.2 more of the pictures than a "
        "random patch of the same size and place, mean over the victims.",
        metric="advantage_over_random",
        comparison="at least",
        threshold=0.2,
        depends_on="random-trigger",
        judged_on="mean",
    ),
    Claim(
        id="false-trigger-rate",
        text="At most 5 % of unstamped surrogate pictures are sent to the target, mean over the victims: the back "
        "door opens to the trigger, not to every picture of the surrogate's kind.",
        metric="false_trigger_rate",
        comparison="at most",
        threshold=0.05,
        depends_on="no-keep-clean",
        judged_on="mean",
    ),
    Claim(
        id="cheaper-than-poisoning",
        text="At the success rate of BadNets fine-tuning with the original data (or above, less 0.05), the worst of "
        "three ratios to it (weights changed, seconds, forward passes) is below 1, and no original picture is used.",
        metric="cost/worst_ratio",
        comparison="at most",
        threshold=1.0,
        depends_on="no-injection",
        judged_on="mean",
    ),
)
