# SPDX-License-Identifier: GPL-3.0-or-later
"""From power-on to steady state nothing passes that the policy forbids: knocked at from outside, every 50 ms.

The neighbour lives on this computer (lab/outside.py), so it is there before the machine has power. First a boot without
bridgewarden shows that the same knocks get through. Then the power fails in the middle of a commit; the kernel is
upgraded; it is upgraded and the module cannot be built for it, with both settings of bridgewarden_require. Each boot
leaves build/boot/NAME.json. The tests build on one another's state, in the order they stand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import outside, power, ssh

PROJECT = Path(__file__).resolve().parents[4]
RESULTS = PROJECT / "build" / "boot"
REQUIRE = PROJECT / "molecule" / "shared" / "require.yml"
COMMAND = "/usr/local/sbin/bridgewarden"
TICK = 0.05
PATIENCE = 3.0
SETTLE = 5.0  # steady state is watched for so long

# The shop's web server may be reached from the office alone, and nothing directly; containers get their addresses in the
# order in which they start.
FORBIDDEN = {
    "published, IPv4": (outside.HOST[4], 8081, 1),
    "published, IPv6": (outside.HOST[6], 8081, 1),
    "direct, 172.18.0.2": ("172.18.0.2", 8080, 1),
    "direct, 172.18.0.3": ("172.18.0.3", 8080, 1),
    "direct, fd00:db8:1::2": ("fd00:db8:1::2", 8080, 1),
    "direct, fd00:db8:1::3": ("fd00:db8:1::3", 8080, 1),
}
PERMITTED = {
    "the API, IPv4": (outside.HOST[4], 8443, 10),
    "the API, IPv6": (outside.HOST[6], 8443, 10),
}

# The kernel of Debian's backports. The machine boots it with the lab's own initrd, so none is made there.
UPGRADE = """
set -e
export DEBIAN_FRONTEND=noninteractive
sed -n 's/ trixie-updates / trixie-backports /p' /etc/apt/sources.list > /etc/apt/sources.list.d/backports.list
chmod -x /etc/kernel/postinst.d/initramfs-tools
apt-get -q update
apt-get -q -y install --no-install-recommends -t trixie-backports linux-image-cloud-amd64 linux-headers-cloud-amd64
sync
"""

# What a kernel's packages run, with a source that does not compile.
BREAK = """
release=$(ls /lib/modules | sort -V | tail -n 1)
version=$(dkms status -m bridgewarden | sed -n 's|^bridgewarden/\\([^,]*\\),.*|\\1|p' | head -n 1)
dkms remove "bridgewarden/$version" -k "$release" >/dev/null
cp "/usr/src/bridgewarden-$version/main.c" /root/main.c
echo '#error broken by the test' >> "/usr/src/bridgewarden-$version/main.c"
/etc/kernel/postinst.d/dkms "$release" && echo 'the build did not fail'
dkms status -m bridgewarden -k "$release"
sync
"""
MEND = "cp /root/main.c /usr/src/bridgewarden-*/main.c"


class Boot:
    """One cold start, knocked at from its first moment."""

    def __init__(self, guest: Any, name: str) -> None:
        self.guest = guest
        self.name = name

    def run(self, up: Callable[[], bool], seconds: float = 900) -> dict[str, Any]:
        """Power off and on; until `up`, and SETTLE seconds more. What the knocks found, by target."""
        machine = self.guest.machine
        out = outside.Outside(machine)
        power.cut(machine)
        out.plug()
        try:
            began = time.monotonic()
            power.on(machine, out.arguments)
            out.connect()
            knocker = subprocess.Popen(
                out.command(sys.executable, "-m", "lab.knock"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=PROJECT,
                text=True,
            )
            assert knocker.stdin
            try:
                knocker.stdin.write(
                    json.dumps({"tick": TICK, "patience": PATIENCE, "targets": {**FORBIDDEN, **PERMITTED}})
                    + "\n"
                )
                knocker.stdin.flush()
                ssh.wait_for_ssh(machine)
                while not up():
                    assert time.monotonic() - began < seconds, f"{self.name}: not up after {seconds} s"
                    time.sleep(1)
                took = time.monotonic() - began
                time.sleep(SETTLE)
                found = json.loads(knocker.communicate(timeout=60)[0])
            finally:
                knocker.kill()
                knocker.wait()
        finally:
            machine.must_live()
        RESULTS.mkdir(parents=True, exist_ok=True)
        about = {
            "boot": self.name,
            "kernel": self.guest.run("uname -r").strip(),
            "seconds_to_up": round(took, 1),
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps({**about, "knocks": found}, indent=1) + "\n")
        return dict(found)


@pytest.fixture(scope="module")
def boot(guest: Any) -> Iterator[Callable[..., dict[str, Any]]]:
    guest.run(f"cat > {outside.CONFIGURATION_FILE}; sync", outside.CONFIGURATION)
    yield lambda name, up, **words: Boot(guest, name).run(up, **words)
    outside.Outside(guest.machine).unplug()


def answers(guest: Any) -> Callable[[], bool]:
    """The API's own path works, as the office in the machine sees it."""

    def up() -> bool:
        ssh.wait_for_docker(guest.machine)
        return "open" in guest.probe(("office", "host", 8443), families=(4,))

    return up


def ask(guest: Any, command: str) -> str:
    """A command's output, whatever its exit code."""
    return str(guest.run(f"{command} || true")).strip()


def opened(found: dict[str, Any], targets: dict[str, Any]) -> dict[str, int]:
    return {name: found[name]["open"] for name in targets if found[name]["open"]}


def must_be_closed(found: dict[str, Any]) -> None:
    """Never an answer on a forbidden path, nor a pause in asking; while what is permitted came to work."""
    assert opened(found, FORBIDDEN) == {}
    for name in FORBIDDEN:
        assert found[name]["attempts"] > 100, name
        assert found[name]["gap"] < 5, "the prober itself stood still"
    assert set(opened(found, PERMITTED)) == set(PERMITTED), found


def test_without_us_the_same_knocks_get_through(guest: Any, boot: Any) -> None:
    guest.run("systemctl -q disable bridgewarden bridgewarden-agent; sync")
    found = boot("1-without-us", answers(guest))
    reached = opened(found, FORBIDDEN)
    assert {"published, IPv4", "published, IPv6"} <= set(reached), found
    assert any("172.18" in name for name in reached), found
    assert any("fd00" in name for name in reached), found
    guest.run("systemctl -q enable --now bridgewarden bridgewarden-agent")


def test_the_power_fails_in_the_middle_of_a_commit(guest: Any, boot: Any) -> None:
    guest.run("cat > /root/commits.py", (Path(__file__).parent / "commits.py").read_text(encoding="utf-8"))
    commits = guest.popen(f"python3 -u /root/commits.py {COMMAND}")
    for _ in range(5):
        line = commits.stdout.readline()
        assert line, "the commits ended"
    committed = int(line.split()[0])
    try:
        found = boot("2-power-lost-in-a-commit", answers(guest))
    finally:
        commits.kill()
        commits.wait()
    must_be_closed(found)
    status = guest.json("bridgewarden status --json || true")
    assert status["generation"] > 0
    # Whole: one policy of those, and not older than the last one but one.
    policy = guest.json("bridgewarden policy --json")
    names = {
        rule["name"].split()[1] for rule in policy["desired"]["rules"] if rule["name"].startswith("more ")
    }
    assert len(names) == 1
    assert int(names.pop()) >= committed - 1
    assert ask(guest, "systemctl is-active bridgewarden") == "active"


def test_a_new_kernel_is_filtered_too(guest: Any, playbooks: Any, boot: Any, tmp_path: Path) -> None:
    run = playbooks.run(REQUIRE, bridgewarden_require=True)
    assert run.code == 0, run.output
    guest.run(UPGRADE)
    release = power.take_kernel(guest.machine)
    assert guest.run("uname -r").strip() != release
    assert "installed" in guest.run(f"dkms status -m bridgewarden -k {release}")
    found = boot("3-kernel-upgraded", answers(guest))
    must_be_closed(found)
    assert guest.run("uname -r").strip() == release
    assert guest.json("bridgewarden status --json || true")["generation"] > 0


def test_the_module_cannot_be_built_and_dockerd_waits(
    guest: Any, playbooks: Any, boot: Any, tmp_path: Path
) -> None:
    said = guest.run(BREAK)
    assert "the build did not fail" not in said
    assert "installed" not in said
    found = boot(
        "4-no-module-dockerd-waits", lambda: ask(guest, "systemctl is-active bridgewarden") == "failed"
    )
    assert opened(found, {**FORBIDDEN, **PERMITTED}) == {}
    assert ask(guest, "systemctl is-active docker") != "active"
    assert "dkms autoinstall" in guest.run("journalctl -b -u bridgewarden -p err")
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0
    assert red(report) >= {"module_loaded", "dkms_installed", "boot_unit"}
    assert report["hosts"][0]["meta"]["docker_requires_policy"] is True


def test_the_main_job_mends_a_host_whose_dockerd_waits(guest: Any, playbooks: Any) -> None:
    guest.run(MEND)
    run = playbooks.harden(bridgewarden_require=True)
    assert run.code == 0, run.output
    assert guest.probe(("office", "host", 8443), ("office", "host", 8081)) == ["open"] * 4
    assert guest.probe(("stranger", "host", 8081)) == ["timeout"] * 2


def test_the_module_cannot_be_built_and_dockerd_does_not_wait(
    guest: Any, playbooks: Any, boot: Any, tmp_path: Path
) -> None:
    """The operator's own choice: everything works, nothing is filtered, and the alarm is raised."""
    run = playbooks.run(REQUIRE, bridgewarden_require=False)
    assert run.code == 0, run.output
    assert "installed" not in guest.run(BREAK)
    found = boot("5-no-module-dockerd-starts", answers(guest))
    assert set(opened(found, PERMITTED)) == set(PERMITTED)
    assert "published, IPv4" in opened(found, FORBIDDEN)
    assert ask(guest, "systemctl is-failed bridgewarden") == "failed"
    assert "dkms autoinstall" in guest.run("journalctl -b -u bridgewarden -p err")
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0
    assert red(report) >= {"module_loaded", "dkms_installed", "boot_unit"}
    assert report["hosts"][0]["meta"]["docker_requires_policy"] is False


def red(report: dict[str, Any]) -> set[str]:
    (host,) = report["hosts"]
    return {control["id"] for control in host["controls"] if control["status"] != "pass"}
