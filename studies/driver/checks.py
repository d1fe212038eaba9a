"""What must hold on this machine before a study starts: storage, MLflow, data and attacks.

Each check that fails is a sentence with its cure; nothing is started before all hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from baselines import Checkpoint
from oat.adversaries import EXTRA, check_classes
from oat.autoattack import check_installed
from oat.data import DataError, Dataset, count_images, load, repeated_images
from oat.method import Oat
from oat.models.own_check import check_own_network
from oat.own_attack import OwnAttack, check_own_attack
from oat.own_code import OwnCodeError, is_own
from studies.comparison.choosing import LEAST_IMAGES
from studies.console import say
from studies.driver.same_data import KnownData
from studies.errors import StudyError, UserError
from studies.known_methods import CONDITIONAL, is_dedicated
from studies.naming import listed
from studies.own_method import check_losses
from studies.storage.folder import Folder
from studies.storage.opening import check_writable
from studies.study_file.method_checks import check_rows
from studies.study_file.study import Study
from studies.study_file.unused import without_effect
from studies.trial.adopting import filled


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: What was checked.
        said: What was found, or the sentence of a warning.
        error: Why nothing may start; None if it holds.
        warning: Whether it holds, but the user should know.
    """

    name: str
    said: str
    error: UserError | None = None
    warning: bool = False

    @property
    def state(self) -> str:
        """``ok``, ``warning`` or ``failed``."""
        if self.error is not None:
            return "failed"
        return "warning" if self.warning else "ok"


def demand(checks: Sequence[Check]) -> None:
    """Refuse to go on if a check has failed.

    Raises:
        UserError: Of the class of the first that failed, with the sentences of all.
    """
    errors = [check.error for check in checks if check.error is not None]
    if errors:
        raise type(errors[0])("\n".join(dict.fromkeys(map(str, errors))))


def check_here(
    study: Study, folder: Folder, tracking_uri: str, *, ask_mlflow: bool = False
) -> list[Check]:
    """Check what this process needs, the storage and MLflow, and name settings without effect.

    Args:
        study: The study.
        folder: Its own folder.
        tracking_uri: MLflow.
        ask_mlflow: Whether to ask it for the study as well, which takes seconds; a run does so as
            it opens it.
    """
    from studies.tracking.reaching import check_server

    def storage() -> str:
        check_writable(folder)
        return f"'{folder.uri}' can be written"

    def tracking() -> str:
        from studies.storage.addresses import without_credentials

        check_server(tracking_uri)
        if ask_mlflow:
            from studies.tracking.experiment import experiment_id

            experiment_id(tracking_uri, study.name)
        return without_credentials(tracking_uri)

    unused = [Check("study", said, warning=True) for said in without_effect(study)]
    return [checked("storage", storage), checked("MLflow", tracking), *unused]


def tell(checks: Sequence[Check], console: Console) -> None:
    """Say of checks that hold what the user should know: of the data, and every warning."""
    for check in checks:
        if check.warning:
            say(console, check.said)
        elif check.name == DATA:
            say(console, f"Data: {check.said}.")


DATA = "data"
"""Name of the check that says what the data are."""


def check_evaluation(study: Study, known: KnownData) -> list[Check]:
    """Read the data in this process, and check the attacks, and what was trained, against them."""
    remarks: list[str] = []
    own: list[Check] = []

    def data() -> str:
        try:
            found = load(study.data)
            known.check(found.fingerprint)
            check_attacks(study, found.num_classes)
            check_batches(study, len(found.train))
            for method in study.all_methods():
                # once it is part of the study's storage its file is not needed
                if isinstance(method, Checkpoint) and (
                    method.path is None or method.file().is_file()
                ):
                    filled(method, method.network(), 0, found)
        except DataError as error:
            raise StudyError(str(error)) from error
        finally:
            load.cache_clear()
        remarks.extend([*remarks_on(found), *too_few_held_out(study, len(found.val))])
        own.extend(check_own_code(study, found.image_shape, found.num_classes))
        return f"{study.data.name}, {count_images(found)}"

    return [checked(DATA, data), *data_warnings(remarks), *own]


def check_own_code(
    study: Study, image_shape: tuple[int, int, int], num_classes: int
) -> list[Check]:
    """Check that networks, methods and attacks of the user's do what they must; none of ours."""
    asked = dict.fromkeys(
        (m.network() if isinstance(m, Checkpoint) else study.model, m.conditioning())
        for m in study.all_methods()
    )
    networks = [(model, conditioning) for model, conditioning in asked if model.own]

    def network() -> str:
        for model, conditioning in networks:
            check_own_network(model, conditioning, image_shape, num_classes)
        names = listed(dict.fromkeys(model.name for model, _ in networks))
        return f"{num_classes} logits for each image of {names}"

    def methods() -> str:
        for method in {method.name: method for method in study.all_methods()}.values():
            if is_own(method.name):
                check_losses(
                    method,
                    f"'{method.name}'",
                    model=study.model,
                    image_shape=image_shape,
                    num_classes=num_classes,
                    attack=study.attack,
                )
        return listed(named)

    def attacks() -> str:
        for attack in own:
            check_own_attack(attack, image_shape, num_classes)
        return ", ".join(dict.fromkeys(attack.name for attack in own))

    own = [attack for attack in study.attacks() if isinstance(attack, OwnAttack)]
    named = [name for name in dict.fromkeys(study.method_names()) if is_own(name)]
    checks = [checked("network", network)] if networks else []
    # a network that is no good would be told a second time, as a fault of each method
    if named and all(check.error is None for check in checks):
        checks.append(checked("methods", methods))
    return [*checks, checked("attacks", attacks)] if own else checks


def remarks_on(dataset: Dataset) -> list[str]:
    """Return what the user should know of images: those left out or changed, those that repeat."""
    return [*dataset.remarks, *repeated_images(dataset)]


def too_few_held_out(study: Study, images: int) -> list[str]:
    """Say so where no comparison can choose λ: on too few held-out images, if it is to choose."""
    asked, names = study.evaluate.held_out_images, study.method_names()
    chooses = any(name in CONDITIONAL for name in names) and any(map(is_dedicated, names))
    if not chooses or not asked or min(asked, images) >= LEAST_IMAGES:
        return []
    return [
        f"Held out of training are {min(asked, images)} images, and a comparison needs "
        f"{LEAST_IMAGES} to choose λ: OAT will stand at the λ of each retrained model, and those "
        "without a λ of OAT's, such as TRADES, will have no row. Raise `data.val_fraction` or "
        "`evaluate.held_out_images`."
    ]


def data_warnings(remarks: Sequence[str]) -> list[Check]:
    """Make a warning of each remark on the data."""
    return [Check(DATA, remark, warning=True) for remark in remarks]


def check_attacks(study: Study, num_classes: int) -> None:
    """Check that the attacks are installed and fit the data.

    Raises:
        StudyError: One does not.
    """
    try:
        for attack in study.attacks():
            if isinstance(attack, EXTRA):
                check_installed(attack.name)
            check_classes(attack, num_classes)
    except (ImportError, ValueError) as error:
        raise StudyError(str(error)) from error


def check_batches(study: Study, images: int) -> None:
    """Check that a batch of all training images serves both batch norms, if they are so few.

    Raises:
        StudyError: It does not.
    """
    try:
        for method in study.all_methods():
            if isinstance(method, Oat) and method.dual_bn and images < study.train.batch_size:
                check_rows(method, images, f"A batch of all {images} training images")
    except ValueError as error:
        raise StudyError(str(error)) from error


def checked(name: str, look: Callable[[], str]) -> Check:
    """Make a check of a function that returns what it found, or raises."""
    try:
        return Check(name, look())
    except OwnCodeError as error:
        return Check(name, str(error), StudyError(str(error)))
    except UserError as error:
        return Check(name, str(error), error)
