#!/usr/bin/env bash
# The unit tests of the CPU kernels under valgrind, which reports every access to memory that was not allocated, that was
# freed, or whose content was never written before it decides something.
#
# Instruction sets: the portable one and AVX2; valgrind has no AVX-512 and hides it from the tests.
# Shapes: SRGAN_MEMCHECK makes the tests of the convolutions take the first of the chosen shapes of each kind, and 10
# instead of 60 random ones, on 1 and 2 threads; all of them would take an hour. `cargo test` runs all, without valgrind.
# Reach: operands, weights, results and scratch memory of the convolutions and the matrix product are allocations of
# their own, so one float outside of them is found. The ops run through a device, whose tensors lie side by side in one
# mapping: there only an access outside of the mapping is.
# Takes about 4 minutes. Needs the package valgrind (3.19 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    echo "memcheck: valgrind is missing: install the package valgrind" >&2
    exit 1
fi
tests=(
    device::cpu::
    ops::conv2d::cpu::
    ops::pixel_shuffle::
    ops::tests::cpu_code_computes_the_references
)

messages=$(cargo test --lib --no-run --features slow-tests --message-format=json-render-diagnostics)
binary=$(grep -o '"executable":"[^"]*"' <<<"$messages" | tail -n 1 | cut -d '"' -f 4 || true)
if [[ ! -x $binary ]]; then
    echo "memcheck: cargo named no test binary of the library" >&2
    exit 1
fi
for filter in "${tests[@]}"; do
    listed=$("$binary" "$filter" --list)
    if [[ $listed != *": test"* ]]; then
        echo "memcheck: there is no test $filter" >&2
        exit 1
    fi
done

sets=portable
if grep -qw avx2 /proc/cpuinfo; then sets="portable, AVX2"; fi
echo "memcheck: $(valgrind --version), instruction sets $sets, tests ${tests[*]}"
export SRGAN_MEMCHECK=1
status=0
valgrind --error-exitcode=9 -q --fair-sched=yes "$binary" "${tests[@]}" --test-threads 1 || status=$?
case $status in
    0) echo "memcheck: no error" ;;
    9) echo "memcheck: valgrind found errors, see above" >&2 ;;
    *) echo "memcheck: the tests failed (status $status)" >&2 ;;
esac
exit "$status"
