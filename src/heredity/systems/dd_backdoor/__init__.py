"""Backdoors that survive dataset distillation: NAIVEATTACK and DOORPING (Liu et al., NDSS 2023).

The idea is in `trigger`; `unrolled`, `gradient_matching` and `distribution_matching` are what it attacks.
"""

from heredity.core.system import Ablation, System

_HONEST = ("dd/none", "dc/none")
_NAIVE = (*_HONEST, "*/naive", "*/naive/victims", "*/naive_valid", "*/naive_valid/victims")

SYSTEM = System(
    name="dd-backdoor",
    title="Backdoors that survive dataset distillation",
    paper="Liu et al., Backdoor Attacks Against Dataset Distillation, NDSS 2023, arXiv 2301.01197",
    passes_on="a backdoor (NAIVEATTACK, DOORPING)",
    data="images with labels: digits, cifar10:DIR, idx:DIR, gtsrb:DIR and the others of `heredity data`",
    presets="heredity.systems.dd_backdoor.config:PRESETS",
    run="heredity.systems.dd_backdoor.experiment:run",
    claims="heredity.systems.dd_backdoor.claims:CLAIMS",
    commands="heredity.systems.dd_backdoor.commands:COMMANDS",
    needs="heredity.systems.dd_backdoor.needs:needs",
    ablations={
        "frozen-trigger": Ablation(
            "DOORPING's patch stays as it was drawn", {"free.frozen": True, "valid.frozen": True}, _NAIVE
        ),
        "no-trigger": Ablation("no image is stamped; the trigger is tried all the same", {"stamp": False}, _HONEST),
        "random-neurons": Ablation("DOORPING drives any neuron", {"free.chosen": "random"}, _NAIVE),
        "half-stamped": Ablation(
            "half of the images are stamped", {"naive.ratio": 0.5, "free.ratio": 0.5}, (*_HONEST, "*valid*")
        ),
    },
)
