#!/bin/sh
# Runs once, inside the new image's root (chroot): turns an installed Debian into the lab's Docker host.
# Arguments: the host's name.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

echo "$1" > /etc/hostname
printf '127.0.0.1 localhost %s\n::1 localhost\n' "$1" > /etc/hosts
rm -f /etc/resolv.conf
echo 'nameserver 10.0.2.3' > /etc/resolv.conf
: > /etc/fstab # the initrd mounts the one disk
echo 'LANG=C.UTF-8' > /etc/default/locale
: > /etc/machine-id # each machine makes its own
chmod 700 /root/.ssh
chmod 600 /root/.ssh/authorized_keys
usermod -p '*' root

systemctl enable --quiet systemd-networkd bw-lab-net
# housekeeping that would take the emulated processor and the dpkg lock at moments of its own choice
systemctl mask --quiet systemd-networkd-wait-online.service e2scrub_reap.service \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer man-db.timer dpkg-db-backup.timer
# the tests start their own
for unit in firewalld suricata ulogd2; do
    [ ! -e /lib/systemd/system/$unit.service ] || systemctl disable --quiet $unit.service
done
# loaders of modules that no lab machine has a use for
systemctl mask --quiet modprobe@drm.service modprobe@efi_pstore.service modprobe@configfs.service

# AppArmor is on, as on any Debian; but the hundred profiles of desktop programs that trixie ships take an emulated
# processor a quarter of a minute at every boot
find /etc/apparmor.d -maxdepth 1 -type f ! -name runc ! -name crun ! -name lsb_release -delete

# the shop's image: the server, one that says a thing and is gone, and busybox for a look around
shop=$(mktemp -d)
mkdir -p "$shop/bin" "$shop/tmp" "$shop/etc"
for program in bw-serve bw-oneshot; do
    gcc -static -O2 -Wall -Wextra -o "$shop/bin/$program" "/usr/local/src/$program.c"
done
cp "$(command -v busybox)" "$shop/bin/busybox"
for applet in sh ip nc ping cat ls ps sleep wget; do ln -s busybox "$shop/bin/$applet"; done
tar -C "$shop" -cf /usr/local/lib/bw-shop.tar .
rm -rf "$shop"
