"""What a run will take, told before it begins."""

from heredity.core.errors import HeredityError
from heredity.core.system import Needs
from heredity.data.images import load_images
from heredity.systems.dd_backdoor.config import DDBackdoor
from heredity.systems.dd_backdoor.networks import make_network


def needs(config: DDBackdoor) -> Needs:
    """The source with what is found or missing, the network's parameters, steps of each distillation, and memory."""
    try:
        source = load_images(config.data, size=config.size)
        found, rows, classes = f"{source.caption}: ready", len(source.train.labels), len(source.train.classes)
    except HeredityError as error:
        found, rows, classes = f"MISSING: {error}", 50_000, 10
    network = make_network(config.network, config.size, classes, mean=0.5, std=0.5)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    plans = {"dd": config.unrolled.plan, "dc": config.matching.plan}
    steps = {f"{method}, each of 5 sets": plans[method].total(rows) for method in config.methods}
    unrolled = config.unrolled.groups * config.unrolled.epochs * parameters * 4 * 3
    memory = (rows * 3 * config.size**2 * 4 + unrolled) / 2**20 + 100
    return Needs({config.data: found}, {"network": parameters}, steps, memory)
