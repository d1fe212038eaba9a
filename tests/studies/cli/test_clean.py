from pathlib import Path

from tests.studies.cli.shell import Oat, is_a_sentence


def test_clean_lists_first_and_removes_when_told(oat: Oat, study: Path, storage: Path) -> None:
    command = ["clean", study, "--storage", storage]
    nothing = oat(*command)
    assert (nothing.code, nothing.text, nothing.err) == (0, "There is nothing to remove.\n", "")
    command += ["--set", "methods=[{name: trades, beta: [1]}]"]
    trials = storage / "tiny" / "trials"
    for told in ([], ["--yes"]):
        assert len(list(trials.iterdir())) == 4
        said = oat(*command, *told)
        assert (said.code, said.err) == (0, "")
        assert said.text.count("trials/") == 3
        assert ("Nothing is removed yet" in said.text) == (not told)
        assert ("MLflow keeps" in said.text) == bool(told)
    assert len(list(trials.iterdir())) == 1


def test_clean_refuses_a_faulty_study_and_a_faulty_place(oat: Oat, study: Path) -> None:
    is_a_sentence(oat("clean", "no-such-study", "--yes"), "no-such-study")
    is_a_sentence(oat("clean", study, "--storage", study, "--yes"), "`--storage`", "is a file")
