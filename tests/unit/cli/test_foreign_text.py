# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers, links, processes and files call themselves reaches the operator's terminal as text, not as commands to it."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import (
    commits,
    containers,
    counters,
    log,
    status,
    trace,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import main as command
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.log import log_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    in_green,
    in_red,
    say,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    EndpointRow,
    HookRow,
    Info,
    RuleRow,
)

Json = t.Dict[str, t.Any]
COLLECTIONS = Path(__file__).resolve().parents[3] / ".collections"
#: Clears the screen; a line of its own; the rest from right to left; a C1 control; a byte of no character; our own colour.
EVIL = (
    "e\x1b[2J",
    "e\rno",
    "e\nbridgewarden: all is well",
    "e\u202eno",
    "e\x9b2J",
    "e\udcff",
    "e\x1b[32mgood\x1b[0m",
)
#: What the command itself sends a terminal: colours, and top its clearing of the screen.
OWN = re.compile(r"\x1b\[(?:32|33|1;31|2|0)m|\x1b\[H\x1b\[2J")


class EvilKernel:
    """A kernel module in which everything that has a name has this one."""

    name = "plain"

    def __enter__(self) -> EvilKernel:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> Info:
        return Info(
            "0.1.0", 4, "enforce", {"ingress": "deny"}, "ab" * 32, "cd" * 32, 0, (self.name,), (1,), {"endpoints": 2},
            0x1F1B, 0x1F1F, hooks_ahead=(self.name,),
        )  # fmt: skip

    def rules(self) -> t.List[RuleRow]:
        return [RuleRow(REASON_MAX, 99, self.name, "allow", 1234, 99999)]

    def endpoints(self) -> t.List[EndpointRow]:
        return [EndpointRow("172.18.0.2", 3, 1, 0)]

    def hooks(self, netns: t.Optional[int] = None) -> t.List[HookRow]:
        return [HookRow("IPv4", "FORWARD", 0, self.name, self.name, False)]


def recorded(name: str) -> Json:
    """A trace whose packet crosses a device and a namespace of this name."""
    step = {
        "event": "crossing", "time": 1.5, "netns": 1, "namespace": name, "hook": "FORWARD", "position": "first",
        "in": name, "out": name, "from": "10.0.0.1", "to": "10.0.0.2", "from_port": 9, "to_port": 80,
    }  # fmt: skip
    drop = {"event": "drop", "time": 1.6, "skb": "a", "reason": name, "location": name}
    verdict = {"event": "verdict", "action": "deny", "rule": name, "reason": "", "audit": False}
    path = {
        "id": 1, "conversation": 1, "time": 1.5, "protocol": "tcp", "detail": name, "from": name, "to": name,
        "reply": False, "outcome": "dropped", "sentence": f"dropped at FORWARD of {name}", "steps": [step, verdict, drop],
    }  # fmt: skip
    return {"schema": 1, "paths": [path], "summary": {}, "hooks": {}}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> t.Callable[..., str]:
    """The command in a world where everything has this name; what it prints."""

    def ran(name: str, *arguments: str) -> str:
        class Mine(EvilKernel):
            pass

        Mine.name = name
        for module in (commits, containers, counters, log, status, trace):
            monkeypatch.setattr(module, "Kernel", Mine)
        for module in (containers, status):
            monkeypatch.setattr(module, "link_name", lambda _index: name)
        monkeypatch.setattr(containers, "container_names", lambda _socket: {"172.18.0.2": name})
        (tmp_path / "record.json").write_text(json.dumps(recorded(name)))
        with pytest.raises(SystemExit):
            command.main([word.replace("RECORD", str(tmp_path / "record.json")) for word in arguments])
        captured = capsys.readouterr()
        return captured.out + captured.err

    return ran


COMMANDS = (
    ("status",),
    ("rules",),
    ("top", "--interval", "0.05", "--count", "1"),
    ("endpoints",),
    ("hooks",),
    ("trace", "--replay", "RECORD"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_a_name_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
    run: t.Callable[..., str],
    name: str,
    terminal: bool,
    arguments: t.Tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, shown = run("plain", *arguments), run(name, *arguments)
    assert "plain" in plain and bool(OWN.search(plain)) is (
        terminal and arguments[0] in ("status", "top", "trace")
    )
    assert OWN.findall(shown) == OWN.findall(plain)
    text = OWN.sub("", shown)
    assert text.count("\n") == plain.count("\n")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "e" in text and "good" not in text.replace("[32mgood", "")


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_errors_warnings_and_log_lines_are_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = {
        "time": 0, "from": "10.0.0.1", "to": "10.0.0.2", "from_container": name, "to_container": name, "protocol": "tcp",
        "to_port": 80, "in": name, "port": name, "out": name, "rule": name, "reason": "", "action": "deny",
        "audit": False, "class": "ingress",
    }  # fmt: skip

    def failing(_args: argparse.Namespace) -> Reply:
        say(log_text(line))
        raise BridgewardenError(f'no container is called "{name}"', name, f"there are: {name}")

    monkeypatch.setattr(command, "make_parser", Parsed)
    monkeypatch.setattr(command, "command", lambda _name: failing)
    with pytest.raises(SystemExit):
        command.main([])
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert text.count("\n") == 1 and text.endswith("\n") and text[:-1].isprintable()


class Parsed:
    def parse_args(self, _argv: object) -> argparse.Namespace:
        return argparse.Namespace(run="", json=False)


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_json_is_exact(run: t.Callable[..., str], name: str) -> None:
    out = run(name, "rules", "--json")
    assert json.loads(out)[0]["name"] == name
    assert out.isascii() and all(line.isprintable() for line in out.split("\n"))


def test_a_name_inside_a_colour_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    say(in_green("a\x1b[2J\n") + "b\x1b[32m" + in_red("c\x1b[0m"))
    assert capsys.readouterr().out == "\x1b[32ma?[2J\x1b[0mb?[32m\x1b[1;31mc?[0m\x1b[0m\n"


PROGRAM = """
import sys
sys.path.insert(0, {collections!r})
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import link_name, say
say(link_name(int(open(b"/sys/class/net/" + {name!r} + b"/ifindex").read())))
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"e\x1b[2J", "e?[2J"),
        (b"e\xe2\x80\xae1", "e?1"),
        (b"e\xff1", "e?1"),
        (b"e\xe2\x80\x83netns=1", "e?netns=1"),
    ],
)
def test_a_real_link(name: bytes, shown: str) -> None:
    """The kernel takes these names for links."""
    namespace = f"bwt{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(
            [b"ip", b"-n", namespace.encode(), b"link", b"add", name, b"type", b"veth"], check=True
        )
        program = PROGRAM.format(collections=str(COLLECTIONS), name=name)
        argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, shown + "\n"), done.stderr
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_a_diff_keeps_its_lines(name: str) -> None:
    """Ansible sends a module's diff to the terminal as it is."""
    pytest.importorskip("ansible")
    from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import _diff_text
    from ansible_collections.bridgewarden.docker.plugins.modules import bridge_netfilter, dkms

    for text in (_diff_text([name]), bridge_netfilter.text([name]), dkms.text({name: {}})):
        assert text.count("\n") == 1 and text[:-1].isprintable()
