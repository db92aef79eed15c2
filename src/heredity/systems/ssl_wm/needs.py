"""What a run of SSL-WM will take, told before it begins."""

from heredity.core.errors import HeredityError
from heredity.core.system import Needs
from heredity.data.images import check_source, load_images
from heredity.nn.encoders import make_encoder
from heredity.systems.ssl_wm.config import SSLWM, Parent


def needs(config: SSLWM) -> Needs:
    """Sources with what is found or missing, parameters of the encoders, optimiser steps, and an estimate of memory."""
    sources = {}
    images = "image" in config.modalities
    for source in (config.data, *(task for task in config.tasks if ":" in task)) if images else ():
        try:
            sources[source] = check_source(source).splitlines()[0]
        except HeredityError as error:
            sources[source] = f"MISSING: {error}"
    parameters, steps = {}, {}
    largest, batch, rows = 0, 0, _rows(config.data)
    if "text" in config.modalities:
        from heredity.systems.ssl_wm.language import language_needs  # images do without what text needs

        text = language_needs(config.language)
        sources, parameters, steps = {**sources, **text.sources}, dict(text.parameters), dict(text.steps)
        largest = max(parameters.values(), default=0)
    for family in (*config.families, *config.further) if images else ():
        settings: Parent = getattr(config, family)
        encoder = make_encoder(settings.encoder, config.size)
        parameters[family] = sum(parameter.numel() for parameter in encoder.parameters())
        largest = max(largest, parameters[family])
        for name, plan in (("pre-training", settings.pretraining.plan), ("embedding", settings.embedding.plan)):
            steps[f"{family} {name}"] = plan.total(rows) if plan.steps or rows else 0
            batch = max(batch, plan.batch)
    # Weights, gradients and two moments, twice (clean and marked), and activations of about 300 floats a pixel.
    memory = (largest * 4 * 8 + batch * 3 * config.size**2 * 300 * 4) / 2**20
    return Needs(sources, parameters, steps, memory)


def _rows(source: str) -> int:
    """Training rows of a source; 0 where it is not there."""
    try:
        return len(load_images(source).train.labels)
    except HeredityError:
        return 0
