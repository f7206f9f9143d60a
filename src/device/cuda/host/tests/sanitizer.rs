//! AddressSanitizer. It must be there when the process starts, so that these tests start themselves again with it.

use std::process::{Command, Output};

use super::*;
use crate::device::cuda::host::sanitizer_library;

/// Output of the ignored test `name` in a process with the sanitizer.
fn sanitized(name: &str) -> Output {
    let library = sanitizer_library().expect("the compiler has AddressSanitizer");
    let (_, module) = module_path!().split_once("::").expect("inside the crate");
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &format!("{module}::{name}")])
        .env("LD_PRELOAD", library)
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .unwrap()
}

fn assert_stops_at(name: &str, fault: &str, line: &str) {
    let output = sanitized(name);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains(fault) && log.contains(line), "{log}");
}

fn run_sanitized(case: &Case) -> Result<Vec<f32>> {
    case.run(HostOptions { sanitize: true, ..HostOptions::default() })
}

#[test]
fn an_access_behind_device_memory_is_seen() {
    assert_stops_at("device_overrun", "heap-buffer-overflow", "kernels/test.cu:2");
}

#[test]
#[ignore = "started by an_access_behind_device_memory_is_seen"]
fn device_overrun() {
    let _ = run_sanitized(&Case::block(32, "\na.out[threadIdx.x + 1] = 1.f;"));
}

#[test]
fn an_access_behind_shared_memory_is_seen() {
    assert_stops_at("shared_overrun", "heap-buffer-overflow", "kernels/test.cu:4");
}

#[test]
#[ignore = "started by an_access_behind_shared_memory_is_seen"]
fn shared_overrun() {
    let body = "SHARED(float, tile, [31]);\n\n__syncthreads();\ntile[threadIdx.x] = 1.f;";
    let _ = run_sanitized(&Case::block(32, body));
}

#[test]
fn a_vector_that_is_not_aligned_is_seen() {
    assert_stops_at("unaligned_vector", "misaligned address", "kernels/test.cu:2");
}

#[test]
#[ignore = "started by a_vector_that_is_not_aligned_is_seen"]
fn unaligned_vector() {
    let body = "\nreinterpret_cast<float4*>(a.out + 1)[0] = make_float4(0.f, 0.f, 0.f, 0.f);";
    let _ = run_sanitized(&Case::block(32, body));
}

/// Also after a failure that leaves fibers in the middle of their frames.
#[test]
fn kernels_without_faults_pass() {
    let output = sanitized("failures_and_barriers");
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && log.contains("1 passed"), "{log}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "started by kernels_without_faults_pass"]
fn failures_and_barriers() {
    let stuck = "
  float own[16];
  for (int i = 0; i < 16; ++i) own[i] = a.x[(threadIdx.x + i) % 32];
  if (threadIdx.x < 3) __syncwarp(); else __syncthreads();
  a.out[threadIdx.x] = own[threadIdx.x % 16];";
    let rotate = "
  SHARED(float, tile, [64]);
  float own[2] = {a.x[threadIdx.x], 0.f};
  for (int i = 0; i < 64; ++i) {
    tile[threadIdx.x] = own[i % 2];
    __syncthreads();
    own[(i + 1) % 2] = tile[(threadIdx.x + 1) % 64];
    __syncthreads();
  }
  a.out[threadIdx.x] = own[0];";
    let x = noise(64, 9);
    for _ in 0..3 {
        run_sanitized(&Case { x: &x, ..Case::block(64, stuck) }).unwrap_err();
        assert_eq!(run_sanitized(&Case { x: &x, ..Case::block(64, rotate) }).unwrap(), x);
    }
}

#[test]
fn a_process_without_the_sanitizer_is_told_how_to_get_it() {
    let error = run_sanitized(&Case::block(32, "")).unwrap_err();
    assert!(error.to_string().contains("start it with LD_PRELOAD=/"), "{error}");
}
