"""What was made from what: the lineages of a run's models as one family, laid out from parents on the left to children."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from heredity.core.lineage import Lineage
from heredity.report.plain import printable, shorten

CARD_WIDTH, CARD_HEIGHT, BADGE_HEIGHT = 264, 70, 26
_GAP_ACROSS, _GAP_DOWN, _MARGIN = 48, 14, 8
_MANY = 24


@dataclass(frozen=True)
class Member:
    """One model: models with the same content are one member under several names. `parents` are places in the family."""

    names: tuple[str, ...]
    made_by: str
    content: str
    marks: tuple[str, ...]
    parents: tuple[int, ...]


@dataclass(frozen=True)
class Card:
    """One box of the drawing, for one model or for `count` siblings of the same kind; lengths in CSS pixels."""

    title: str
    made_by: str
    detail: str
    badge: str
    count: int
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Tree:
    """The drawing: boxes, the curves that join them (SVG path data), and the size of it all in CSS pixels."""

    cards: tuple[Card, ...]
    edges: tuple[str, ...]
    width: float
    height: float


def gather(lineages: Sequence[Lineage]) -> tuple[Member, ...]:
    """All ancestors in one list, parents before children, merged where the content is the same."""
    members: dict[Hashable, Member] = {}

    def visit(lineage: Lineage) -> Hashable:
        above = [visit(parent) for parent in lineage.parents]
        name = printable(lineage.name)
        key: Hashable = lineage.content or ("without content", name, lineage.made_by, tuple(above))
        if key in members:
            known = members[key]
            if name not in known.names:
                members[key] = Member(**{**vars(known), "names": (*known.names, name)})
            return key
        order = {known: place for place, known in enumerate(members)}
        marks = tuple(printable(mark) for mark in lineage.marks)
        parents = tuple(dict.fromkeys(order[parent] for parent in above))
        members[key] = Member((name,), printable(lineage.made_by), printable(lineage.content), marks, parents)
        return key

    for lineage in lineages:
        visit(lineage)
    return tuple(members.values())


def lay_out(family: Sequence[Member]) -> Tree:
    """Place every model; of a large family siblings that were made alike, and carry the same marks, share a box."""
    groups, parents = [[place] for place in range(len(family))], [member.parents for member in family]
    for merge_roots in (False, True):
        if len(groups) > _MANY:
            groups, parents = _collapse(family, merge_roots)
    columns: list[int] = []
    for above in parents:
        columns.append(1 + max((columns[parent] for parent in above), default=-1))
    heights = [CARD_HEIGHT + BADGE_HEIGHT * bool(family[group[0]].marks) for group in groups]
    tops = _tops(parents, columns, heights)
    cards = []
    for group, column, top, height in zip(groups, columns, tops, heights, strict=True):
        cards.append(
            _card([family[place] for place in group], _MARGIN + column * (CARD_WIDTH + _GAP_ACROSS), top, height)
        )
    edges = tuple(_edge(cards[parent], card) for card, above in zip(cards, parents, strict=True) for parent in above)
    width = max((card.x + CARD_WIDTH for card in cards), default=0) + _MARGIN
    height = max((card.y + card.height for card in cards), default=0) + _MARGIN
    return Tree(tuple(cards), edges, width, height)


def _collapse(family: Sequence[Member], merge_roots: bool) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    groups: list[list[int]] = []
    parents: list[tuple[int, ...]] = []
    known: dict[Hashable, int] = {}
    group_of: list[int] = []
    for place, member in enumerate(family):
        above = tuple(sorted({group_of[parent] for parent in member.parents}))
        alone = not above and not merge_roots
        key = (member.made_by, member.marks, above, place if alone else -1)
        if key not in known:
            known[key] = len(groups)
            groups.append([])
            parents.append(above)
        groups[known[key]].append(place)
        group_of.append(known[key])
    return groups, parents


def _tops(parents: Sequence[tuple[int, ...]], columns: Sequence[int], heights: Sequence[int]) -> list[float]:
    # A child hangs below its deepest parent; further parents only send it a line.
    hangs = [max(above, key=lambda parent: (columns[parent], parent), default=None) for above in parents]
    children: list[list[int]] = [[] for _ in parents]
    for child, parent in enumerate(hangs):
        if parent is not None:
            children[parent].append(child)
    extents: list[float] = [0.0] * len(parents)
    for place in reversed(range(len(parents))):
        below = sum(extents[child] for child in children[place]) + _GAP_DOWN * max(len(children[place]) - 1, 0)
        extents[place] = max(float(heights[place]), below)
    starts: list[float] = [0.0] * len(parents)
    at = float(_MARGIN)
    for place, parent in enumerate(hangs):
        if parent is None:
            starts[place] = at
            at += extents[place] + 2 * _GAP_DOWN
        below = sum(extents[child] for child in children[place]) + _GAP_DOWN * max(len(children[place]) - 1, 0)
        start = starts[place] + (extents[place] - below) / 2
        for child in children[place]:
            starts[child] = start
            start += extents[child] + _GAP_DOWN
    return [start + (extent - height) / 2 for start, extent, height in zip(starts, extents, heights, strict=True)]


def _card(models: Sequence[Member], x: float, y: float, height: float) -> Card:
    first = models[0]
    names = [model.names[0] for model in models]
    badge = "; ".join(first.marks)
    if len(models) > 1:
        detail = f"{len(models)} models"
    else:
        detail = first.content[:10] or "content unknown"
        detail += f" · {len(first.names)} names" if len(first.names) > 1 else ""
    return Card(
        shorten(_common(names), 31),
        shorten(first.made_by, 36),
        detail,
        shorten(badge, 31) if badge else "",
        len(models),
        x,
        y,
        height,
    )


def _common(names: Sequence[str]) -> str:
    """What a group's names share, with an ellipsis for what they do not.

    >>> _common(["simclr/a/probe", "simclr/b/probe"])
    'simclr/…/probe'
    """
    if len(set(names)) == 1:
        return names[0]
    start = _prefix(names)
    end = _prefix([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start}…{end}"


def _prefix(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def _edge(parent: Card, child: Card) -> str:
    x0, y0 = parent.x + CARD_WIDTH, parent.y + parent.height / 2
    x1, y1 = child.x, child.y + child.height / 2
    middle = (x0 + x1) / 2
    return f"M{x0:g} {y0:g}C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}"
