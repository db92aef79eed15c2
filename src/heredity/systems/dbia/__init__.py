"""DBIA: a back door in a vision transformer without any of its data (Lv et al. 2021, arXiv 2111.11870), and who notices it.

The ideas, each in a file of its own: `trigger` (a patch that catches attention), `surrogate` (pictures of another domain),
`injection` (a few rows of the last MLP). The defences of `heredity.defences` are run beside it, never left out.
"""

from heredity.core.system import Ablation, System

SYSTEM = System(
    name="dbia",
    title="A back door injected into a vision transformer without its data",
    paper="Lv et al., DBIA: Data-free Backdoor Injection Attack against Transformer Networks, 2021, arXiv 2111.11870",
    passes_on="a backdoor injected without the original data",
    data="any images: digits, imagefolder:DIR, cifar10:DIR and the others of `heredity data`; surrogate "
    "pictures: photos, any of them, or pictures:DIR",
    presets="heredity.systems.dbia.config:PRESETS",
    run="heredity.systems.dbia.experiment:run",
    claims="heredity.systems.dbia.claims:CLAIMS",
    commands="heredity.systems.dbia.commands:COMMANDS",
    needs="heredity.systems.dbia.needs:needs",
    # Stages carry trigger, recipe and victim in their names, so that an ablation computes only those it makes anew.
    ablations={
        "random-trigger": Ablation("the trigger is a random patch", {"search.kind": "random"}, ("*",)),
        "no-injection": Ablation("nothing is planted: the clean victim is measured", {"injected": False}, ("*",)),
        "no-keep-clean": Ablation(
            "nothing ties the child to the victim's answers on unstamped surrogate pictures",
            {"injection.keep_clean": 0.0},
            ("*",),
        ),
    },
)
