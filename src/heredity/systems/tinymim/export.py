"""Encoders and classifiers as ONNX, checked against onnxruntime before anybody relies on them."""

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import nn

from heredity.core.errors import ConfigError, ModelError
from heredity.core.files import ensure_writable, write_bytes


def export_onnx(model: nn.Module, out: Path, *, size: int, tolerance: float = 1e-3) -> float:
    """Write a model (uint8 images, batch x 3 x size x size -> features or scores) as ONNX with a free batch size.

    Returns the largest difference between onnxruntime's answers and torch's, relative to the largest answer. Raises
    ConfigError where onnx or onnxruntime is not installed, ModelError when the answers differ by more than `tolerance`.
    """
    ensure_writable(out)
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it and would say so with a traceback)
    except ModuleNotFoundError as error:
        raise ConfigError(f"exporting needs {error.name}", remedy="pip install 'heredity[export]'") from None
    model = model.eval().cpu()
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["answers"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            verbose=False,
        )
    assert program is not None
    content = program.model_proto.SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = 0.0
    for rows in (1, 2):
        with torch.no_grad():
            wanted = model(images[:rows])
        (found,) = session.run(None, {"images": images[:rows].numpy()})
        gap = (torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
        difference = max(difference, float(gap))
    if not difference <= tolerance:
        raise ModelError(
            f"onnxruntime's answers differ from torch's by {difference:.2g} of the largest", remedy="report this model"
        )
    write_bytes(out, content)
    return difference
