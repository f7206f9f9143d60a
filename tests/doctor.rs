//! `srgan doctor` as a process, on whatever machine this is.

use std::path::Path;
use std::process::Command;

/// The report of `srgan doctor` with nothing in the environment but these variables.
fn doctor(variables: &[(&str, &Path)]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_srgan"))
        .arg("doctor")
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{}: {text}\n{errors}", out.status);
    // Of checks, which take long.
    assert!(errors.lines().all(|notice| notice.starts_with("GPU ")), "{errors}");
    text
}

/// The line that begins with `what`.
fn line<'a>(report: &'a str, what: &str) -> &'a str {
    report.lines().find(|l| l.starts_with(what)).unwrap_or_else(|| panic!("no line {what}:\n{report}"))
}

#[test]
fn it_tells_what_is_missing_and_how_to_install_it() {
    let dir = tempfile::tempdir().unwrap();
    let report = doctor(&[("HOME", dir.path())]);
    assert!(line(&report, "CPU").contains("threads"));
    if Path::new("/proc/driver/nvidia").exists() {
        assert!(line(&report, "CUDA driver").contains("CUDA 1"), "{report}");
        // Without a compiler of kernels it cannot be made.
        let states = ["passed", "failed", "not made"];
        assert!(states.iter().any(|state| line(&report, "GPU 0 check").contains(state)), "{report}");
    } else {
        assert!(!report.contains("GPU 0"), "{report}");
        assert!(line(&report, "GPU").contains("there is no NVIDIA driver; training runs on the CPU"), "{report}");
        assert!(report.contains("https://www.nvidia.com/drivers"), "{report}");
    }
    for (name, package) in [("NVRTC", "nvidia-cuda-nvrtc"), ("cuDNN", "nvidia-cudnn"), ("NCCL", "nvidia-nccl")] {
        let missing = line(&report, name).contains("not found");
        assert_eq!(report.contains(&format!("pip install '{package}")), missing, "{name}:\n{report}");
    }
    let cache = line(&report, "Kernel cache");
    assert!(cache.contains("0 kernels") && cache.contains(".cache/srgan/kernels, writable"), "{cache}");
}

#[test]
fn damaged_libraries_and_a_cache_that_cannot_be_written_are_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
    std::fs::create_dir_all(&lib).unwrap();
    for name in ["libnvrtc.so.13", "libcudart.so.13", "libcublas.so.13", "libcudnn.so.9"] {
        std::fs::write(lib.join(name), "not a library").unwrap();
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let report = doctor(&[("VIRTUAL_ENV", dir.path()), ("SRGAN_CACHE_DIR", &file)]);
    assert!(line(&report, "Kernel cache").contains("cannot be written"), "{report}");
    // Another NVRTC may be installed in the system; the damaged file is not taken for one.
    assert!(!line(&report, "NVRTC").contains("site-packages"), "{report}");
}

#[test]
fn patch_stores_that_nobody_uses_are_named_with_the_command_that_removes_them() {
    let dir = tempfile::tempdir().unwrap();
    let stores = dir.path().join("stores");
    std::fs::create_dir(&stores).unwrap();
    for (name, days) in [("old", 100), ("new", 1)] {
        let index = stores.join(format!("{name}-0.json"));
        std::fs::write(&index, r#"{"masked_runs": 0}"#).unwrap();
        std::fs::write(index.with_extension("npy"), "pixels").unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400 + 60);
        std::fs::File::options().write(true).open(&index).unwrap().set_modified(used).unwrap();
    }
    std::fs::write(dir.path().join("c.yaml"), "Model: {in_bands: 1}").unwrap();
    let report = |overrides: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_srgan"));
        let out = command.current_dir(dir.path()).args(["doctor", "-c", "c.yaml"]).args(overrides).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    let text = report(&[]);
    assert!(line(&text, "Patch store ").contains("unused for 100 days"), "{text}");
    assert!(text.contains("rm 'stores/old-0.json' 'stores/old-0.npy'") && !text.contains("new-0"), "{text}");
    assert!(!report(&["Data.store_days=101"]).contains("Patch store"));
}
