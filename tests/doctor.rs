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
fn it_talks_of_gpus_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let report = doctor(&[("HOME", dir.path())]);
    assert!(line(&report, "CPU").contains("threads"));
    if Path::new("/proc/driver/nvidia").exists() {
        assert!(line(&report, "CUDA driver").contains("CUDA 1"), "{report}");
        // Without a compiler of kernels it cannot be made.
        let states = ["passed", "failed", "not made"];
        assert!(states.iter().any(|state| line(&report, "GPU 0 check").contains(state)), "{report}");
    } else if line(&report, "GPU").contains("there is no NVIDIA GPU here; training runs on the CPU") {
        for word in ["CUDA", "NVRTC", "cuDNN", "NCCL", "install", "Kernel cache"] {
            assert!(!report.contains(word), "{word}:\n{report}");
        }
    } else {
        assert!(line(&report, "GPU").contains("there is no NVIDIA driver; training runs on the CPU"), "{report}");
        assert!(report.contains("https://www.nvidia.com/drivers"), "{report}");
    }
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
