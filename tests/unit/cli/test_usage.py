# SPDX-License-Identifier: GPL-3.0-or-later
"""The completion in a real bash, the manual page through man itself: both made of the parser."""

from __future__ import annotations

import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import EXIT_CODES
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.parser import make_parser

from tests import usage

NAMES = [command.name for command in usage.commands_of(make_parser())]


@pytest.fixture
def complete(tmp_path: Path) -> t.Callable[[str], t.List[str]]:
    """What bash offers for the last word of a line; `docker ps` answers with two containers."""
    (tmp_path / "completion").write_text(usage.completion())
    (tmp_path / "docker").write_text("#!/bin/sh\n[ \"$1\" = ps ] && printf 'web\\nweb-db\\n'\n")
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "wet.json").touch()

    def ask(line: str) -> t.List[str]:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        script = (
            f"source ./completion; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _bridgewarden; "
            "complete -p bridgewarden >/dev/null && printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(
            ["bash", "--norc", "-u", "-c", script],
            capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return ask


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
class TestCompletion:
    def test_commands(self, complete: t.Callable[[str], t.List[str]]) -> None:
        assert complete("bridgewarden ") == NAMES
        assert complete("bridgewarden r") == ["ready", "rules", "rollback"]
        assert complete("bridgewarden -") == ["-h", "--help"]

    @pytest.mark.parametrize("name", NAMES)
    def test_options_of_each(self, complete: t.Callable[[str], t.List[str]], name: str) -> None:
        (command,) = [command for command in usage.commands_of(make_parser()) if command.name == name]
        wanted = [word for action in usage.options_of(command.parser) for word in action.option_strings]
        assert complete(f"bridgewarden {name} -") == wanted
        assert complete(f"bridgewarden {name} --js") == ["--json"]

    def test_values(self, complete: t.Callable[[str], t.List[str]]) -> None:
        assert complete("bridgewarden trace --container we") == ["web", "web-db"]
        assert complete("bridgewarden trace --replay we") == ["wet.json"]
        assert complete("bridgewarden trace --port we") == []
        assert complete("bridgewarden explain w") == ["world", "web", "web-db"]
        assert complete("bridgewarden explain --direct web ho") == ["host"]


@pytest.mark.skipif(not shutil.which("man") or not shutil.which("groff"), reason="needs man-db and groff")
class TestManual:
    @pytest.fixture
    def page(self, tmp_path: Path) -> str:
        (tmp_path / "bridgewarden.8").write_text(usage.manual())
        done = subprocess.run(
            ["man", "--warnings=w", "-l", str(tmp_path / "bridgewarden.8")],
            capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C"},
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout

    def test_everything_is_in_it(self, page: str) -> None:
        for command in usage.commands_of(make_parser()):
            assert re.search(rf"^ +bridgewarden {command.name}\b", page, re.MULTILINE)
            for action in usage.options_of(command.parser):
                assert action.option_strings[-1] in page, (command.name, action.option_strings)
        for code, meaning in usage.sections(EXIT_CODES):
            assert re.search(rf"^ +{code} +{re.escape(meaning.split(',')[0][:30])}", page, re.MULTILINE), code

    def test_the_check_would_find_a_mistake(self, tmp_path: Path) -> None:
        (tmp_path / "bad.8").write_text(usage.manual() + ".NOSUCH macro\n")
        done = subprocess.run(
            ["man", "--warnings=w", "-l", str(tmp_path / "bad.8")],
            capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
        assert "NOSUCH" in done.stderr


def test_what_troff_would_take_for_its_own_is_escaped() -> None:
    assert usage.troff(".a-b\\c") == "\\&.a\\-b\\ec"
    assert usage.troff("'tis") == "\\&'tis"


@pytest.mark.parametrize("name", usage.FILES_MADE)
def test_the_committed_file_is_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(usage, "TOP", tmp_path)
    folder = tmp_path / "roles/agent/files"
    folder.mkdir(parents=True)
    assert usage.main([]) == 0
    assert usage.main(["--check"]) == 0
    (folder / name).write_text("older")
    assert usage.main(["--check"]) == 1
    assert name in capsys.readouterr().out
