"""The command line: `python3 -m lab COMMAND`, from the checkout's root.

Exit codes: what the guest command or the demonstration returned; 1 for a mistake that can be mended; 75
when the infrastructure failed (a machine died), which is never a test's failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lab import demo, flavour, hostpackages, image, prune, shop, ssh, targets, vm
from lab.errors import LabError, MachineDied
from lab.machine import Machine, every_machine
from lab.progress import say

os.environ["PATH"] += ":/usr/sbin:/sbin"

Handler = Callable[[argparse.Namespace], int]


def _host_packages(_args: argparse.Namespace) -> int:
    hostpackages.install()
    return 0


def _image(args: argparse.Namespace) -> int:
    hostpackages.require()
    for name in args.target:
        print(image.ensure(targets.find(name)).folder)
    return 0


def _build_root(args: argparse.Namespace) -> int:
    hostpackages.require()
    root = flavour.ensure(args.target)
    print(":".join(str(layer) for layer in root.layers), root.release)
    return 0


def _prune(_args: argparse.Namespace) -> int:
    prune.prune()
    return 0


def _up(args: argparse.Namespace) -> int:
    hostpackages.require()
    vm.up(args.name, targets.find(args.target), cold=args.cold)
    return 0


def _wait(args: argparse.Namespace) -> int:
    ssh.wait(_machine(args))
    return 0


def _down(args: argparse.Namespace) -> int:
    if not args.all and not args.name:
        raise LabError("which machine? give its name, or --all")
    for machine in every_machine() if args.all else [Machine(args.name)]:
        vm.down(machine)
    return 0


def _ssh(args: argparse.Namespace) -> int:
    machine = _machine(args)
    machine.must_live()
    return ssh.watched(machine, ssh.argv(machine, args.command)).returncode


def _ssh_config(args: argparse.Namespace) -> int:
    machine = _machine(args)
    machine.state()
    print(machine.ssh_config.read_text(encoding="utf-8"), end="")
    return 0


def _push(args: argparse.Namespace) -> int:
    return ssh.push(_machine(args), Path(args.local), args.remote)


def _shop(args: argparse.Namespace) -> int:
    shop.start(_machine(args))
    return 0


def _demo(args: argparse.Namespace) -> int:
    hostpackages.require()
    try:
        return demo.demo(args.target)
    finally:
        if args.quiet_exit:
            vm.down(Machine(demo.NAME))


def _sync(_args: argparse.Namespace) -> int:
    return demo.sync()


def _console(args: argparse.Namespace) -> int:
    machine = Machine(args.name)
    if not machine.console.exists():
        raise LabError(f"{args.name} has no console log in {machine.folder}")
    sys.stdout.write(machine.console.read_text(errors="replace"))
    return 0


def _status(args: argparse.Namespace) -> int:
    deaths: list[MachineDied] = []
    for machine in every_machine():
        if args.name and machine.name not in args.name:
            continue
        state, why = machine.state(), machine.death()
        if why:
            deaths.append(machine.died(why))
        life = f"DEAD: {why}" if why else "running"
        print(f"{machine.name:16} {state.target:18} {state.accelerator:4} port {state.port:<6} {life}")
    for death in deaths:
        say(str(death))
    return min((death.exit_code for death in deaths), default=0)


def _machine(args: argparse.Namespace) -> Machine:
    machine = Machine(args.name)
    machine.state()
    return machine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description="Real Debian Docker hosts in QEMU.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, handler: Handler, about: str, *, machine: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(handler=handler)
        if machine:
            sub.add_argument("name", help="the machine")
        return sub

    command("host-packages", _host_packages, "install what the lab needs on this computer")
    command("image", _image, "build images, or find them in the cache; prints their folders").add_argument(
        "target", nargs="+", help="a target of lab/targets.yml"
    )
    command(
        "build-root",
        _build_root,
        "print where to build modules: the directories of an overlay, top first, and the kernel's release",
    ).add_argument("target", help="a target or kernel of lab/targets.yml")
    command("prune", _prune, "remove superseded images and templates from the cache")
    up = command("up", _up, "start a machine, or reuse the running one", machine=True)
    up.add_argument("--target", default="trixie", help="a target of lab/targets.yml (default: %(default)s)")
    up.add_argument("--cold", action="store_true", help="boot, even where a template would be faster")
    command("wait", _wait, "wait until ssh and dockerd answer", machine=True)
    down = command("down", _down, "end a machine and throw its disk away")
    down.add_argument("name", nargs="?", help="the machine")
    down.add_argument("--all", action="store_true", help="every machine of this checkout")
    status = command(
        "status",
        _status,
        "list the machines; exit code 75 when one is dead, 1 when the module under test ended it",
    )
    status.add_argument("name", nargs="*", help="these machines alone")
    shell = command("ssh", _ssh, "a shell in a machine, or one command", machine=True)
    shell.add_argument("command", nargs=argparse.REMAINDER, help="what to run there")
    command("ssh-config", _ssh_config, "print a machine's ssh_config", machine=True)
    push = command("push", _push, "copy a file or folder into a machine", machine=True)
    push.add_argument("local", help="here")
    push.add_argument("remote", help="there")
    command("console", _console, "print a machine's serial console", machine=True)
    command("shop", _shop, "start the sample shop in a machine", machine=True)
    show = command("demo", _demo, "harden the lab machine and show who reaches whom before and after")
    show.add_argument("--target", default="trixie", help="a target of lab/targets.yml (default: %(default)s)")
    show.add_argument("--quiet-exit", action="store_true", help="end the machine when done")
    command("sync", _sync, "apply the playbook to the lab machine again, and compare again")
    return parser


def main() -> int:
    args = _parser().parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that half-built things are removed
    try:
        return int(args.handler(args))
    except LabError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
