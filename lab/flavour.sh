#!/usr/bin/env bash
# Installs packages into a layer on a lab image: ROOT RESULT PACKAGE... Runs in a mount namespace of its own, in a chroot of the image under an
# overlay whose upper directory, RESULT/layer, is the outcome.
set -euo pipefail
root=$1 result=$2
shift 2

mkdir -p "$result"/{layer,work}
mount -t tmpfs tmpfs /mnt
mkdir /mnt/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$result/layer,workdir=$result/work" /mnt/root
mount -t proc proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
mount -t tmpfs tmpfs /mnt/root/tmp
mount --bind /etc/resolv.conf /mnt/root/etc/resolv.conf
mount --bind /etc/hosts /mnt/root/etc/hosts
mount -t tmpfs tmpfs /mnt/root/var/lib/apt/lists
mount -t tmpfs tmpfs /mnt/root/var/cache/apt
# No initrd is made: the machine's root is packed by lab/ramroot.py.
chroot /mnt/root env INITRD=No DEBIAN_FRONTEND=noninteractive sh -euc '
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "$@"' sh "$@"
umount -R /mnt/root
rm -rf "$result/work"
