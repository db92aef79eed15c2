"""What a run found out, as metrics and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heredity.core.outcome import Metric, Outcome, Table, bootstrap_interval
from heredity.systems.dd_backdoor.config import DDBackdoor


@dataclass(frozen=True)
class Cell:
    """One attack on one way of distilling: shares (0..1) over networks, and the patch's lowest and highest pixel.

    `honest` are networks that learnt from the clean distilled set, asked with the same trigger. For unrolled distillation
    the known initial network is apart from the strangers; for gradient matching all are strangers to it.
    """

    clean: tuple[float, ...]
    attacked: tuple[float, ...]
    honest_clean: tuple[float, ...]
    honest_attacked: tuple[float, ...]
    strangers_clean: tuple[float, ...]
    strangers_attacked: tuple[float, ...]
    pixels: tuple[float, float]

    @property
    def lost(self) -> float:
        """Clean accuracy that the attack costs, in points."""
        return 100.0 * (_mean(self.honest_clean) - _mean(self.clean))


def measured(
    cells: Mapping[str, Cell],
    transfers: Mapping[str, Sequence[float]],
    defences: Mapping[str, Mapping[str, float]],
    config: DDBackdoor,
) -> Outcome:
    """Metrics that the claims name, the table in the paper's form, and the defences beside it."""
    metrics: dict[str, Metric] = {}
    for name, cell in cells.items():
        metrics[f"{name}/attack_success"] = _shares(cell.attacked, higher=False)
        metrics[f"{name}/attack_success_control"] = _shares(cell.honest_attacked, higher=False)
        metrics[f"{name}/clean_accuracy"] = _shares(cell.clean, higher=True)
        if cell.strangers_attacked:
            metrics[f"{name}/attack_success_strangers"] = _shares(cell.strangers_attacked, higher=False)
    published = [name for name in cells if name.endswith(("/naive", "/free"))]
    naive = [_mean(cells[f"{method}/naive"].attacked) for method in config.methods]
    free = [_mean(cells[f"{method}/free"].attacked) for method in config.methods]
    valid = [
        _mean(cells[f"{method}/valid"].attacked) - _mean(cells[f"{method}/naive_valid"].attacked)
        for method in config.methods
    ]
    metrics["naive/best_attack_success"] = Metric(max(naive))
    metrics["doorping/lead_over_naive"] = Metric(min(own - other for own, other in zip(free, naive, strict=True)))
    metrics["doorping/lead_inside_range"] = Metric(min(valid))
    metrics["utility/lost"] = Metric(_mean([cells[name].lost for name in published]), "points", False)
    for kind, found in transfers.items():
        metrics[f"transfer/{kind}/attack_success"] = _shares(found)
    if transfers:
        metrics["transfer/worst_attack_success"] = Metric(min(map(_mean, transfers.values())))
    if defences:
        # Where the attack does not succeed there is nothing that a defence could fail on.
        succeeds = _mean(cells["dc/free"].attacked) >= 0.5
        failed = sum(1.0 for row in defences.values() if not row["works"]) if succeeds else 0.0
        metrics["defences/failed"] = Metric(failed, "of them")
        metrics["defences/tried"] = Metric(float(len(defences)))
    tables = [_table(cells)]
    if defences:
        tables.append(_defended(defences))
    return Outcome(metrics, tuple(tables))


def _table(cells: Mapping[str, Cell]) -> Table:
    rows = [
        (
            name,
            100.0 * _mean(cell.honest_clean),
            100.0 * _mean(cell.clean),
            100.0 * _mean(cell.attacked),
            100.0 * _mean(cell.honest_attacked),
            100.0 * _mean(cell.strangers_clean),
            100.0 * _mean(cell.strangers_attacked),
            cell.pixels[0],
            cell.pixels[1],
        )
        for name, cell in cells.items()
    ]
    columns = (
        "distiller/attack",
        "accuracy, honest set %",
        "accuracy %",
        "attack success %",
        "the same trigger, honest set %",
        "accuracy, strangers %",
        "attack success, strangers %",
        "lowest pixel",
        "highest pixel",
    )
    note = "Pixels: 0 is black, 1 is white. Unrolled distillation (dd) is made for one initial network; strangers are others."
    return Table("Distilled sets, honest and attacked", columns, tuple(rows), note)


def _defended(defences: Mapping[str, Mapping[str, float]]) -> Table:
    rows = tuple(
        (name, row.get("backdoored"), row.get("honest"), row.get("threshold"), "works" if row["works"] else "fails")
        for name, row in defences.items()
    )
    columns = ("defence", "backdoored", "honest", "threshold", "against DOORPING")
    return Table("Defences against DOORPING by gradient matching", columns, rows)


def _shares(values: Sequence[float], *, higher: bool | None = None) -> Metric:
    interval = bootstrap_interval(values) if len(values) > 1 else None
    return Metric(_mean(values), "", higher, interval)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
