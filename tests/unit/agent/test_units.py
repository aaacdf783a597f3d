# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's unit as the role renders it, read by systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import store as _store

jinja2 = pytest.importorskip("jinja2")

TEMPLATES = Path(__file__).resolve().parents[3] / "roles" / "agent" / "templates"

#: Of 100, by systemd 252; a setting that goes missing shows here. What remains is root, its one capability and its socket.
MOST_EXPOSED = 20

SETTINGS: t.Dict[str, t.Any] = {
    "bridgewarden_agent_command": "/usr/bin/true",
    "bridgewarden_docker_socket": "unix:///var/run/docker.sock",
    "bridgewarden_metrics": "none",
    "bridgewarden_metrics_textfile": "/var/lib/prometheus/node-exporter/bridgewarden.prom",
    "bridgewarden_metrics_listen": "127.0.0.1:9899",
}


def unit(name: str = "bridgewarden-agent", **settings: t.Any) -> str:
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["dirname"] = lambda path: path.rpartition("/")[0]
    template = environment.from_string((TEMPLATES / f"{name}.service.j2").read_text())
    return t.cast(str, template.render({**SETTINGS, **settings}))


def values(text: str, key: str) -> t.List[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_the_socket_is_the_setting_s() -> None:
    assert values(unit(), "ExecStart") == ["/usr/bin/true agent --docker-socket unix:///var/run/docker.sock"]
    assert values(unit(bridgewarden_docker_socket="unix:///run/proxy.sock"), "ExecStart") == [
        "/usr/bin/true agent --docker-socket unix:///run/proxy.sock"
    ]


def test_only_the_page_opens_the_network_and_only_as_far_as_it_listens() -> None:
    for kind in ("none", "textfile"):
        text = unit(bridgewarden_metrics=kind)
        assert values(text, "RestrictAddressFamilies") == ["AF_UNIX AF_NETLINK"]
        assert values(text, "IPAddressDeny") == ["any"] and values(text, "IPAddressAllow") == []
    for listen in ("127.0.0.1:9899", "[::1]:1"):
        text = unit(bridgewarden_metrics="http", bridgewarden_metrics_listen=listen)
        assert values(text, "RestrictAddressFamilies") == ["AF_UNIX AF_NETLINK AF_INET AF_INET6"]
        assert values(text, "IPAddressDeny") == ["any"] and values(text, "IPAddressAllow") == ["localhost"]
        assert values(text, "ExecStart")[0].endswith(f" --metrics http --metrics-listen {listen}")
    text = unit(bridgewarden_metrics="http", bridgewarden_metrics_listen="10.0.0.1:9899")
    assert values(text, "IPAddressDeny") == []


def test_only_the_file_opens_its_folder() -> None:
    assert values(unit(), "ReadWritePaths") == ["-/etc/bridgewarden"]
    text = unit(bridgewarden_metrics="textfile", bridgewarden_metrics_textfile="/srv/x/bw.prom")
    assert values(text, "ReadWritePaths") == ["-/etc/bridgewarden", "-/srv/x"]
    assert values(text, "ExecStart")[0].endswith(" --metrics textfile --metrics-textfile /srv/x/bw.prom")


@pytest.mark.parametrize("name", ["bridgewarden-agent", "bridgewarden"])
def test_each_folder_that_the_store_writes_to_is_the_unit_s_own(name: str) -> None:
    """ProtectSystem=strict makes everything else read-only; each folder is there before the unit is, even without a policy."""
    text = unit(name)
    assert values(text, "ProtectSystem") == ["strict"]
    folders = {
        "/run": ("RuntimeDirectory", os.path.dirname(_store.LOCK_PATH)),
        "/var/lib": ("StateDirectory", _store.VAR),
        "/etc": ("ConfigurationDirectory", _store.ETC),
    }
    for parent, (key, folder) in folders.items():
        assert [f"{parent}/{value}" for value in values(text, key)] == [folder]
        assert values(text, key + "Mode") == ["0700"]
    assert values(text, "RuntimeDirectoryPreserve") == ["yes"]
    assert "/run/lock" not in text


def test_the_folder_of_the_locks_is_there_after_a_boot() -> None:
    line = (TEMPLATES / "tmpfiles.conf.j2").read_text().splitlines()[-1]
    assert line.split() == ["d", os.path.dirname(_store.LOCK_PATH), "0700", "root", "root", "-"]


def analyze(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "bridgewarden-agent.service"
    path.write_text(text)
    return subprocess.run(
        ["systemd-analyze", *arguments, str(path)], capture_output=True, text=True, check=False,
    )  # fmt: skip


def offline() -> bool:
    if not shutil.which("systemd-analyze"):
        return False
    done = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[1].partition(".")[0]) >= 250


@pytest.mark.skipif(not offline(), reason="needs systemd-analyze 250 or newer")
class TestBySystemd:
    @pytest.mark.parametrize("kind", ["none", "textfile", "http"])
    def test_how_exposed_it_is(self, tmp_path: Path, kind: str) -> None:
        arguments = ("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}")
        done = analyze(tmp_path, unit(bridgewarden_metrics=kind), *arguments)
        print(done.stdout)
        assert done.returncode == 0, done.stdout
        # The same check finds a unit without its settings.
        bare = "[Service]\nExecStart=/usr/bin/true\n"
        assert analyze(tmp_path, bare, *arguments).returncode != 0

    def test_it_knows_every_setting(self, tmp_path: Path) -> None:
        done = analyze(tmp_path, unit(), "verify", "--man=no")
        assert "bridgewarden-agent.service:" not in done.stderr, done.stderr
        wrong = analyze(tmp_path, unit().replace("ProcSubset=", "ProcSubsets="), "verify", "--man=no")
        assert "ProcSubsets" in wrong.stderr
