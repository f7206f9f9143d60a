#!/usr/bin/env bash
# Installs the library into a folder and uses it from C and Fortran as other programs would: found by pkg-config, shared and
# static, the callers compiled with AddressSanitizer. Needs a C and a Fortran compiler (gcc, gfortran) and pkg-config.
#
#   capi/test.sh [FOLDER]       # of the build: target/debug by default
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-${CARGO_TARGET_DIR:-target}/debug}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

capi/install.sh "$scratch/usr" "$build"
export PKG_CONFIG_PATH=$scratch/usr/lib/pkgconfig
read -ra flags <<<"$(pkg-config --cflags --libs srgan)"
read -ra static <<<"$(pkg-config --cflags --libs --static srgan)"
export LD_LIBRARY_PATH=$scratch/usr/lib ASAN_OPTIONS=detect_leaks=1

strict=(-Wall -Wextra -Werror -g -O1)
# What a newcomer writes: strict C, and C++ with the same header.
gcc -std=c11 "${strict[@]}" -fsanitize=address,undefined capi/tests/use.c -o "$scratch/use" "${flags[@]}" -lpthread -lm
g++ -x c++ -std=c++17 "${strict[@]}" -fsyntax-only -I include include/srgan.h
gcc -std=c11 "${strict[@]}" capi/tests/use.c -o "$scratch/use_static" "${static[@]/#-lsrgan/-l:libsrgan.a}" -lpthread -lm
gfortran -std=f2018 "${strict[@]}" -fsanitize=address -J "$scratch" capi/tests/srgan.f90 capi/tests/use.f90 \
    -o "$scratch/use_fortran" "${flags[@]}"

# The programs ask for the library by its number.
readelf -d "$scratch/use" | grep -q 'libsrgan\.so\.0' || { echo "the SONAME is not libsrgan.so.0" >&2; exit 1; }
if readelf -d "$scratch/use_static" | grep -q 'libsrgan'; then
    echo "the static program needs the shared library" >&2
    exit 1
fi
# Nothing but the interface is exported.
exported=$(nm -D --defined-only "$scratch/usr/lib/libsrgan.so" | awk '$2 == "T" { print $3 }' | grep -v '^srgan_' || true)
if [[ -n $exported ]]; then
    printf 'the library exports what is not its interface:\n%s\n' "$exported" >&2
    exit 1
fi

for program in use use_static use_fortran; do
    mkdir "$scratch/$program.run"
    "$scratch/$program" "$PWD" "$scratch/$program.run"
done
echo "the C library works from C (shared and static) and Fortran"
