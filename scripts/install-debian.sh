#!/usr/bin/env bash
# Installs Debian packages, and does not let their services start, neither now nor at the next boot.
#
# Usage: scripts/install-debian.sh PACKAGE...
set -euo pipefail

policy=/usr/sbin/policy-rc.d

fail() {
  echo "setup: $*" >&2
  exit 2
}

command -v apt-get >/dev/null || fail "needs what Debian calls $*; install it, then run make again"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "as root, run apt-get install $*; then run make again"
  as_root=(sudo)
fi

# Debian asks this program before a package starts a service; 101 means "do not".
if [ ! -e "$policy" ]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
fi

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y -o DPkg::Lock::Timeout=120 "$@"
}

echo "setup: installing the Debian packages $*"
apt install --no-install-recommends "$@" || {
  # A new machine has no package lists yet, or old ones.
  apt update
  apt install --no-install-recommends "$@"
}

# A service that has not been started now would still be at the next boot.
for package in "$@"; do
  for unit in $(dpkg -L "$package" | grep -o '[^/]*[^@]\.service$'); do
    [ ! -d /run/systemd/system ] || "${as_root[@]}" systemctl stop "$unit"
    ! command -v systemctl >/dev/null || "${as_root[@]}" systemctl disable --quiet "$unit"
  done
  for script in $(dpkg -L "$package" | grep -o '^/etc/init.d/.*$'); do
    "${as_root[@]}" update-rc.d "${script##*/}" disable
  done
done
