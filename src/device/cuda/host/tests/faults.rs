//! Kernels that are wrong, and launches that are.

use super::*;

/// Whether one order of threads gives NaN or another result than the first.
fn is_found(case: &Case) -> bool {
    let results = ORDERS.map(|order| case.run(ordered(order)).unwrap());
    results.iter().flatten().any(|v| v.is_nan()) || results.iter().any(|r| r != &results[0])
}

/// Asserts that a kernel's fault shows without the statement for which `{}` stands, and that it has none with it.
fn assert_needed(statement: &str, threads: u32, body: &str) {
    assert!(is_found(&Case::block(threads, &body.replace("{}", ""))), "{body}");
    assert!(!is_found(&Case::block(threads, &body.replace("{}", statement))), "{body}");
}

#[test]
fn a_missing_barrier_is_found() {
    for index in ["threadIdx.x + 1", "threadIdx.x + 63", "63 - threadIdx.x"] {
        let body = "
  SHARED(float, tile, [64]);
  tile[threadIdx.x] = threadIdx.x;
  {}
  a.out[threadIdx.x] = tile[(INDEX) % 64];";
        assert_needed("__syncthreads();", 64, &body.replace("INDEX", index));
    }
}

#[test]
fn a_missing_barrier_before_memory_is_written_again_is_found() {
    let body = "
  SHARED(float, tile, [64]);
  float sum = 0.f;
  for (int i = 0; i < 3; ++i) {
    tile[threadIdx.x] = 100 * i + threadIdx.x;
    __syncthreads();
    sum += tile[(threadIdx.x + 1) % 64];
    {}
  }
  a.out[threadIdx.x] = sum;";
    assert_needed("__syncthreads();", 64, body);
}

#[test]
fn a_missing_warp_barrier_is_found() {
    let body = "
  SHARED(float, tile, [32]);
  tile[threadIdx.x] = threadIdx.x;
  {}
  a.out[threadIdx.x] = tile[threadIdx.x ^ 1];";
    assert_needed("__syncwarp();", 32, body);
}

#[test]
fn a_missing_wait_for_copies_is_found() {
    let body = "
  SHARED(float4, tile, [32]);
  copy_async<16>(&tile[threadIdx.x], a.x + 4 * threadIdx.x);
  copy_async_commit();
  {}
  __syncthreads();
  a.out[threadIdx.x] = tile[31 - threadIdx.x].w;";
    let x = noise(128, 8);
    let run = |wait: &str| {
        let body = body.replace("{}", wait);
        Case { x: &x, ..Case::block(32, &body) }.run(HostOptions::default()).unwrap()
    };
    let want: Vec<f32> = x.chunks_exact(4).rev().map(|four| four[3]).collect();
    assert_eq!(run("copy_async_wait<0>();"), want);
    assert!(run("").iter().all(|v| v.is_nan()));
}

#[test]
fn shared_memory_of_another_block_is_not_seen() {
    let body = "
  SHARED(float, value);
  if (blockIdx.x == 0) value = 1.f;
  __syncthreads();
  a.out[blockIdx.x * blockDim.x + threadIdx.x] = value;";
    let case = Case { grid: [2, 1, 1], out: 64, ..Case::block(32, body) };
    let got = case.run(HostOptions { os_threads: 1, ..HostOptions::default() }).unwrap();
    assert_eq!(got[..32], [1.0; 32]);
    assert!(got[32..].iter().all(|v| v.is_nan()));
}

#[test]
fn a_barrier_in_a_divergent_branch_is_reported_with_its_lines() {
    let message = Case::block(64, "if (threadIdx.x < 32) {\n__syncthreads();\n} else {\n__syncthreads();\n}").failure();
    assert!(message.contains("different lines"), "{message}");
    assert!(message.contains("thread (0, 0, 0) at kernels/test.cu:2"), "{message}");
    assert!(message.contains("thread (32, 0, 0) at kernels/test.cu:4"), "{message}");
}

#[test]
fn threads_that_wait_for_each_other_are_reported() {
    let body = "if (threadIdx.x >= 40) return;\nif (threadIdx.x < 3) {\n__syncthreads();\n} else if (threadIdx.x < 32) {\n\
                __syncwarp();\n}";
    let message = Case::block(64, body).failure();
    assert!(message.contains("no thread can go on"), "{message}");
    assert!(message.contains("3 wait in __syncthreads at kernels/test.cu:3"), "{message}");
    assert!(message.contains("29 wait in __syncwarp at kernels/test.cu:5"), "{message}");
    assert!(message.contains("32 have returned"), "{message}");
}

#[test]
fn wrong_masks_are_reported() {
    for (body, want) in [
        (
            "if (threadIdx.x < 16)\na.out[0] = __shfl_sync(0xffffu, 1.f, 20);",
            "__shfl_sync at kernels/test.cu:2: lane 0 reads lane 20, which is outside of the mask or has returned",
        ),
        (
            "if (threadIdx.x == 5) return;\na.out[0] = __shfl_xor_sync(0xffffffffu, 1.f, 1);",
            "__shfl_xor_sync at kernels/test.cu:2: lane 4 reads lane 5",
        ),
        ("if (threadIdx.x < 8)\n__syncwarp(0xffffff00u);", "__syncwarp at kernels/test.cu:2: lane"),
        (
            "if (threadIdx.x < 16)\n__syncwarp();\nelse\na.out[0] = __any_sync(0xffffffffu, 1);",
            "lanes of one mask that call different functions",
        ),
        (
            "if (threadIdx.x == 5) return;\nfloat c[4] = {};\nunsigned a4[4] = {}, b[2] = {};\n\
             mma_m16n8k8_tf32(c, a4, b);",
            "mma_m16n8k8_tf32 at kernels/test.cu:4: a tensor-core product needs all 32 lanes",
        ),
        (
            "SHARED(float4, tile);\ncopy_async<16>(&tile, a.x + 2);",
            "copy_async at kernels/test.cu:2: an address that is not a multiple of 16",
        ),
        (
            "SHARED(float4, tile);\ncopy_async<8>(&tile, a.x + 1);",
            "copy_async at kernels/test.cu:2: an address that is not a multiple of 8",
        ),
    ] {
        let message = Case { x: &[0.0; 8], ..Case::block(32, body) }.failure();
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn the_first_failing_block_is_reported_and_the_driver_lives_on() {
    let stuck = "if (blockIdx.x >= 5 && threadIdx.x < 3) __syncwarp();\nelse __syncthreads();";
    let mut driver = HostDriver::new(&cache(), HostOptions { os_threads: 4, ..HostOptions::default() }).unwrap();
    let modules = [module(32, stuck), module(32, "a.out[threadIdx.x] = 2.f;")];
    let functions = driver.compile(&modules, &mut |_| ()).unwrap();
    let case = Case { grid: [64, 1, 1], ..Case::block(32, stuck) };
    for _ in 0..10 {
        let message = case.run_on(&mut driver, functions[0][0]).unwrap_err().to_string();
        assert!(message.contains("block (5, 0, 0)"), "{message}");
        assert_eq!(case.run_on(&mut driver, functions[1][0]).unwrap(), [2.0; 32]);
    }
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_an_error() {
    let mut driver = HostDriver::new(&cache(), HostOptions::default()).unwrap();
    let function = driver.compile(&[module(64, "a.out[0] = 1.f;")], &mut |_| ()).unwrap()[0][0];
    let geometry = Geometry { grid: [1; 3], block: [64, 1, 1], shared_bytes: 0 };
    let launch = Launch { function, geometry, args: vec![0; 32].into(), path: "net.layer".into() };
    let with = |geometry| Launch { geometry, ..launch.clone() };
    for (launch, want) in [
        (Launch { args: vec![0; 24].into(), ..launch.clone() }, "24 bytes of arguments for a struct of 32"),
        (Launch { function: FunctionId(99), ..launch.clone() }, "net.layer: a kernel of another driver"),
        (with(Geometry { block: [65, 1, 1], ..geometry }), "65 threads a block, declared for 64"),
        (with(Geometry { block: [0, 1, 1], ..geometry }), "a block of a size that no GPU has"),
        (with(Geometry { grid: [1, 70_000, 1], ..geometry }), "a grid of a size that no GPU has"),
        (with(Geometry { shared_bytes: 300_000, ..geometry }), "more dynamic shared memory"),
    ] {
        // SAFETY: refused before the kernel runs.
        let message = unsafe { driver.launch(&launch) }.unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn a_kernel_that_does_not_compile_is_an_error_with_its_line() {
    let mut driver = HostDriver::new(&cache(), HostOptions::default()).unwrap();
    let mut compile = |module| driver.compile(&[module], &mut |_| ()).unwrap_err().to_string();
    let message = compile(module(32, "\na.out[0] = no_such_function(1.f);"));
    assert!(message.contains("test does not compile"), "{message}");
    assert!(message.contains("kernels/test.cu:2:"), "{message}");
    let kernels = vec!["other_kernel".to_owned()];
    let message = compile(ModuleSource { kernels, ..module(32, "a.out[0] = 1.f;") });
    assert!(message.contains("module test: no ENTRY for other_kernel"), "{message}");
}
