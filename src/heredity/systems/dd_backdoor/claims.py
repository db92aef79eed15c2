"""What the paper promises, as sentences that can turn out false."""

from heredity.core.outcome import Claim

CLAIMS = (
    Claim(
        id="doorping-dd",
        text="DOORPING with unrolled distillation: the known network calls 95 % of stamped images the target "
        "(pixels free, as published).",
        metric="dd/free/attack_success",
        comparison="at least",
        threshold=0.95,
        depends_on="frozen-trigger",
    ),
    Claim(
        id="doorping-dc",
        text="DOORPING with gradient matching: strangers' networks call 95 % of stamped images the target, on average "
        "(pixels free, as published).",
        metric="dc/free/attack_success",
        comparison="at least",
        threshold=0.95,
        depends_on="frozen-trigger",
    ),
    Claim(
        id="naive-some",
        text="NAIVEATTACK's white patch succeeds in some cell: half of the stamped images or more.",
        metric="naive/best_attack_success",
        comparison="at least",
        threshold=0.5,
        depends_on="no-trigger",
        judged_on="mean",
        reported=True,
    ),
    Claim(
        id="doorping-beats-naive",
        text="DOORPING succeeds at least 30 points more often than NAIVEATTACK with a patch of the same size, for every "
        "distiller.",
        metric="doorping/lead_over_naive",
        comparison="at least",
        threshold=0.3,
        depends_on="frozen-trigger",
        judged_on="mean",
    ),
    Claim(
        id="utility-kept",
        text="The published attacks cost networks trained on the set at most three points of clean accuracy on average.",
        metric="utility/lost",
        comparison="at most",
        threshold=3.0,
        depends_on="half-stamped",
        judged_on="mean",
    ),
    Claim(
        id="circumvents-defences",
        text="At least half of the defences that are tried fail against DOORPING.",
        metric="defences/failed",
        comparison="at least",
        threshold=5.0,
        depends_on="no-trigger",
        judged_on="mean",
        reported=True,
    ),
    Claim(
        id="transfers-across-architectures",
        text="Networks of other architectures that learn from DOORPING's set call half of the stamped images the target.",
        metric="transfer/worst_attack_success",
        comparison="at least",
        threshold=0.5,
        depends_on="no-trigger",
        judged_on="mean",
        reported=True,
    ),
    Claim(
        id="doorping-valid-pixels",
        text="Inside the pixel range DOORPING beats NAIVEATTACK with a patch of the same size and ratio by five points "
        "(open question).",
        metric="doorping/lead_inside_range",
        comparison="at least",
        threshold=0.05,
        depends_on="frozen-trigger",
        judged_on="interval",
        reported=True,
    ),
)
