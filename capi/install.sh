#!/usr/bin/env bash
# Installs what `cargo build --release -p srgan-capi` has made: the header, the libraries and the pkg-config file.
#
#   capi/install.sh PREFIX [FOLDER]      # FOLDER of the build, target/release by default; DESTDIR is put before PREFIX
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: capi/install.sh PREFIX [FOLDER]" >&2
    exit 2
fi
prefix=$1
build=${2:-${CARGO_TARGET_DIR:-$root/target}/release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/capi/Cargo.toml" | head -n 1)
abi=$(sed -n 's/^#define SRGAN_ABI_VERSION \([0-9]*\)/\1/p' "$root/include/srgan.h")
to=${DESTDIR:-}$prefix

if [[ ! -f $build/libsrgan.so ]]; then
    echo "capi/install.sh: $build/libsrgan.so is not there: cargo build --release -p srgan-capi" >&2
    exit 1
fi
install -d "$to/include" "$to/lib/pkgconfig"
install -m 644 "$root/include/srgan.h" "$to/include/srgan.h"
install -m 755 "$build/libsrgan.so" "$to/lib/libsrgan.so.$version"
ln -sf "libsrgan.so.$version" "$to/lib/libsrgan.so.$abi"
ln -sf "libsrgan.so.$abi" "$to/lib/libsrgan.so"
install -m 644 "$build/libsrgan.a" "$to/lib/libsrgan.a"
sed -e "s|@prefix@|$prefix|" -e "s|@version@|$version|" "$root/capi/srgan.pc.in" >"$to/lib/pkgconfig/srgan.pc"
