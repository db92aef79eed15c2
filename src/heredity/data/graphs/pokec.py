"""Pokec and NBA in FairGNN's layout: `region_job.csv` with `user_id`, and friendships as pairs of raw user numbers.

Source: Dai and Wang, "Say No to the Discrimination", WSDM 2021 (FairGNN).
"""

from pathlib import Path

import numpy as np

from heredity.core.errors import DataError
from heredity.data.graphs.raw import Options, RawGraph, kept_columns
from heredity.data.graphs.roles import classes_of, groups_of
from heredity.data.graphs.splits import published_split
from heredity.data.graphs.tables import numeric, read_pairs, read_table, whole

# File name to label and sensitive column.
_FILES = {
    "region_job": ("I_am_working_in_field", "region"),
    "region_job_2": ("I_am_working_in_field", "region"),
    "nba": ("SALARY", "country"),
}


def read_pokec(directory: Path, options: Options) -> RawGraph:
    """The one table of the folder. Label -1 is unlabelled, labels above 1 count as 1, the sensitive column is no feature."""
    there = [name for name in _FILES if (directory / f"{name}.csv").is_file()]
    if len(there) != 1:
        raise DataError(
            f"{directory} holds {len(there)} of {', '.join(f'{name}.csv' for name in _FILES)}",
            remedy="give a folder with one of them and its _relationship.txt",
        )
    name = there[0]
    table = read_table(directory / f"{name}.csv")
    label, sensitive = options.label or _FILES[name][0], options.sensitive or _FILES[name][1]
    users = whole(np.array(numeric(table, ["user_id"])), table.path, "user_id").reshape(-1)
    if len(np.unique(users)) < len(users):
        values, counts = np.unique(users, return_counts=True)
        raise DataError(f"{table.path}: user_id {values[counts > 1][0]} is listed twice", remedy="one row a user")
    classes, class_notes = classes_of(
        table.column(label, "label"),
        where=f"{table.path}, column {label!r}",
        positive=options.label_positive,
        capped=options.label is None,
    )
    groups, group_notes = groups_of(
        table.column(sensitive, "sensitive"),
        where=f"{table.path}, column {sensitive!r}",
        lines=table.lines,
        positive=options.sensitive_positive,
        above=options.sensitive_above,
    )
    absent = {"user_id", label, sensitive}
    kept = kept_columns([column for column in table.columns if column not in absent], options.drop, str(table.path))
    return RawGraph(
        name=name,
        features=numeric(table, kept),
        feature_names=tuple(kept),
        labels=classes,
        sensitive=groups,
        pairs=read_pairs(directory / f"{name}_relationship.txt", table.rows, names=users),
        label_name=label,
        sensitive_name=sensitive,
        notes=[f"{sensitive}: {note}" for note in group_notes] + [f"{label}: {note}" for note in class_notes],
        split=published_split(directory, classes, options.split),
    )
