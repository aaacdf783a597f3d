"""The life of a lab machine: a Docker host that runs the sample shop.

Where guests are emulated, a machine is restored from a template (seconds); with KVM, or on request, it boots.
"""

from __future__ import annotations

from lab import accelerator, image, qemu, shop, ssh, template
from lab.errors import LabError
from lab.machine import Machine
from lab.progress import say
from lab.targets import Target


def up(name: str, target: Target, cold: bool = False) -> Machine:
    """Start a machine, or reuse the running one; return when ssh and dockerd answer and the shop is open."""
    machine = Machine(name)
    if machine.exists() and not machine.death():
        _must_match(machine, target)
        say(f"{name}: already up ({target.name})")
        ssh.wait(machine)
        return machine
    base = image.ensure(target)
    accel = accelerator.choose(base)
    try:
        if cold or "kvm" in accel:
            _boot(machine, target, base, accel)
        else:
            template.restore(machine, target, base, accel)
    except (KeyboardInterrupt, SystemExit):
        qemu.end(machine)  # an interrupted start leaves no half machine to be found and reused
        raise
    say(f"{name}: {target.name} is up, ssh port {machine.state().port}")
    return machine


def down(machine: Machine) -> None:
    """End a machine that `up` started and throw its disk away; its console log stays."""
    running = machine.exists()
    qemu.end(machine)
    say(f"{machine.name}: {'down' if running else 'was not up'}")


def _boot(machine: Machine, target: Target, base: image.Image, accel: list[str]) -> None:
    qemu.prepare(machine)
    qemu.make_overlay(base.disk, "raw", machine.disk)
    qemu.start(machine, target.name, base, accel, machine.disk, [])
    ssh.wait(machine)
    ssh.run(machine, ssh.own_hosts_entry(machine))
    shop.start(machine)


def _must_match(machine: Machine, target: Target) -> None:
    state = machine.state()
    if state.target != target.name:
        raise LabError(
            f"{machine.name} is up as {state.target}; end it first: python3 -m lab down {machine.name}"
        )
    if state.image != image.locate(target)[1].key:
        say(f"{machine.name}: note: its image is older than this checkout's recipe; down and up renew it")
