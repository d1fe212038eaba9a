from pathlib import Path

import pytest

from oat.data import DataConfig, load
from oat.paths import local_path
from tests.studies.pictures import draw

REFUSED = {
    "": "must name a folder",
    "  ": "must name a folder",
    "$HOME/data": "variables written out",
    "/data/${NAME}/x": "variables written out",
    "a\nb": "control characters",
    "a\0b": "control characters",
    "a\udcffb": "control characters",
    "C:\\data": "of this machine",
    "C:/data": "of this machine",
    "s3:/bucket": "of this machine",
    "file:/data": "of this machine",
    "~no-such-user-here/x": "user that exists",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_path_that_would_be_another_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        local_path(text)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    with pytest.raises(ValueError, match=f"`root` {REFUSED[text]}|`root` must"):
        DataConfig("digits", root=text)


@pytest.mark.parametrize("text", ["a b", "a'b", "é λ", "a#b", "a?b", "a%20b", "a\\b", "5$", "a~"])
def test_any_other_name_is_itself(text: str) -> None:
    assert local_path(text) == Path.cwd() / text
    assert local_path(f"/{text}/") == Path("/") / text


def test_the_home_folder_is_the_users_also_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert local_path("~") == tmp_path
    draw(tmp_path / "pictures")
    load.cache_clear()
    meant = load(DataConfig("imagefolder", root="~/pictures")).fingerprint
    assert meant == load(DataConfig("imagefolder", root=str(tmp_path / "pictures"))).fingerprint
