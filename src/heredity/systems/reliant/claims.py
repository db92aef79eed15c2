"""What RELIANT promises, as sentences that can turn out false."""

from heredity.core.outcome import Claim

CLAIMS = (
    Claim(
        id="bias-inherited",
        text="In every cell a plain student is at least as biased as its teacher, within the interval over test nodes "
        "(simultaneous over the cells): the upper end of the difference of their gaps, in the worst cell.",
        metric="bias/inherited_at_most_worst_cell",
        comparison="at least",
        threshold=0.0,
        depends_on="no-teacher",
        judged_on="mean",
    ),
    Claim(
        id="bias-reduced",
        text="RELIANT's students keep at most 65 % of the plain students' gap.",
        metric="bias/kept_share",
        comparison="at most",
        threshold=0.65,
        depends_on="no-debiasing",
    ),
    Claim(
        id="utility-kept",
        text="RELIANT costs at most one point of accuracy on average over the cells.",
        metric="utility/lost",
        comparison="at most",
        threshold=1.0,
        depends_on="no-distillation",
        judged_on="mean",
    ),
    Claim(
        id="framework-agnostic",
        text="In every single cell of teacher, student and framework the gap falls by a tenth or more, and at most two "
        "points of accuracy are lost, within the interval over test nodes.",
        metric="cells/both_hold",
        comparison="at least",
        threshold=100.0,
        depends_on="no-scaling",
    ),
    Claim(
        id="proxy-matters",
        text="RELIANT's front lies below that of the fairness term without proxies, at equal budget (open question).",
        metric="proxy/advantage",
        comparison="at least",
        threshold=0.005,
        depends_on="no-proxy",
        judged_on="interval",
        reported=True,
    ),
)
