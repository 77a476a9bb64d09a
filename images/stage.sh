#!/bin/bash
# stage.sh BINARIES FOLDER: lays out in FOLDER/image/NAME the whole file system of each image: the stripped binary, the shared libraries that it is linked
# to, in their places, CA certificates, and for the producer the example's data. Used by build.sh and, inside Docker, by the Dockerfile.
# DNS needs no further library: since glibc 2.34 the resolver is in libc itself.
set -euo pipefail
cd "$(dirname "$0")/.."
binaries=$1 folder=$2
for name in operator worker producer dashboard; do
  binary=$binaries/tapeline-$name root=$folder/image/$name
  mkdir -p "$root/etc/ssl/certs"
  strip -o "$root/tapeline-$name" "$binary"
  # "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)" and "/lib64/ld-linux-x86-64.so.2 (0x..)"; not the kernel's vdso, which has no path
  ldd "$binary" 2>/dev/null | grep -oE '/[^ ]+' | sort -u | while read -r library; do install -D -m 0755 "$library" "$root$library"; done
  install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
done
install -D -m 0644 examples/data/stocks.csv.gz "$folder/image/producer/data/stocks.csv.gz"
# Equal content gives an equal image, whenever it was compiled.
find "$folder" -exec touch -h -d @0 {} +
