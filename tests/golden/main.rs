//! Every golden case in the folder `SRGAN_GOLDEN_DIR` (default `tests/golden`) on the device `SRGAN_GOLDEN_DEVICE`
//! (default `cpu`; `host`, `hopper`, `cuda`) in the precision `SRGAN_GOLDEN_PRECISION` (default `f32`; `tf32`, `bf16`): numbers that
//! PyTorch computed in float64 (`make_golden.py` beside them), each tensor within its own tolerance, which is wider in
//! tf32 and bf16 (`precision_distances.py`). One line per case; a failure names its tensors.
//!
//! If nothing is asked for, a GPU runs the cases too, in every precision. Without one a line says so;
//! `SRGAN_REQUIRE_CUDA` turns that into a failure. On the CPU one case runs on every instruction set; a line says which
//! sets the processor lacks.

mod case;
mod networks;
mod setting;
mod training;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use srgan::device::cpu::{Isa, IsaKind};
use srgan::{Error, Result};

use case::{Case, Findings};
use networks::{loss_case, network_case};
use setting::{Place, Setting};
use training::training_case;

/// The case that runs on every instruction set.
const EVERY_SET: &str = "training_bce";

/// What the names of cases of several ranks begin with.
const RANKS: &str = "training_ranks";

fn run_case(path: &Path, setting: &Setting) -> Result<(String, Findings)> {
    let mut case = Case::open(path, setting)?;
    let mut findings = Findings::default();
    match case.kind.as_str() {
        "generator" => network_case(&mut case, &mut findings, true)?,
        "discriminator" => network_case(&mut case, &mut findings, false)?,
        "content_loss" => loss_case(&mut case, &mut findings)?,
        "training" => training_case(&mut case, &mut findings)?,
        other => return Err(Error::data(path, format!("a case of unknown kind {other}"))),
    }
    // A tensor that nobody computed is a failure, not a pass.
    for (name, tol) in std::mem::take(&mut case.tol) {
        findings.0.push((format!("{name} (not computed)"), f64::NAN, tol));
    }
    Ok((format!("{} ({setting})", case.name), findings))
}

/// What runs: every case on the widest set of a CPU, and [`EVERY_SET`] on the others, which are named where they are
/// missing; on other devices every case once.
fn cases<'p>(paths: &'p [PathBuf], setting: &Setting) -> Vec<(&'p PathBuf, Setting)> {
    let runs = |p: &&PathBuf| {
        let ranks = p.file_stem().is_some_and(|s| s.to_string_lossy().starts_with(RANKS));
        if ranks && setting.place != Place::Cpu {
            println!("{} ({setting}): SKIPPED, several ranks train on CPUs only", p.display());
        }
        !ranks || setting.place == Place::Cpu
    };
    let mut cases: Vec<_> = paths.iter().filter(runs).map(|p| (p, setting.clone())).collect();
    let chosen = |p: &&PathBuf| setting.place == Place::Cpu && p.file_stem().is_some_and(|s| s == EVERY_SET);
    let Some(path) = paths.iter().find(chosen) else { return cases };
    for kind in IsaKind::ALL.iter().filter(|kind| **kind != setting.isa.kind()) {
        match Isa::of(*kind) {
            Some(isa) => cases.push((path, setting.with_isa(isa))),
            None => println!("{EVERY_SET} ({}): SKIPPED, the processor lacks this instruction set", kind.name()),
        }
    }
    cases
}

fn main() -> ExitCode {
    setting::check();
    let dir = std::env::var("SRGAN_GOLDEN_DIR").unwrap_or_else(|_| "tests/golden".into());
    let found = settings(Path::new(&dir)).and_then(|settings| Ok((settings, paths(Path::new(&dir))?)));
    let (settings, paths) = match found {
        Ok(found) => found,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for (path, setting) in settings.iter().flat_map(|setting| cases(&paths, setting)) {
        let verdict = match run_case(path, &setting) {
            Err(e) => Err(format!("{} ({setting}): {e}", path.display())),
            Ok((name, findings)) => report(&name, &findings),
        };
        match verdict {
            Ok(line) => {
                println!("{line}");
                passed += 1;
            }
            Err(text) => {
                println!("{text}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the environment asks for; where it names neither device nor cases, the project's cases on the CPU and, in every
/// precision, on a GPU.
fn settings(dir: &Path) -> Result<Vec<Setting>> {
    let variable = |name: &str| std::env::var(name).ok();
    let (device, precision) = (variable("SRGAN_GOLDEN_DEVICE"), variable("SRGAN_GOLDEN_PRECISION"));
    let asked = Setting::new(dir, device.as_deref().unwrap_or("cpu"), precision.as_deref().unwrap_or("f32"))?;
    let mut settings = vec![asked];
    if device.is_none() && variable("SRGAN_GOLDEN_DIR").is_none() {
        match setting::gpu() {
            Ok(_) => {
                for precision in ["f32", "tf32", "bf16"] {
                    settings.push(Setting::new(dir, "cuda", precision)?);
                }
            }
            Err(e) if variable("SRGAN_REQUIRE_CUDA").is_some() => return Err(e),
            Err(e) => println!(
                "on a GPU: SKIPPED: {}",
                e.to_string().lines().next().unwrap_or_default().trim_end_matches(':')
            ),
        }
    }
    Ok(settings)
}

/// The cases' files, in order.
fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    Ok(paths)
}

/// A line with the worst ratio of distance to tolerance; an error lists every tensor beyond its tolerance.
fn report(name: &str, findings: &Findings) -> std::result::Result<String, String> {
    let ratio = |f: &&(String, f64, f64)| if f.1.is_finite() { f.1 / f.2 } else { f64::INFINITY };
    let worst = findings.0.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let Some(worst) = worst else { return Err(format!("{name}: nothing was compared")) };
    let line = format!("{name}: {} tensors, worst ratio {:.3} ({})", findings.0.len(), ratio(&worst), worst.0);
    // `!(…)` so that NaN fails.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    let beyond: Vec<_> = findings.0.iter().filter(|f| !(f.1 <= f.2)).collect();
    if beyond.is_empty() {
        return Ok(line);
    }
    let mut text = format!("{line}\n  FAILED:");
    for f in beyond.iter().take(12) {
        text += &format!("\n    {}: distance {:.3e}, tolerance {:.3e}", f.0, f.1, f.2);
    }
    if beyond.len() > 12 {
        text += &format!("\n    … and {} more", beyond.len() - 12);
    }
    Err(text)
}
