"""Bail (Recidivism), Credit and German as published: `<name>.csv` and `<name>_edges.txt`.

Source: Agarwal, Lakkaraju, Zitnik, UAI 2021 (NIFTY), and the splits of Dong et al., SDM 2023 (RELIANT).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from heredity.data.graphs.raw import Options, RawGraph, kept_columns
from heredity.data.graphs.roles import classes_of, groups_of
from heredity.data.graphs.splits import published_split
from heredity.data.graphs.tables import numeric, read_pairs, read_table


@dataclass(frozen=True)
class Published:
    """What the published loaders know about a table."""

    label: str
    sensitive: str
    threshold: float
    train: float
    validation: float
    cap: int = 0
    sensitive_positive: str | None = None
    left_out: tuple[str, ...] = ()
    """Columns that the published loader leaves out."""
    leaking: tuple[str, ...] = ()
    """Columns that we leave out unless `official`, since they tell the label."""
    spread: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    """Feature columns of two strings, coded as the sensitive attribute is."""


TABLES = {
    "bail": Published("RECID", "WHITE", 0.6, 0.3, 0.2, leaking=("TIME", "FILE")),
    "credit": Published("NoDefaultNextMonth", "Age", 0.7, 0.5, 0.25, cap=500, left_out=("Single",)),
    "german": Published(
        "GoodCustomer",
        "Gender",
        0.8,
        0.5,
        0.25,
        cap=500,
        sensitive_positive="Female",
        left_out=("OtherLoansAtStore", "PurposeOfLoan"),
        spread=("LoanAmount", "Age", "LoanDuration"),
        strings=("Gender",),
    ),
}


def read_nifty(kind: str, directory: Path, options: Options) -> RawGraph:
    """One of the three tables. Bail comes without TIME and FILE unless `official`: TIME > 0 is the label for 99.4 %."""
    known = TABLES[kind]
    table = read_table(directory / f"{kind}.csv")
    label, sensitive = options.label or known.label, options.sensitive or known.sensitive
    where = f"{table.path}, column"
    positive = options.sensitive_positive or (known.sensitive_positive if sensitive == known.sensitive else None)
    groups, group_notes = groups_of(
        table.column(sensitive, "sensitive"),
        where=f"{where} {sensitive!r}",
        lines=table.lines,
        positive=positive,
        above=options.sensitive_above,
    )
    classes, class_notes = classes_of(
        table.column(label, "label"), where=f"{where} {label!r}", positive=options.label_positive
    )
    leaking = [] if options.official else [name for name in known.leaking if name in table.columns]
    absent = {*known.left_out, label}
    names = [name for name in table.columns if name not in absent]
    kept = kept_columns(names, (*leaking, *options.drop), str(table.path))
    coded = {
        name: ["1" if cell == known.sensitive_positive else "0" for cell in table.column(name, "feature")]
        for name in known.strings
    }
    features = numeric(replace(table, columns=table.columns | coded), kept)
    notes = [f"{sensitive}: {note}" for note in group_notes] + [f"{label}: {note}" for note in class_notes]
    dropped = [*leaking, *options.drop]
    if dropped:
        notes.append(f"columns left out: {', '.join(dropped)}")
        if options.edges == "published":
            notes.append(
                "the published edges join rows alike in all columns, those left out too: edges=similarity does not"
            )
    if options.edges == "published" or (sensitive in kept and sensitive not in options.edges_without):
        notes.append(
            "the edges join rows with similar features, the sensitive attribute among them: bias by construction"
        )
    return RawGraph(
        name=kind,
        features=features,
        feature_names=tuple(kept),
        labels=classes,
        sensitive=groups,
        pairs=read_pairs(directory / f"{kind}_edges.txt", table.rows),
        label_name=label,
        sensitive_name=sensitive,
        notes=notes,
        split=published_split(directory, classes, options.split),
        train=known.train,
        validation=known.validation,
        cap=known.cap,
        threshold=known.threshold,
        spread=known.spread,
    )
