//! A GPU is checked before it is trusted: by a process of its own, whose result is kept. Scripts stand in for that
//! process; and the binaries themselves, on a GPU or on the stand-in, which runs none of their kernels.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use srgan::device::cuda::compile::cache::Cache;
use srgan::device::cuda::driver::Driver;
use srgan::device::cuda::{FoundGpu, GpuDriver, GpuOptions};
use srgan::train::self_check::{Report, Trust, Verdict, check_gpu};

use super::open;

/// The command that tells a verdict, in JSON, on the GPU that is here.
fn tell(verdict: &str) -> String {
    let here = FoundGpu::new(GpuOptions::new(&|name| std::env::var_os(name))).unwrap().checked_on();
    tell_of(&here, verdict)
}

fn tell_of(checked_on: &str, verdict: &str) -> String {
    format!("echo 'srgan self-check: {{\"ended\": {{\"checked_on\": \"{checked_on}\", \"verdict\": {verdict}}}}}'")
}

/// A program that does something else in each stage, and notes that it was called.
fn program(folder: &Path, ordinary: &str, warpgroups: &str) -> PathBuf {
    let path = folder.join("program");
    let calls = folder.join("calls");
    let text = format!(
        "#!/bin/sh\necho \"$1 $2 $3\" >> {}\nif [ \"$3\" = ordinary ]; then\n{ordinary}\nelse\n{warpgroups}\nfi\n",
        calls.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The stages for which the program was started.
fn calls(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("calls")).unwrap_or_default();
    let stage = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[1], "0", "{line}");
        words[2].to_owned()
    };
    text.lines().map(stage).collect()
}

fn checked(cache: &Path, program: &Path, trust: Trust) -> (GpuDriver, Report) {
    let options = GpuOptions { cache: Cache::at(cache), ..GpuOptions::new(&|name| std::env::var_os(name)) };
    let mut notices = Vec::new();
    let before = calls(program.parent().unwrap()).len();
    let found = check_gpu(&options, program, trust, &mut |text| notices.push(text.to_owned())).unwrap();
    let told = |start: &str| notices.iter().any(|text| text.starts_with(start));
    assert_eq!(told("checking "), calls(program.parent().unwrap()).len() > before);
    let lost = format!("the result of the check cannot be kept in {}", cache.display());
    assert_eq!(told(&lost), cache.ends_with("file/folder"), "{notices:?}");
    let report = found.report.clone();
    (found.open().unwrap(), report)
}

pub fn checks() {
    let is_hopper = open(false).has_warpgroups();
    let stages: &[&str] = if is_hopper { &["ordinary", "warpgroups"] } else { &["ordinary"] };
    let passed = &*tell("\"passed\"");
    let dir = tempfile::tempdir().unwrap();
    let cache = |name: &str| dir.path().join(name);

    // One that passes is checked once.
    let good = program(dir.path(), passed, passed);
    for _ in 0..2 {
        let (gpu, report) = checked(&cache("good"), &good, Trust::Passed);
        assert!(report.passed() && gpu.has_warpgroups() == is_hopper, "{report:?}");
        assert_eq!(calls(dir.path()), stages);
    }
    fs::remove_file(dir.path().join("calls")).unwrap();

    // One that does not is known from then on, until somebody asks for another check.
    let crash = program(dir.path(), "kill -SEGV $$", passed);
    for _ in 0..2 {
        let (gpu, report) = checked(&cache("crash"), &crash, Trust::Kept);
        assert_eq!(report.ordinary, Verdict::Failed("its process was ended by SIGSEGV".into()));
        assert!(!gpu.has_warpgroups() && report.fault().is_some() && report.warpgroups.is_none());
        assert_eq!(calls(dir.path()), ["ordinary"]);
    }
    let mended = program(dir.path(), passed, passed);
    assert!(checked(&cache("crash"), &mended, Trust::Passed).1.passed());
    assert!(checked(&cache("crash"), &mended, Trust::Kept).1.passed());
    fs::remove_file(dir.path().join("calls")).unwrap();

    // What may be gone the next time is asked again, and so is everything where the folder cannot be written.
    let unable = program(dir.path(), &tell_of("", "{\"unable\": \"no memory\"}"), passed);
    for count in 1..3 {
        assert_eq!(checked(&cache("unable"), &unable, Trust::Kept).1.ordinary, Verdict::Unable("no memory".into()));
        assert_eq!(calls(dir.path()).len(), count);
    }
    fs::remove_file(dir.path().join("calls")).unwrap();
    // So is a program that was replaced, or that sees another GPU.
    let other = program(dir.path(), &tell_of("another GPU", "\"passed\""), passed);
    for count in 1..3 {
        let (gpu, report) = checked(&cache("other"), &other, Trust::Kept);
        assert!(matches!(&report.ordinary, Verdict::Unable(text) if text.contains("another GPU")), "{report:?}");
        assert!(!gpu.has_warpgroups());
        assert_eq!(calls(dir.path()).len(), count);
    }
    fs::remove_file(dir.path().join("calls")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let good = program(dir.path(), passed, passed);
    for count in 1..3 {
        assert!(checked(&cache("file/folder"), &good, Trust::Kept).1.passed());
        assert_eq!(calls(dir.path()).len(), count * stages.len());
    }

    // Kernels for Hopper alone are left out alone, and what is timed then is kept apart.
    let part = program(dir.path(), passed, &tell("{\"failed\": \"wgmma\"}"));
    let (gpu, report) = checked(&cache("part"), &part, Trust::Kept);
    assert!(!gpu.has_warpgroups() && report.fault().is_none());
    assert_eq!(report.warpgroups_fault(), is_hopper.then_some("wgmma"));
    let (whole, _) = checked(&cache("good"), &good, Trust::Kept);
    assert_eq!(gpu.timed_on() == whole.timed_on(), !is_hopper, "{}", gpu.timed_on());
}

/// What a user sees of it.
pub fn binaries() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = |program: &str, args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(root).env("SRGAN_CACHE_DIR", dir.path()).envs(variables.iter().copied());
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "{text}");
        text
    };
    let stand_in = open(false).describe().starts_with("Stand-in");
    // A check does not start another, for ever.
    let report = run(env!("CARGO_BIN_EXE_srgan"), &["doctor"], &[("SRGAN_SELF_CHECK_PARENT", "1")]);
    let line = report.lines().find(|l| l.starts_with("GPU 0 check")).unwrap_or_else(|| panic!("{report}"));
    assert!(line.contains("not made") && line.contains("was started to check a GPU"), "{report}");

    let report = run(env!("CARGO_BIN_EXE_srgan"), &["doctor"], &[]);
    assert!(report.contains("\nGPU 0: checking "), "{report}");
    let line = report.lines().find(|l| l.starts_with("GPU 0 check")).unwrap_or_else(|| panic!("{report}"));
    // The stand-in has none of the kernels, and never will.
    assert!(line.contains(if stand_in { "failed" } else { "passed" }), "{report}");

    let config = root.join("configs/demo.yaml");
    let dry = |device: &str| {
        let (config, device) = (config.to_str().unwrap(), format!("Training.device={device}"));
        let store = format!("Data.store_dir={}", dir.path().join("store").display());
        run(env!("CARGO_BIN_EXE_srgan-train"), &["-c", config, "--dry-run", &device, &store], &[])
    };
    let text = dry("auto");
    assert!(text.contains(if stand_in { "device: cpu" } else { "device: cuda" }), "{text}");
    assert_eq!(text.matches("warning: ").count(), usize::from(stand_in), "{text}");
    assert_eq!(
        text.contains("training on the CPU, not on Stand-in, sm_90a: it failed its self-check: in f32, kernel"),
        stand_in,
        "{text}"
    );
    let text = dry("cuda");
    assert!(text.contains("device: cuda"), "{text}");
    assert_eq!(text.contains("warning: training on Stand-in, sm_90a, as asked for, but"), stand_in, "{text}");
    // Who hides all GPUs is told nothing.
    let out = Command::new(env!("CARGO_BIN_EXE_srgan-train"))
        .args(["-c", config.to_str().unwrap(), "--dry-run"])
        .args([format!("Data.store_dir={}", dir.path().join("store").display())])
        .current_dir(root)
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}
