//! Every op of every network at real shapes: the distinct plan steps (kernel, fused ops, extents) of the pretraining and
//! adversarial programs, each run alone.
//!
//! On a GPU its kernels are timed, by events and with cold caches, each beside the algorithms of cuDNN and cuBLASLt for
//! the same step, at the extents of `benches/compare/gpu/*.yaml`. On a machine without a GPU the CPU's ops are timed, on
//! patches of 128 pixels in batches of 2. Both also run networks that only `configs/*.yaml` have. `SRGAN_BENCH_DEVICE`
//! chooses: `auto` (a GPU if there is one), `cuda`, `cpu`.
//!
//! `cargo bench` times all of them, `cargo bench -- conv2d` those with a name that contains `conv2d`. Elements are
//! operations, two per multiply-add; steps without products report bytes. Below each result stands its share of what
//! the machine can do (see `srgan bench --profile`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use srgan::bench::{Phase, random_program, upload_random};
use srgan::config::{Config, DeviceChoice};
use srgan::device::{Peaks, Workload};
use srgan::plan::{Loc, Plan, Step};
use srgan::runtime::choices::{OWN, short_name};
use srgan::runtime::{Device, PlanId};
use srgan::train::scalars;
use srgan::train::session::Session;
use srgan::train::{DeviceOptions, open_device_with};
use srgan::{Error, Result};

/// Networks that only `configs` has.
const OTHERS: [&str; 3] = ["rrdb", "esrgan", "stochastic"];
/// Side of the HR patches of `benches/compare/gpu`.
const LARGE: usize = 512;
/// Extents of operands that a name shows.
const SHOWN: usize = 4;

fn main() -> ExitCode {
    match bench_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn bench_all() -> Result<()> {
    let quick = Criterion::default().sample_size(10).nresamples(1001);
    let quick = quick.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    let mut criterion = quick.configure_from_args();
    let gpu = choose_device()?;
    let (mut peaks, mut known) = (None, HashSet::new());
    for (path, side) in configs(gpu)? {
        for phase in [Phase::Pretrain, Phase::Adversarial] {
            let cfg = fitting(&path, gpu, phase, side)?;
            let mut session = Session::new(cfg.clone(), open_device(&cfg)?)?;
            let peaks = match peaks {
                Some(peaks) => peaks,
                None => *peaks.insert(measured_peaks(session.device())?),
            };
            let plan = session.plan(random_program(&cfg, phase, side)?)?;
            upload_random(&mut session, plan, side)?;
            // The steps alone then compute on what a whole step left in memory.
            session.run(plan, [0.0; scalars::COUNT])?;
            for case in cases(session.device().plan(plan)) {
                if known.insert((case.group.clone(), case.name.clone())) {
                    time_ways(&mut criterion, &mut session, plan, &case, &peaks)?;
                }
            }
        }
    }
    criterion.final_summary();
    Ok(())
}

/// The device of a config; a GPU is checked by the program that trains, since kernels for Hopper must have passed.
fn open_device(cfg: &Config) -> Result<Box<dyn Device>> {
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_srgan")));
    open_device_with(cfg, &DeviceOptions { program, ..DeviceOptions::default() })
}

/// Whether a GPU's kernels are timed; says what is timed instead.
fn choose_device() -> Result<bool> {
    let wanted = std::env::var("SRGAN_BENCH_DEVICE").unwrap_or_default();
    let mut cfg = Config::default();
    cfg.training.device = DeviceChoice::Cuda;
    match wanted.as_str() {
        "cpu" => println!("The CPU's ops are timed, not a GPU's kernels, because SRGAN_BENCH_DEVICE is cpu."),
        "cuda" => return open_device(&cfg).map(|_| true),
        "" | "auto" => match open_device(&cfg) {
            Ok(_) => return Ok(true),
            Err(why) => println!("The CPU's ops are timed, not a GPU's kernels: {}", first_line(&why)),
        },
        other => {
            return Err(Error::usage(format!("SRGAN_BENCH_DEVICE is {other:?}"))
                .with_hint("valid are auto, cuda and cpu; or leave it unset"));
        }
    }
    Ok(false)
}

/// What is missing; `srgan doctor` says more.
fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

/// Config files, and the side of their HR patches.
fn configs(gpu: bool) -> Result<Vec<(PathBuf, usize)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("benches/compare");
    let mut paths = yaml_files(&folder)?;
    let side = if gpu { LARGE / 2 } else { 128 };
    paths.extend(OTHERS.map(|name| root.join("configs").join(name).with_extension("yaml")));
    let mut configs: Vec<_> = paths.into_iter().map(|path| (path, side)).collect();
    if gpu {
        let large = yaml_files(&folder.join("gpu"))?;
        configs.splice(0..0, large.into_iter().map(|path| (path, LARGE)));
    }
    Ok(configs)
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    Ok(paths)
}

/// The config with one block, since more would only repeat the same shapes. Its batch is 2 on the CPU, and on a GPU the
/// file's own, but at least 8 where patches are small, halved as often as memory demands.
fn fitting(path: &Path, gpu: bool, phase: Phase, side: usize) -> Result<Config> {
    let device = if gpu { "cuda" } else { "cpu" };
    let load = |batch: usize| {
        let overrides = ["Generator.n_blocks=1".to_owned(), format!("Training.device={device}")];
        Ok::<_, Error>(Config::load(path, &[&overrides[..], &[format!("Data.train_batch_size={batch}")]].concat())?.0)
    };
    if !gpu {
        return load(2);
    }
    let own = Config::load(path, &[])?.0.data.train_batch_size;
    let mut batch = if side < LARGE { own.max(8) } else { own };
    loop {
        let cfg = load(batch)?;
        let mut session = Session::new(cfg.clone(), open_device(&cfg)?)?;
        let needed = 4 * session.compile(random_program(&cfg, phase, side)?)?.arena_len;
        // Beside the plan: its inputs, and what measures the peaks.
        let available = session.device().available_memory()?.map_or(usize::MAX, |bytes| bytes / 4 * 3);
        if needed <= available || batch == 1 {
            return Ok(cfg);
        }
        batch /= 2;
    }
}

fn measured_peaks(device: &dyn Device) -> Result<Peaks> {
    let peaks = device.peaks()?;
    println!("{}, at most {peaks}\n", device.describe());
    Ok(peaks)
}

/// A plan step that runs alone.
struct Case {
    /// Its number in the plan.
    step: usize,
    /// Names of its ops.
    group: String,
    /// Extents of its operands and results.
    name: String,
    work: Workload,
}

fn cases(plan: &Plan) -> Vec<Case> {
    let case = |(i, step): (usize, &Step)| Case {
        step: i,
        group: step.label(),
        name: format!("{} to {}", extents(&step.reads()), extents(&step.writes())),
        work: plan.step_workload(step),
    };
    plan.steps.iter().enumerate().map(case).collect()
}

/// `2x32x32x64, 64x3x3x64`
fn extents(locs: &[Loc]) -> String {
    let extent = |loc: &Loc| loc.shape.0.map(|n| n.to_string()).join("x");
    let mut shown: Vec<String> = locs.iter().take(SHOWN).map(extent).collect();
    if locs.len() > SHOWN {
        shown.push(format!("{} more", locs.len() - SHOWN));
    }
    shown.join(", ")
}

/// A step in each of its ways. Where there is but one, a name does not say which.
fn time_ways(criterion: &mut Criterion, session: &mut Session, plan: PlanId, case: &Case, peaks: &Peaks) -> Result<()> {
    let ways = session.ways(plan, case.step)?;
    for way in &ways {
        let name = match (ways.len(), way.as_str()) {
            (1, OWN) => case.name.clone(),
            _ => format!("{}, {}", case.name, short_name(way)),
        };
        let (mut fastest, mut failure) = (f64::INFINITY, None);
        let mut run = |runs: u64| {
            if failure.is_none() {
                match session.time_step(plan, case.step, way, runs) {
                    Ok(time) => {
                        fastest = fastest.min(time.as_secs_f64() / runs as f64);
                        return time;
                    }
                    Err(error) => failure = Some(error),
                }
            }
            failed_run()
        };
        let mut group = criterion.benchmark_group(&case.group);
        group.throughput(match case.work.flops {
            0 => Throughput::Bytes(case.work.bytes()),
            flops => Throughput::Elements(flops),
        });
        group.bench_function(name, |bencher| bencher.iter_custom(&mut run));
        group.finish();
        if let Some(error) = failure {
            return Err(error);
        }
        if fastest.is_finite() {
            println!("{:24}{}\n", "", shares(&case.work, fastest, peaks));
        }
    }
    Ok(())
}

/// What Criterion, which knows no errors, is told of a run that failed. It takes a while, or Criterion would ask for more
/// runs than it can count.
fn failed_run() -> Duration {
    std::thread::sleep(Duration::from_millis(10));
    Duration::from_nanos(1)
}

/// How near work that took so many seconds comes to the peaks.
fn shares(work: &Workload, seconds: f64, peaks: &Peaks) -> String {
    let percent = |least: f64| format!("{:.1} %", 100.0 * least / seconds);
    let gb_s = format!("{:.1} GB/s", work.bytes() as f64 / seconds / 1e9);
    let traffic = format!("{gb_s}: {} of the copy bandwidth", percent(peaks.traffic_time(work)));
    match work.flops {
        0 => format!("roofline: [{}]; {traffic}", percent(peaks.least_time(work))),
        flops => format!(
            "roofline: [{}]; {:.3} TFLOP/s: {} of the rate in {}; {traffic}",
            percent(peaks.least_time(work)),
            flops as f64 / seconds / 1e12,
            percent(peaks.arithmetic_time(work)),
            work.precision,
        ),
    }
}
