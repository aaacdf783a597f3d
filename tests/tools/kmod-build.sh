#!/usr/bin/env bash
# Builds the module with each target's own compiler against its own kernel's headers, with W=1 and sparse. Any warning fails,
# and so does a global symbol of ours.
# A target is one of lab/targets.yml, or a kernel there. Works in a chroot of its image under an overlay, so that the image itself is never written to. The module is
# left in build/kmod/TARGET. --source builds another module than ours: its folder, from here, and its name. --tree builds against
# that kernel's tree in place of the target's headers, into build/kmod/debug.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bridgewarden/kmod-build
mkdir -p "$cache"

source=$top/kmod module=bridgewarden tree=
if [ "${1:-}" = --source ]; then
  source=$(realpath "$2") module=$3
  shift 3
fi
if [ "${1:-}" = --tree ]; then
  tree=$2
  shift 2
fi

# The module is one object: whatever its files share is static there (kmod/api.h). Trace events alone are global.
global_symbols() {
  nm "$1" | sed -n 's/^[0-9a-f]* [A-TV-Z] \(bw_.*\)/error: \1 is global: BW_API is missing/p'
}

build() {  # in a mount namespace of its own: ROOT RELEASE LAYER WORK RESULT
  local root=$1 release=$2 layer=$3 work=$4 result=$5
  mount -t tmpfs tmpfs "$work"
  mkdir -p "$layer"/{upper,work} "$work"/{root,top,scratch}
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$work/root"
  mount -t proc proc "$work/root/proc"
  mount --bind /dev "$work/root/dev"
  if ! [ -x "$work/root/usr/bin/sparse" ]; then
    cp /etc/resolv.conf /etc/hosts "$work/root/etc/"
    chroot "$work/root" sh -c 'apt-get -qq -o Acquire::Check-Valid-Until=false update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends sparse' >/dev/null
  fi
  mount -t tmpfs tmpfs "$work/root/tmp"  # another checkout may be building in this layer
  cp -r "$source" "$work/root/tmp/kmod"
  kdir=lib/modules/$release/build
  if [ -n "$tree" ]; then
    kdir=mnt
    mount --bind "$tree" "$work/root/mnt"
  fi
  # shellcheck disable=SC2016
  chroot "$work/root" env "module=$module" "kdir=/$kdir" sh -c '
    make -C "$kdir" M=/tmp/kmod clean >/dev/null
    make -C "$kdir" M=/tmp/kmod W=1 C=2 modules 2>&1 && modinfo -F vermagic "/tmp/kmod/$module.ko"'
  global_symbols "$work/root/tmp/kmod/$module.ko"
  mkdir -p "$result" && cp "$work/root/tmp/kmod/$module.ko" "$result/"
}

if [ "${1:-}" = --inside ]; then
  shift
  build "$@"
  exit
fi

status=0
for target in "$@"; do
  found=$(python -m lab build-root "$target")
  root=${found% *} release=${found##* }
  layer=$cache/$(printf '%s' "$root" | sha256sum | cut -c1-12)
  work=$(mktemp -d)
  log=$work.log result=$top/build/kmod/$target
  [ -z "$tree" ] || result=$top/build/kmod/debug
  echo "== $target"
  if ! unshare --mount "$0" --source "$source" "$module" ${tree:+--tree "$tree"} \
      --inside "$root" "$release" "$layer" "$work" "$result" > "$log" 2>&1; then
    tail -40 "$log"
    echo "FAILED: the module does not build on $target"
    status=1
  elif grep -nE '(warning|error):' "$log"; then
    echo "FAILED: warnings on $target"
    status=1
  else
    tail -1 "$log"
  fi
  rm -rf "$work" "$log"
done
exit $status
