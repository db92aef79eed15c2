"""Grids of small PNGs from a figure file, let through only when they really are PNGs."""

import base64
import binascii
import io
from typing import Any

from markupsafe import Markup
from PIL import Image

from heredity.core.errors import DataError

_MAX_PIXELS = 4_000_000
_MAX_PICTURES = 400
_GRID = Markup('<div class="pictures" role="group" aria-label="{alt}">{rows}</div>')
_ROW = Markup(
    '<div class="picture-row"><span class="picture-caption">{caption}</span>'
    '<span class="picture-strip" role="img" aria-label="{count}: {caption}">{pictures}</span></div>'
)
_PICTURE = Markup('<img src="data:image/png;base64,{content}" width="{width}" height="{height}" alt="">')
_SHOWN = 64


def picture_grid(grid: Any, captions: list[str], alt: str) -> Markup:
    """Rows of base64 PNGs as HTML, each with its caption. Raises DataError for a picture that is no sound PNG."""
    rectangular = isinstance(grid, list) and all(isinstance(row, list) for row in grid)
    if not rectangular or len(grid) != len(captions):
        raise DataError("a grid must be a list of rows with a caption each", remedy="repeat the run with --resume")
    if sum(len(row) for row in grid) > _MAX_PICTURES:
        raise DataError("the grid has too many pictures to show", remedy=f"at most {_MAX_PICTURES}")
    rows = []
    for row, caption in zip(grid, captions, strict=True):
        pictures = Markup("").join(_PICTURE.format(**_checked(picture)) for picture in row)
        count = "1 picture" if len(row) == 1 else f"{len(row)} pictures"
        rows.append(_ROW.format(caption=caption, count=count, pictures=pictures))
    return _GRID.format(alt=alt, rows=Markup("").join(rows))


def _checked(picture: Any) -> dict[str, Any]:
    problem = DataError("a picture is not a base64 PNG", remedy="repeat the run with --resume")
    if not isinstance(picture, str):
        raise problem
    try:
        content = base64.b64decode(picture, validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise DataError(f"a picture has {width} × {height} pixels", remedy=f"at most {_MAX_PIXELS}")
            image.load()
    except (binascii.Error, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise problem from error
    # Small pictures are enlarged by a whole factor, so that every pixel keeps its square.
    factor = max(1, _SHOWN // max(width, height, 1))
    return {
        "content": base64.b64encode(content).decode("ascii"),
        "width": width * factor,
        "height": height * factor,
    }
