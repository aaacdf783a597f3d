# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: what it prints for people and for scripts, how it exits, and the archive that carries it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils import _errors as errors
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import (
    commits,
    containers,
    counters,
    log,
    status,
    trace,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.main import command, main
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    EXIT_NOT_WELL,
    EXIT_USAGE,
    table_lines,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.parser import make_parser
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    EndpointRow,
    Info,
    PrefixRow,
    RuleRow,
    UnmanagedRow,
)

from tests.unit.make import attached, attachment, container, facts, network


class FakeKernel:
    generation = 4
    hooks_first = 0x1F1F
    missing = False
    routed: t.Tuple[PrefixRow, ...] = ()

    def __enter__(self) -> FakeKernel:
        if self.missing:
            raise errors.ModuleMissing("the kernel module is not loaded", "netlink", "load it")
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> Info:
        return Info(
            "0.1.0", self.generation, "enforce", {"ingress": "deny"}, "ab" * 32, "cd" * 32, 0,
            ("docker0",), (1,), {"endpoints": 2, "prefixes": len(self.routed)}, self.hooks_first, 0x1F1F,
        )  # fmt: skip

    def rules(self) -> t.List[RuleRow]:
        return [
            RuleRow(0, 0, "default for outside to container", "deny", 0, 0),
            RuleRow(6, 0, "unmanaged", "deny", 12, 720),
            RuleRow(REASON_MAX, 99, "office reaches the web shop", "allow", 1234, 99999),
        ]

    def prefixes(self) -> t.List[PrefixRow]:
        assert self.routed, "an older module does not know the command"
        return list(self.routed)

    def unmanaged(self) -> t.List[UnmanagedRow]:
        return [
            UnmanagedRow("10.13.13.2", "02:42:ac:12:00:03", 1, 1, 7, 3),
            UnmanagedRow("fd13::2", "", 1, 0, 1, 60),
        ]

    def endpoints(self) -> t.List[EndpointRow]:
        return [EndpointRow("172.18.0.2", 3, 1, 0), EndpointRow("172.18.0.3", 4, 1, 1)]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> t.Type[FakeKernel]:
    class Mine(FakeKernel):
        pass

    for file in (commits, containers, counters, log, status, trace):
        monkeypatch.setattr(file, "Kernel", Mine)
    monkeypatch.setattr(containers, "container_names", lambda _socket: {"172.18.0.2": "web"})
    return Mine


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> t.Tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out, captured.err


def test_status_of_a_host_where_all_is_well(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _err = call(capsys, "status")
    assert code == 0
    assert re.search(r"^generation +4$", out, re.MULTILINE) and re.search(
        r"^hooks +run first$", out, re.MULTILINE
    )
    assert "\033[" not in out


def test_status_of_one_where_it_is_not(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.hooks_first = 0x1F1B
    code, out, _err = call(capsys, "status", "--json")
    assert code == EXIT_NOT_WELL
    assert json.loads(out)["hooks_behind"] == ["IPv4 FORWARD"]
    kernel.hooks_first, kernel.generation = 0x1F1F, 0
    assert call(capsys, "status")[0] == EXIT_NOT_WELL
    assert call(capsys, "ready")[0] == EXIT_NOT_WELL


def test_every_command_without_the_module_says_so(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.missing = True
    for name in ("status", "ready", "rules", "endpoints", "confirm", "rollback", "sync"):
        code, out, err = call(capsys, name)
        if name == "sync":
            assert code in (4, 5)  # asks for the library first
            continue
        assert (code, out) == (5, ""), name
        assert err == "bridgewarden: the kernel module is not loaded (netlink): load it\n"
    code, out, _err = call(capsys, "status", "--json")
    assert code == 5 and json.loads(out)["error_kind"] == "module_missing"


def test_rules_shows_what_counted(kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = call(capsys, "rules")
    assert "office reaches the web shop" in out and "unmanaged (built in)" in out
    assert "default for outside" not in out
    assert "default for outside" in call(capsys, "rules", "--all")[1]
    assert len(json.loads(call(capsys, "rules", "--json")[1])) == 3


def test_top_shows_what_was_added_a_second(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([(10, 100), (60, 600), (5, 50)])  # the last: somebody has reset them

    def rules(_self: object) -> t.List[RuleRow]:
        packets, octets = next(seen)
        return [
            RuleRow(6, 0, "unmanaged", "deny", 12, 720),
            RuleRow(3, 0, "default for container to host", "deny", 0, 0),
            RuleRow(
                REASON_MAX + packets, 99, "office", "allow", packets, octets
            ),  # its place changes, its key does not
        ]

    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr(kernel, "rules", rules)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    code, out, _err = call(capsys, "top", "--json", "--count", "2")
    first, second = map(json.loads, out.splitlines())
    assert code == 0 and first["seconds"] == 2.0 and first["generation"] == 4
    assert [(row["name"], row["packets_per_second"], row["bytes_per_second"]) for row in first["rules"]] == [
        ("office", 25.0, 250.0),
        ("unmanaged", 0.0, 0.0),
        ("default for container to host", 0.0, 0.0),
    ]
    assert second["rules"][0]["packets_per_second"] == 2.5


def test_top_for_people(kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = call(capsys, "top", "--interval", "0.05", "--count", "2")
    assert code == 0 and "\033" not in out
    assert out.count("generation 4, mode enforce, 2 endpoints, every 0.05 s") == 2
    assert re.search(r"^allow +0 +0 +1234 +99999  office reaches the web shop$", out, re.MULTILINE)
    assert call(capsys, "top", "--interval", "0")[0] == EXIT_USAGE


def test_endpoints_with_names_where_they_are_known(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(call(capsys, "endpoints", "--json")[1])
    assert [(row["address"], row["container"], row["port"]) for row in record] == [
        ("172.18.0.3", None, "lo"),
        ("172.18.0.2", "web", None),
    ]


def test_endpoints_shows_what_is_behind_containers(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.routed = (
        PrefixRow("10.13.13.0/24", 5, 0, ((1, 1), (1, 7))),
        PrefixRow("fd13::/64", 5, 1, ()),
    )
    names = {"172.18.0.2": "web", "172.18.0.3": "wireguard"}
    monkeypatch.setattr(containers, "container_names", lambda _socket: names)
    record = json.loads(call(capsys, "endpoints", "--json")[1])
    rows = [(row["container"], row["identity"], row["port"]) for row in record if "/" in row["address"]]
    assert sorted(rows, key=str) == [("wireguard", 5, "lo"), (None, 0, None), (None, 5, "#7")]
    out = call(capsys, "endpoints")[1]
    assert re.search(r"^10.13.13.0/24 +wireguard +5 +lo +lo$", out, re.MULTILINE)
    assert re.search(r"^fd13::/64 +\? +0 +none +any$", out, re.MULTILINE)


def test_unmanaged_names_the_container_of_the_port(
    kernel: t.Type[FakeKernel], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "container_names", lambda _socket: {"172.18.0.3": "wireguard"})
    record = json.loads(call(capsys, "unmanaged", "--json")[1])
    assert record["lost"] == 0
    assert [(row["address"], row["container"], row["mac"], row["port"]) for row in record["senders"]] == [
        ("10.13.13.2", "wireguard", "02:42:ac:12:00:03", "lo"),
        ("fd13::2", None, None, None),
    ]
    code, out, _err = call(capsys, "unmanaged")
    assert code == 0
    assert re.search(r"^10.13.13.2 +02:42:ac:12:00:03 +wireguard +lo +lo +7 +3$", out, re.MULTILINE)
    assert re.search(r"^fd13::2 +\? +\? +lo +\? +1 +60$", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("explain", "a"), ("confirm", "--generation", "x")])
def test_wrong_usage_has_a_code_of_its_own(
    capsys: pytest.CaptureFixture[str], arguments: t.Tuple[str, ...]
) -> None:
    assert call(capsys, *arguments)[0] == EXIT_USAGE


def test_help_documents_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = call(capsys, "--help")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for code in {kind.exit_code for kind in kinds} | {EXIT_NOT_WELL, EXIT_USAGE, 0}:
        assert re.search(rf"^  {code} +\S", out, re.MULTILINE), code


def test_tables_line_up() -> None:
    lines = table_lines([("a", 5, "x"), ("longer", 1234, "y")], ("name", "count", "end"))
    assert lines == ["NAME    COUNT  END", "a           5  x", "longer   1234  y"]
    assert table_lines([], ("a", "b")) == ["A  B"]


@pytest.fixture
def zipapp() -> t.Any:
    return pytest.importorskip(
        "ansible_collections.bridgewarden.docker.plugins.action.zipapp",
        reason="the controller's part needs ansible-core",
    )


class TestArchive:
    """The zipapp: equal libraries make equal bytes, and it runs by itself on every supported Python."""

    def test_the_bytes_depend_on_the_files_alone(self, zipapp: t.Any, tmp_path: Path) -> None:
        library = tmp_path / "lib"
        shutil.copytree(zipapp.LIBRARY, library)
        for path in library.rglob("*.py"):
            os.utime(path, (1, 1))
        assert zipapp.pack(str(library)) == zipapp.pack()
        (library / "_errors.py").write_text("x = 1\n")
        assert zipapp.pack(str(library)) != zipapp.pack()

    def test_it_needs_nothing_of_ansible(self, zipapp: t.Any) -> None:
        for name, content in zipapp.members().items():
            assert not re.search(rb"^\s*(?:from|import) ansible[. ]", content, re.MULTILINE), name

    @pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
    def test_it_runs(self, zipapp: t.Any, tmp_path: Path, version: str) -> None:
        found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")) or [
            Path(path) for path in [shutil.which(f"python{version}")] if path
        ]
        if not found and sys.version.startswith(version + "."):
            found = [Path(sys.executable)]
        if not found:
            pytest.skip(f"there is no Python {version} here")
        (tmp_path / "bridgewarden").write_bytes(zipapp.pack())
        argv = [str(found[0]), "-I", str(tmp_path / "bridgewarden"), "status"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
        # The module is missing, unless this is a host that has it.
        assert done.returncode in (0, 5, 6, 10), done.stderr
        assert "Traceback" not in done.stderr


def test_every_command_names_a_function_that_is_there() -> None:
    parser = make_parser()
    (choices,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    assert len(choices) > 10
    for sub in choices.values():
        name = sub.get_default("run")
        assert command(name).__name__ == name.partition(".")[2]


def test_addresses_have_the_names_of_build_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = facts(
        [container("web", {"front": attached("172.18.0.2")})],
        attachments=[attachment("build", "build step x", {"bridge": attached("172.17.0.9")})],
    )
    monkeypatch.setattr(containers, "collect_facts", lambda _socket: now)
    assert containers.container_names("unix:///x") == {"172.18.0.2": "web", "172.17.0.9": "build step x"}


# explain --policy


STACK = facts(
    [
        container("web", {"front": attached("172.18.0.2")}, Labels={"tier": "web"}),
        container("db", {"front": attached("172.18.0.3")}, Labels={"tier": "db"}),
    ],
    [network("front", Subnets=["172.18.0.0/16"])],
)
DRAFTS = {
    "policy.json": '{"rules": [{"name": "sql", "from": ["container:web"], "to": ["container:db"], "ports": ["5432/tcp"]}]}',
    "group_vars.yml": """\
bridgewarden_groups_shop: {app: {names: [web]}}
bridgewarden_rules_shop:
  - {name: sql, from: [app], to: ["label:tier=db"], ports: [5432/tcp], until: 2099-12-31}
unrelated: 5
""",
}


@pytest.mark.parametrize("name", sorted(DRAFTS))
def test_explain_by_a_policy_that_is_not_committed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(containers, "Kernel", lambda: pytest.fail("asked the kernel"))
    monkeypatch.setattr(containers, "Store", lambda: Store(str(tmp_path), str(tmp_path), str(tmp_path)))
    monkeypatch.setattr(containers, "collect_facts", lambda _socket, warn: STACK)
    (tmp_path / name).write_text(DRAFTS[name])
    asked = ("explain", "--policy", str(tmp_path / name))
    code, out, _err = call(capsys, *asked, "web", "db", "5432/tcp")
    assert (code, out) == (0, 'allow web (172.18.0.2) -> db (172.18.0.3) 5432/tcp: the rule "sql"\n')
    code, out, _err = call(capsys, *asked, "--json", "db", "web", "8080/tcp")
    assert json.loads(out)[0]["action"] == "deny"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither JSON nor YAML"),
        ("- a", "must be a mapping"),
        ("rulez: []", 'Did you mean "rules"'),
        ("bridgewarden_rules: 5", "bridgewarden_rules must be a list"),
        (None, "cannot be read"),
    ],
)
def test_explain_by_a_file_that_is_no_policy(
    text: t.Optional[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(containers, "Store", lambda: Store(str(tmp_path), str(tmp_path), str(tmp_path)))
    monkeypatch.setattr(containers, "collect_facts", lambda _socket, warn: STACK)
    file = tmp_path / "policy.yml"
    if text is not None:
        file.write_text(text)
    code, _out, err = call(capsys, "explain", "--policy", str(file), "web", "db", "80/tcp")
    assert code == 2
    assert words in err
