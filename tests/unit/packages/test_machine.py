"""What the machine's own apt says is asked again when its configuration changes, and only then."""

import json
from pathlib import Path

import pytest

from builder.host.cache import Cache
from builder.packages import machine

DUMP = ["dump", "APT::Architecture"]


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "etc"
    (place / "apt.conf.d").mkdir(parents=True)
    (place / "sources.list").write_text("")
    monkeypatch.setattr(machine, "_CONFIGURATION", place)
    return place


def _said(cache: Cache) -> str:
    """Ask; what is remembered is marked, so that an answer tells where it came from."""
    said = machine.asked(cache, "apt-config", DUMP)
    for memo in cache.resolutions.glob("machine-*.json") if cache.resolutions.is_dir() else ():
        memo.write_text(json.dumps({**json.loads(memo.read_text()), "said": "remembered"}))
    return said


@pytest.mark.tools
def test_it_is_asked_once_until_a_file_changes(configuration: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert _said(cache).startswith("APT::Architecture")
    assert _said(cache) == "remembered"
    for change in (
        lambda: (configuration / "apt.conf.d/10proxy").write_text('Acquire::http::Proxy "http://a.example";\n'),
        lambda: (configuration / "apt.conf.d/10proxy").write_text('Acquire::http::Proxy "http://b.example";\n'),
        (configuration / "sources.list").unlink,
    ):
        change()
        assert _said(cache).startswith("APT::Architecture")
        assert _said(cache) == "remembered"


@pytest.mark.tools
@pytest.mark.parametrize("text", ['Dir::Etc::SourceParts "/opt";', 'Dir { Etc "/opt"; };', "#include /opt/x;"])
def test_a_configuration_in_another_place_is_asked_every_time(configuration: Path, tmp_path: Path, text: str) -> None:
    (configuration / "apt.conf.d/99other").write_text(text)
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        assert _said(cache).startswith("APT::Architecture")
