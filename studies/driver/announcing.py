"""What a run says of its plan before it works, and of a run that ended early."""

from typing import TYPE_CHECKING

from rich.console import Console

from studies.console import say
from studies.driver.choosing import Choice
from studies.naming import listed
from studies.planning.plan import Plan

if TYPE_CHECKING:
    from studies.cluster.retries import FirstFailure


def announce(current: Plan, console: Console) -> None:
    """Say how many trials are finished, and what is left to do."""
    left = current.to_run()
    total = len(current.trials)
    said = f"Study {current.study.name}: {total - len(left)} of {total} trials are finished"
    resumed = sum(trial.state == "unfinished" for trial in left)
    if not left:
        said += "; nothing to train"
    elif resumed:
        said += f", {resumed} go on from a checkpoint"
    if waiting := sum(trial.state == "waiting" for trial in left):
        said += f"; {waiting} wait for the weights of others"
    say(console, f"{said}.")
    if current.foreign:
        say(
            console,
            f"{len(current.foreign)} finished trials in storage no longer belong to this study "
            "(other settings); they are kept.",
        )


def announce_choice(choice: Choice, console: Console) -> None:
    """Say what `--only` chooses, and what is trained as well."""
    if choice.left_out:
        count = len(choice.plan.trials) - len(choice.added)
        total = len(choice.plan.trials) + len(choice.left_out)
        say(console, f"`--only` chooses {count} of {total} trials; the others stay planned.")
    if choice.added:
        names = listed(choice.added)
        say(console, f"Trained as well, as chosen trials are made from them: {names}.")


def ended_early(first: "FirstFailure | None", after: Plan) -> list[str]:
    """Say that the first failure has ended the run, and what is left."""
    if first is None or first.said is None:
        return []
    left = sum(trial.state != "done" for trial in after.trials)
    trials = "trial is" if left == 1 else "trials are"
    return [
        f"`--fail-fast` ended the run at its first failure; {left} {trials} not finished. The same "
        "command goes on, from checkpoints where there are any."
    ]
