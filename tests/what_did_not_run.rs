//! The last lines of `cargo test`: which suites it left out, and how to run them.

fn main() {
    if cfg!(feature = "slow-tests") {
        println!("the slow suites ran too");
        return;
    }
    println!(
        "\nleft out, because they take minutes (CI runs them all):
  cargo test --features slow-tests   tensor-core kernels in every order of threads and under AddressSanitizer,
                                     the self-check's training on the kernels, random extents of all kernels,
                                     the choice among kernels and libraries,
                                     peak memory against what --dry-run promises
  SRGAN_MUTATIONS=100000 cargo test --test mutations   a long campaign against the parsers
  just golden-host bf16              reference cases on the CUDA device run on the host; also f32, tf32
  tests/memcheck.sh                  CPU kernels under valgrind
or everything at once: bash .ci/run"
    );
}
