"""Where the cache lies."""

from pathlib import Path

import pytest

from training.resolvers import user_cache


def test_the_cache_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACET_CACHE", str(tmp_path / "mine"))
    assert user_cache() == str(tmp_path / "mine")
    monkeypatch.delenv("FACET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == str(tmp_path / "facet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path(user_cache()).is_absolute() and Path(user_cache()).name == "facet"
