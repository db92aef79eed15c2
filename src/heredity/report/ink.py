"""From matplotlib's SVG to one that lives inside a page: page colours, page fonts, ids of its own, nothing else."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# matplotlib draws with these stand-ins; the page's style sheet decides what they look like in light, dark and print.
INK, MUTED, RULE, PAPER, ACCENT, WARM = "#010101", "#010102", "#010103", "#010104", "#010105", "#010106"
SERIES = tuple(f"#0101{16 + index:02x}" for index in range(8))
_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted, #667479)",
    RULE: "var(--rule, #b9c2c5)",
    PAPER: "var(--card, #ffffff)",
    ACCENT: "var(--accent, #0b6b80)",
    WARM: "var(--warm, #c4500a)",
} | {colour: f"var(--series-{index + 1}, #667479)" for index, colour in enumerate(SERIES)}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "heredity",
    "font.family": ["DejaVu Sans"],
    "font.size": 12.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "figure.dpi": 72.0,
    "grid.color": RULE,
    "grid.linewidth": 0.75,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.major.pad": 7.0,
    "ytick.major.pad": 7.0,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib as this report needs it, whatever the user's settings; they come back afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Glyphs that the measuring font lacks are drawn by the browser's; a layout that is too tight is only tight.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def to_svg(figure: Figure, *, prefix: str, label: str) -> str:
    """The figure as an `<svg role="img">` for the inside of an HTML page, one unit a CSS pixel.

    Every id begins with `prefix`, so that figures of one page do not clash; `label` is read out by screen readers.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", buffer.getvalue(), count=1))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    # matplotlib's own style element would apply to the whole page, and its metadata names a web address.
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    _own_ids(root, prefix)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if "style" in element.attrib:
            element.attrib["style"] = _page_style(element.attrib["style"])
    root.attrib.clear()
    root.attrib |= {
        "role": "img",
        "aria-label": label,
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
        "stroke-linejoin": "round",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _own_ids(root: ElementTree.Element, prefix: str) -> None:
    used = set(re.findall(r"url\(#([^)]*)\)", " ".join(" ".join(item.attrib.values()) for item in root.iter())))
    used |= {item.attrib[f"{{{_LINK}}}href"][1:] for item in root.iter() if f"{{{_LINK}}}href" in item.attrib}
    for element in root.iter():
        if "id" in element.attrib:
            name = element.attrib.pop("id")
            if name in used:
                element.attrib["id"] = prefix + name
        for key, value in list(element.attrib.items()):
            if key == f"{{{_LINK}}}href":
                # Plain href is understood by every browser since 2018 and needs no name space.
                del element.attrib[key]
                element.attrib["href"] = f"#{prefix}{value[1:]}"
            else:
                element.attrib[key] = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}\1)", value)


def _page_style(style: str) -> str:
    parts = []
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            parts.append(f"font-size: {size.group() if size else '12px'}")
            if re.search(r"\b(bold|[6-9]00)\b", value):
                parts.append("font-weight: 600")
        elif name:
            parts.append(f"{name}: {_PAGE_COLOURS.get(value, value)}")
    return "; ".join(parts)
