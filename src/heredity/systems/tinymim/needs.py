"""What a run of TinyMIM will take, told before it begins."""

import torch

from heredity.core.errors import HeredityError
from heredity.core.system import Needs
from heredity.data.images import check_source, load_images
from heredity.nn.encoders import make_encoder
from heredity.systems.tinymim.config import TinyMIM


def needs(config: TinyMIM) -> Needs:
    """Sources with what is found or missing, parameters of teacher and student, optimiser steps, and memory."""
    sources, rows = {}, 0
    for source in filter(None, dict.fromkeys((config.data, config.transfer))):
        try:
            sources[source] = check_source(source).splitlines()[0]
            rows = rows or len(load_images(source, size=config.size).train.labels)
        except HeredityError as error:
            sources[source] = f"MISSING: {error}"
    models = {"teacher": config.teacher, "student": config.student}
    if "sequential" in config.arms:
        models["assistant"] = config.assistant
    with torch.device("meta"):  # counted, not made
        made = {name: make_encoder(shape, config.size) for name, shape in models.items()}
    parameters = {name: sum(item.numel() for item in encoder.parameters()) for name, encoder in made.items()}
    views = max(1, config.distillation.views.count)
    plans = {
        "teacher": config.teaching.plan,
        "each student": config.distillation.plan,
        "each fine-tuning": config.finetuning.plan,
    }
    steps = {name: plan.total(rows) if plan.steps or rows else 0 for name, plan in plans.items()}
    tokens = (config.size // config.student.patch) ** 2 + 1
    batch = config.distillation.plan.batch
    # Weights, gradients and two moments; about 34 numbers a token, channel and block (Korthikanti et al. 2022); relations.
    memory = 16 * max(parameters.values()) + 4 * batch * tokens * config.teacher.width * config.teacher.depth * 34
    memory += 4 * 6 * batch * config.teacher.heads * tokens**2
    cached = 4 * rows * views * 3 * tokens * config.teacher.width if config.distillation.cache else 0
    return Needs(sources, parameters, steps, (memory + cached) / 2**20 + 350)
