#!/bin/bash
# Fills rootfs/ with busybox from Debian's busybox-static and with the page of ../cats. Needs no root.
# The binary is another project's, so it is fetched rather than committed.
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! (cd "$scratch" && apt-get -qq -o APT::Sandbox::User=root download busybox-static); then
  echo "error: cannot fetch busybox-static" >&2
  echo "hint: run apt-get update first; this needs Debian or one of its children" >&2
  exit 1
fi
dpkg -x "$scratch"/*.deb "$scratch/root"
busybox=$(find "$scratch/root" -type f -path '*/bin/busybox')

rm -rf rootfs
mkdir -p rootfs/bin rootfs/etc rootfs/srv rootfs/tmp
install -m 755 "$busybox" rootfs/bin/busybox
ln -s busybox rootfs/bin/sh # what `margay exec` looks for
for applet in cat echo env httpd id ls ps sleep wget; do ln -s busybox "rootfs/bin/$applet"; done
echo 'root:x:0:0:root:/:/bin/sh' > rootfs/etc/passwd
echo '.svg:image/svg+xml' > rootfs/etc/httpd.conf # busybox knows the other types
cp -r ../cats/www rootfs/srv/www
rootfs/bin/busybox 2>&1 | sed -n '1s/ multi-call.*//p' >&2
