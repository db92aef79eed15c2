"""RELIANT: a student graph network that keeps its teacher's accuracy and not its bias (Dong et al., SDM 2023).

The idea is in `proxy`; `frameworks`, `cpf` and `akd` are what it wraps, `adversary` is the baseline it is compared with.
"""

from heredity.core.system import Ablation, System

# Stages that a change of the debiasing leaves alone, and those that a change of the teacher's answers leaves alone.
_PLAIN = ("teacher/*", "scratch/*", "*/plain", "*/plain/examined", "*/penalty-*", "*/fairgnn-*")
_TAUGHT = ("teacher/*", "scratch/*")

SYSTEM = System(
    name="reliant",
    title="A student graph network that keeps the teacher's accuracy and not its bias",
    paper="Dong et al., RELIANT: Fair Knowledge Distillation for Graph Neural Networks, SDM 2023, arXiv 2301.01150",
    passes_on="accuracy, without the teacher's bias",
    data="graphs with a sensitive attribute: biased-sbm, bail:DIR, credit:DIR, german:DIR, graph:DIR and the others of "
    "`heredity data`",
    presets="heredity.systems.reliant.config:PRESETS",
    run="heredity.systems.reliant.experiment:run",
    claims="heredity.systems.reliant.claims:CLAIMS",
    commands="heredity.systems.reliant.commands:COMMANDS",
    needs="heredity.systems.reliant.needs:needs",
    ablations={
        "no-teacher": Ablation(
            "students are given the teacher's answers for other nodes", {"knowledge": "shuffled"}, _TAUGHT
        ),
        "no-debiasing": Ablation("the fairness term has no weight", {"debiasing.alpha": 0.0}, _PLAIN),
        "no-distillation": Ablation(
            "RELIANT's students learn the fairness term alone",
            {"distilled": False},
            (*_TAUGHT, "*/plain", "*/plain/examined"),
        ),
        "no-scaling": Ablation(
            "alpha is not measured in the units of each framework's loss",
            {"scaled": False},
            (*_TAUGHT, "*/plain", "*/plain/examined"),
        ),
        "no-proxy": Ablation("the fairness term without proxies", {"debiasing.reading": "penalty"}, _PLAIN),
        "proxy-kept-at-inference": Ablation(
            "students are deployed with every node's own proxies", {"debiasing.deployed_on": "node"}, _PLAIN
        ),
        "no-teacher-proxy-loss": Ablation(
            "proxies only raise bias, and learn nothing of the teacher's answers", {"debiasing.absorbs": False}, _PLAIN
        ),
    },
)
