"""What images are made from: targets, mirrors, cache keys, and nothing half-built."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import flavour, image, mirror, paths, qemu, targets
from lab.errors import LabError
from lab.mirror import Mirror

LISTING = """bookworm main http://mirror.example/debian/
bookworm-updates main http://mirror.example/debian/
bookworm-security main http://mirror.example/debian-security/
nodistro main https://other.example/tools/
"""


def test_every_target_has_kernel_headers_docker_and_a_main_archive() -> None:
    for target in targets.all_targets().values():
        assert "main" in target.archives
        assert {"linux-image-cloud-amd64", "linux-headers-cloud-amd64", "docker.io"} <= set(target.packages)
        assert not target.pin or "backports" in target.archives


def test_an_unknown_key_of_a_target_is_an_error() -> None:
    with pytest.raises(LabError, match=r"target x has unknown keys \['bases'\]"):
        targets.parse("common: []\ntargets: {x: {base: trixie, archives: [main], bases: y}}")


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"no target 'woody'.*bullseye"):
        targets.find("woody")


def test_the_mirror_comes_from_apt() -> None:
    assert mirror.from_apt(LISTING) == Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


def test_without_a_debian_archive_the_mend_is_named() -> None:
    with pytest.raises(LabError, match="BRIDGEWARDEN_LAB_MIRROR"):
        mirror.from_apt("noble main http://mirror.example/ubuntu/\n")


def test_pockets_become_source_lines() -> None:
    lines = mirror.sources(targets.find("trixie-backports"), Mirror("M", "S"))
    assert lines == [
        "deb M trixie main",
        "deb M trixie-updates main",
        "deb S trixie-security main",
        "deb M trixie-backports main",
    ]
    assert mirror.sources(targets.find("bullseye"), Mirror("M", "S")) == [
        "deb [check-valid-until=no] M bullseye main"
    ]


def test_a_key_depends_on_content_and_mode_of_files(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text("a")
    first = image.digest({"x": 1}, file)
    assert first == image.digest({"x": 1}, file)
    file.chmod(0o755)
    second = image.digest({"x": 1}, file)
    file.write_text("b")
    assert len({first, second, image.digest({"x": 1}, file), image.digest({"x": 2}, file)}) == 4


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert image.digest("ab", "c") != image.digest("a", "bc")


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with paths.published(tmp_path / "image") as scratch:
            (scratch / "disk").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_build_appears_whole(tmp_path: Path) -> None:
    with paths.published(tmp_path / "image") as scratch:
        (scratch / "disk").write_text("whole")
        assert not (tmp_path / "image").exists()
    assert (tmp_path / "image/disk").read_text() == "whole"


def test_the_forwarded_port_is_read_from_qemu() -> None:
    table = (
        "Hub -1 (net):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
        "  TCP[ESTABLISHED]   17  127.0.0.1 50000       10.0.2.15    22     0     0\n"
        "  TCP[HOST_FORWARD]  12       127.0.0.1 41234       10.0.2.15    22     0     0\n"
    )
    assert qemu.forwarded_port(table) == 41234
    with pytest.raises(LabError, match="forwards no port"):
        qemu.forwarded_port("nothing")


def test_kernels_are_of_targets_that_exist_and_no_hosts() -> None:
    kernels = targets.all_kernels()
    assert kernels["trixie-rt"].packages == ("linux-image-rt-amd64", "linux-headers-rt-amd64")
    assert {kernel.target for kernel in kernels.values()} <= set(targets.all_targets())
    with pytest.raises(LabError, match="trixie-rt is a kernel without a Docker host"):
        targets.find("trixie-rt")


@pytest.mark.parametrize("entry", ["x-rt: {target: woody, flavour: rt}", "x: {target: x, flavour: rt}"])
def test_a_kernel_needs_a_target_and_a_name_of_its_own(entry: str) -> None:
    text = f"common: []\ntargets: {{x: {{base: x, archives: [main]}}}}\nkernels:\n  {entry}"
    with pytest.raises(LabError, match="a name of its own and a target that exists"):
        targets.parse_kernels(text)


def test_a_kernel_is_found_in_its_layer_alone(tmp_path: Path) -> None:
    for folder in (
        "layer/usr/lib/modules/7-rt",
        "layer/boot",
        "root/usr/lib/modules/7-cloud",
        "old/lib/modules/5-cloud",
    ):
        (tmp_path / folder).mkdir(parents=True)
    image_alone = flavour.Root(image.Image("key", tmp_path), (tmp_path / "old",))
    assert image_alone.modules == tmp_path / "old/lib/modules/5-cloud"
    root = flavour.Root(image.Image("key", tmp_path), (tmp_path / "layer", tmp_path / "root"))
    assert root.release == "7-rt"
    assert root.modules == tmp_path / "layer/usr/lib/modules/7-rt"
    assert (root.kernel, root.config) == (
        tmp_path / "layer/boot/vmlinuz-7-rt",
        tmp_path / "layer/boot/config-7-rt",
    )
