"""A downstream task: labelled images or sentences, split into training, validation and held-out parts."""

from dataclasses import dataclass

from jaxtyping import Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """Labelled uint8 images, or sentences as rows of token numbers.

    The thief trains on `train`, stops by `validation`; `test` is only ever measured on.
    """

    name: str
    classes: int
    train: tuple[UInt8[Tensor, "n c h w"] | Int[Tensor, "n length"], Int[Tensor, "n"]]
    validation: tuple[UInt8[Tensor, "v c h w"] | Int[Tensor, "v length"], Int[Tensor, "v"]]
    test: tuple[UInt8[Tensor, "t c h w"] | Int[Tensor, "t length"], Int[Tensor, "t"]]
