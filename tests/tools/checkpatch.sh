#!/usr/bin/env bash
# Runs the kernel's own scripts/checkpatch.pl over kmod/, taken from Debian's linux-source package and kept in the cache.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bridgewarden/checkpatch
if [ ! -x "$cache/checkpatch.pl" ]; then
  echo "fetching linux-source for scripts/checkpatch.pl (once)"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  (cd "$work" && { apt-get -qq download linux-source-6.1 2>/dev/null || { apt-get -qq update && apt-get -qq download linux-source-6.1; }; })
  dpkg-deb --fsys-tarfile "$work"/linux-source-*.deb | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' \
    | tar -xJ -C "$work" --strip-components=2 --wildcards '*/scripts/checkpatch.pl' '*/scripts/const_structs.checkpatch' '*/scripts/spelling.txt'
  mkdir -p "$cache"
  cp "$work"/const_structs.checkpatch "$work"/spelling.txt "$work"/checkpatch.pl "$cache"/
fi
cd "$top"
mapfile -t files < <(git ls-files 'kmod/*.c' 'kmod/*.h')
[ ${#files[@]} -gt 0 ] || { echo "no kernel sources found"; exit 1; }
# The user-space twin of kernel types in kmod/tests/ cannot follow rules made for kernel headers.
mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -v '^kmod/tests/')
check() {
  perl "$cache/checkpatch.pl" --no-tree --terse --file --no-summary --strict --max-line-length=100 \
    --ignore "FILE_PATH_CHANGES,SPDX_LICENSE_TAG,SPLIT_STRING,BIT_MACRO$1" "${@:2}"
}
# The kernel writes its own trace events in lines that end with a parenthesis.
mapfile -t plain < <(printf '%s\n' "${files[@]}" | grep -v 'trace_event\.h$')
check '' "${plain[@]}"
check ,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT kmod/trace_event.h
echo "checkpatch: ${#files[@]} files"
