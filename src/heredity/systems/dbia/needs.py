"""What a run of DBIA will take, told before it begins."""

from heredity.core.errors import HeredityError
from heredity.core.system import Needs
from heredity.data.images import check_source, load_images
from heredity.nn.classifiers import make_transformer
from heredity.systems.dbia.config import DBIA


def needs(config: DBIA) -> Needs:
    """The two sources with what is found or missing, parameters of the victims, optimiser steps, and memory."""
    sources, rows = {}, 0
    for source in dict.fromkeys((config.data, config.surrogate)):
        try:
            kind = source.partition(":")[0]
            sources[source] = "pictures of a folder" if kind == "pictures" else check_source(source).splitlines()[0]
            if source == config.data:
                rows = len(load_images(source, size=config.size).train.labels)
        except HeredityError as error:
            sources[source] = f"MISSING: {error}"
    parameters, steps = {}, {}
    for kind in config.victims:
        how = config.victim(kind)
        if how.model == "train":
            victim = make_transformer(how.shape, image=config.size, classes=10)
            parameters[f"{kind} victim"] = sum(parameter.numel() for parameter in victim.parameters())
            steps[f"{kind} victim"] = how.plan.total(rows) if rows or how.plan.steps else 0
    steps["one trigger"] = config.search.plan.total(config.search.groups)
    steps["one injection"] = config.injection.plan.total(config.surrogate_rows)
    steps["BadNets"] = config.badnets.plan.total(rows) if rows or config.badnets.plan.steps else 0
    # Two sets of tokens for all surrogate pictures (a Swin keeps every token), pictures, and a model three times over.
    largest = max(parameters.values(), default=90_000_000)
    memory = (config.surrogate_rows * (2 * 3 * config.size**2 + 2 * 50 * 1024 * 4) + 4 * 3 * largest) / 2**20 + 350
    return Needs(sources, parameters, steps, memory)
