#!/usr/bin/env bash
# Builds the debug kernel: ROOT LAYER VERSION CONFIG RESULT. Runs in a mount namespace of its own, in a chroot of a lab image under an
# overlay, so with that Debian's own compiler. In RESULT: vmlinuz, config, modules/ (lib/modules of a root), tree/ (to build modules
# against).
set -euo pipefail
root=$1 layer=$2 version=$3 config=$4 result=$5
series=$(cut -d. -f1,2 <<< "$version")

mkdir -p "$layer"/{upper,work} "$result"/{work,modules}
mount -t tmpfs tmpfs /mnt
mkdir /mnt/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" /mnt/root
mount -t proc proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
mount -t tmpfs tmpfs /mnt/root/tmp
mount --bind "$result" /mnt/root/mnt
cp /etc/resolv.conf /etc/hosts /mnt/root/etc/
cp "$config" /mnt/root/tmp/fragment
chroot /mnt/root /bin/sh -c "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
  linux-source-$series=$version bc bison flex libelf-dev libssl-dev xz-utils"
chroot /mnt/root /bin/sh -euc "
  tar -xf /usr/src/linux-source-$series.tar.xz -C /mnt/work
  mv /mnt/work/linux-source-$series /mnt/tree
  cd /mnt/tree
  # KASAN watches the memory of all, but accesses only from here and from modules: an emulated kernel is slow enough
  sed -i '/^ifeq (\$(CONFIG_KASAN),y)/i KASAN_SANITIZE ?= \$(if \$(filter net/% lib/% mm/% /%,\$(obj)/),,n)' scripts/Makefile.lib
  grep -q '^KASAN_SANITIZE ?=' scripts/Makefile.lib
  make -s tinyconfig
  scripts/kconfig/merge_config.sh -m .config /tmp/fragment > /dev/null
  make -s olddefconfig
  grep -v '^#' /tmp/fragment | grep -v =n > /tmp/wanted
  if absent=\$(grep -vxFf .config /tmp/wanted); then echo \"this kernel does not take: \$absent\" >&2; exit 1; fi
  make -s -j2 bzImage modules
  cp arch/x86/boot/bzImage /mnt/vmlinuz
  cp .config /mnt/config
  make -s modules_install INSTALL_MOD_PATH=/tmp/installed
  cp -r /tmp/installed/lib/modules/. /mnt/modules
  rm -f /mnt/modules/*/build /mnt/modules/*/source
  # what a module's build needs stays
  rm -rf Documentation samples
  find . -name '*.o' ! -path './scripts/*' ! -path './tools/*' -delete
  find . -name '*.a' -delete
  find drivers fs sound net kernel mm crypto security lib arch -name '*.c' -delete"
rm -rf "$result/work"
