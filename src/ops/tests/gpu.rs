//! The same kernels on a GPU: against the references, and under NVIDIA's compute-sanitizer. Without a GPU these tests say
//! that they are skipped; `SRGAN_REQUIRE_CUDA` turns the skip into a failure.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use super::cuda::{on_host, random_cases};
use super::{all_cases, assert_close, run_on};
use crate::device::cuda::host::HostOptions;
use crate::device::cuda::{GpuDriver, GpuOptions};
use crate::ops::Case;
use crate::runtime::{Cuda, Device};

fn say(text: &str) {
    // `eprintln` is not shown of a test that passes.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}

/// The GPU's device for `test`.
fn gpu(test: &str) -> Option<Cuda> {
    match GpuDriver::new(GpuOptions::new(&|name| std::env::var_os(name))) {
        Ok(driver) => Some(Cuda::new(Box::new(driver))),
        Err(e) => {
            assert!(std::env::var_os("SRGAN_REQUIRE_CUDA").is_none(), "{e}");
            say(&format!("{test}: SKIPPED: {}", e.to_string().lines().next().unwrap().trim_end_matches(':')));
            None
        }
    }
}

/// All cases on one device, which keeps their plans.
fn check(device: &mut dyn Device, cases: &[Case]) {
    for (case, strided) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
        let (got, want) = run_on(device, case, strided);
        assert_close(&got, &want, 3e-6, &format!("{:?} of {:?} strided {strided}", case.op, case.inputs));
    }
}

#[test]
fn kernels_compute_the_references_on_one_device() {
    check(&mut on_host(HostOptions::default()), &all_cases());
}

#[test]
fn kernels_compute_the_references_on_a_gpu() {
    if let Some(mut device) = gpu("kernels_compute_the_references_on_a_gpu") {
        check(&mut device, &all_cases());
        check(&mut device, &random_cases(6));
    }
}

/// The test below, in processes that compute-sanitizer watches.
#[test]
fn kernels_pass_compute_sanitizer() {
    const NAME: &str = "kernels_pass_compute_sanitizer";
    if gpu(NAME).is_none() {
        return;
    }
    let Some(tool) = compute_sanitizer() else {
        say(&format!("{NAME}: SKIPPED: there is no compute-sanitizer in CUDA_HOME, /usr/local/cuda or PATH"));
        return;
    };
    let (_, module) = module_path!().split_once("::").expect("inside the crate");
    for kind in ["memcheck", "racecheck"] {
        let output = Command::new(&tool)
            .args(["--tool", kind, "--error-exitcode", "1"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", &format!("{module}::under_compute_sanitizer")])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && log.contains("1 passed");
        assert!(passed, "{kind}: {log}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "started by kernels_pass_compute_sanitizer"]
fn under_compute_sanitizer() {
    let mut device = gpu("under_compute_sanitizer").expect("a GPU");
    check(&mut device, &all_cases());
}

fn compute_sanitizer() -> Option<PathBuf> {
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain([PathBuf::from("/usr/local/cuda/bin")]).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("compute-sanitizer")).find(|tool| tool.is_file())
}
