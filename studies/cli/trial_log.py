"""What `oat logs --trial` prints: a trial's state, its last epochs, its error."""

from typing import TYPE_CHECKING

from rich.table import Table

from studies.cli.printing import print_table
from studies.naming import duration
from studies.trial.stored import Epoch

if TYPE_CHECKING:
    from studies.results.trial_log import TrialLog

LAST_EPOCHS = 10
"""Epochs that are printed; the file has all."""


def print_trial_log(log: "TrialLog") -> None:
    """Print what is stored of a trial."""
    print(f"{log.name} ({log.run_key}): {log.state}.{f' {log.reason}' if log.reason else ''}")
    print(f"Folder: {log.folder}")
    if log.epochs:
        _print_epochs(log.epochs)
    else:
        print("No epoch has ended yet.")
    for remark in log.remarks:
        print(remark)
    if log.failure is not None:
        print(f"Its last try failed ({log.failure['kind']}): {log.failure['error']}")
        print(log.failure["traceback"].rstrip())


def _print_epochs(epochs: tuple[Epoch, ...]) -> None:
    table = Table()
    for name in ("epoch", "loss", "learning rate", "SA val", "RA val", "images/s", "time"):
        table.add_column(name, justify="right")
    for epoch in epochs[-LAST_EPOCHS:]:
        table.add_row(
            str(epoch["epoch"]),
            f"{epoch['train_loss']:.4f}",
            f"{epoch['lr']:.4g}",
            _percent(epoch["sa_val"]),
            _percent(epoch["ra_val"]),
            f"{epoch['images_per_second']:,.0f}",
            duration(epoch["device_seconds"]),
        )
    print_table(table)
    if (before := len(epochs) - LAST_EPOCHS) > 0:
        earlier = "1 epoch before these is" if before == 1 else f"{before} epochs before these are"
        print(f"{earlier} in epochs.jsonl.")


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}%"
