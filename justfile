# Recipes for developers; `just` lists them.

# List the recipes.
default:
    @just --list

# Train the demo on the chip in data/.
demo:
    cargo run --release --bin srgan-train -- -c configs/demo.yaml

# Tests that take minutes: what to run before each commit.
test *args:
    cargo test {{args}}

# Every test, the slow suites included.
test-all:
    cargo test --features slow-tests

# Style, lints and documentation, as CI checks them.
lint:
    cargo fmt --check
    cargo clippy --all-targets --features slow-tests -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

# Licences, bans and sources of dependencies (cargo install cargo-deny).
deny:
    cargo deny check licenses bans sources

# Every reference case on the CUDA device, its kernels run on the host: f32, tf32 or bf16.
golden-host precision="bf16":
    SRGAN_GOLDEN_DEVICE=host SRGAN_GOLDEN_PRECISION={{precision}} cargo test --test golden

# CPU kernels under valgrind, on the portable and AVX2 instruction sets.
memcheck:
    tests/memcheck.sh

# The book in docs/, served on a local port (pip install mkdocs-material).
book:
    mkdocs serve

# All that CI runs.
ci:
    bash .ci/run
