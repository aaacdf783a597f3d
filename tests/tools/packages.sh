#!/bin/sh
# Installs the Debian packages named in the given list that are missing. Never upgrades or removes anything.
set -eu
missing=
# shellcheck disable=SC2013  # one word a line, comments cut
for package in $(sed 's/#.*//' "$1"); do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "These Debian packages are missing:$missing" >&2
  echo "Install them as root: apt-get install --no-install-recommends$missing" >&2
  exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
