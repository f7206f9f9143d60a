//! Every op of every network at its real shapes: the distinct plan steps (kernel, fused ops, extents) of the pretraining
//! and adversarial programs of benches/compare/*.yaml, and of the networks that only configs/*.yaml have, each run alone.
//!
//! `cargo bench` times all of them, `cargo bench -- conv2d` those with a name that contains `conv2d`. Elements are
//! operations, two per multiply-add; steps without products report bytes. Below each result stands its share of what
//! the machine can do (see `srgan bench --profile`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use srgan::bench::{Phase, random_program, upload_random};
use srgan::config::Config;
use srgan::device::{Peaks, PlanId};
use srgan::plan::{Loc, Plan, Step};
use srgan::train::names::scalars;
use srgan::train::open_device;
use srgan::train::session::Session;
use srgan::{Error, Result};

/// Side of the HR patches.
const SIDE: usize = 128;
/// Extents of operands that a name shows.
const SHOWN: usize = 4;

fn main() -> Result<()> {
    let quick = Criterion::default().sample_size(10).nresamples(1001);
    let quick = quick.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    let mut criterion = quick.configure_from_args();
    let (mut peaks, mut known) = (None, HashSet::new());
    for path in configs()? {
        // The same batch everywhere; more blocks would only repeat the same shapes.
        let (cfg, _) = Config::load(&path, &["Data.train_batch_size=2".to_owned(), "Generator.n_blocks=1".to_owned()])?;
        let mut session = Session::new(&cfg, open_device(&cfg)?)?;
        let peaks = match peaks {
            Some(peaks) => peaks,
            None => *peaks.insert(measured_peaks(&session)?),
        };
        for phase in [Phase::Pretrain, Phase::Adversarial] {
            let whole = session.plan(random_program(&cfg, phase, SIDE)?)?;
            upload_random(&mut session, whole, &cfg, SIDE)?;
            // The steps alone then compute on what a whole step left in memory.
            session.run(whole, [0.0; scalars::COUNT])?;
            for case in cases(session.device().plan(whole)) {
                if known.insert((case.group.clone(), case.name.clone())) {
                    time(&mut criterion, &mut session, case, &peaks);
                }
            }
        }
    }
    criterion.final_summary();
    Ok(())
}

fn configs() -> Result<Vec<PathBuf>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/compare");
    let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    paths.extend(["rrdb", "esrgan", "stochastic"].map(|name| root.join("configs").join(name).with_extension("yaml")));
    Ok(paths)
}

fn measured_peaks(session: &Session) -> Result<Peaks> {
    let peaks = session.device().peaks()?;
    println!(
        "The CPU's ops are timed, not a GPU's kernels: {}, at most {:.0} GFLOP/s and {:.1} GB/s",
        session.device().describe(),
        peaks.flops / 1e9,
        peaks.bandwidth / 1e9
    );
    Ok(peaks)
}

/// A plan step that runs alone.
struct Case {
    /// Names of its ops.
    group: String,
    /// Extents of its operands and results.
    name: String,
    flops: u64,
    bytes: u64,
    plan: Plan,
}

fn cases(plan: &Plan) -> Vec<Case> {
    let case = |(i, step): (usize, &Step)| Case {
        group: step.label(),
        name: format!("{} to {}", extents(&step.reads()), extents(&step.writes())),
        flops: 2 * step.macs,
        bytes: plan.bytes(step),
        plan: plan.only_step(i),
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

fn time(criterion: &mut Criterion, session: &mut Session, case: Case, peaks: &Peaks) {
    let least = peaks.least_time(case.flops, case.bytes);
    let throughput = match case.flops {
        0 => Throughput::Bytes(case.bytes),
        flops => Throughput::Elements(flops),
    };
    let (mut plan, mut id, mut fastest) = (Some(case.plan), None::<PlanId>, f64::INFINITY);
    let mut group = criterion.benchmark_group(case.group);
    group.throughput(throughput).bench_function(case.name, |bencher| {
        // Made ready here: a filter leaves most of them out.
        if let Some(plan) = plan.take() {
            id = Some(session.load(plan).expect("a step of a plan that is loaded"));
        }
        let Some(id) = id else { return };
        bencher.iter_custom(|runs| {
            let start = Instant::now();
            for _ in 0..runs {
                session.run(id, [0.0; scalars::COUNT]).expect("a step of a plan that has run");
            }
            let elapsed = start.elapsed();
            fastest = fastest.min(elapsed.as_secs_f64() / runs as f64);
            elapsed
        });
    });
    group.finish();
    if fastest.is_finite() {
        println!("{:24}roofline: [{:.1} %]\n", "", 100.0 * least / fastest);
    }
}
