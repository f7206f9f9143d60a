//! `srgan bench`: times the steps of a config on random data that is already on the device.

use std::time::Instant;

use serde::Serialize;

use crate::config::Config;
use crate::device::{Device, PlanId, bytes_of};
use crate::nn;
use crate::rng::{Rng, Stream};
use crate::tape::DType;
use crate::train::names::scalars;
use crate::train::programs::BatchShape;
use crate::train::session::{Key, Session};
use crate::train::step::latent_noise;
use crate::{Error, Result};

/// Which program is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The generator's forward pass in evaluation mode.
    Forward,
    /// A generator-only step.
    Pretrain,
    /// A whole adversarial step.
    Adversarial,
}

impl Phase {
    /// The name on the command line and in the result.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Pretrain => "pretrain",
            Phase::Adversarial => "adversarial",
        }
    }
}

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// The program.
    pub phase: Phase,
    /// Side of the HR patches.
    pub hr: usize,
    /// Counted steps.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Whether each plan step is timed.
    pub profile: bool,
}

/// The result line, with the keys of the PyTorch peer's.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// This program.
    #[serde(rename = "impl")]
    pub implementation: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Kept for the peer's sake.
    pub mode: &'static str,
    /// The device.
    pub device: String,
    /// The program.
    pub phase: &'static str,
    /// Patches per step.
    pub batch: usize,
    /// Side of the HR patches.
    pub hr: usize,
    /// Median time of a step.
    pub step_ms_median: f64,
    /// Shortest time of a step.
    pub step_ms_min: f64,
    /// Patches per second at the median.
    pub patches_per_s: f64,
    /// Peak resident memory of the process.
    pub peak_mem_mib: f64,
    /// The peak less what was resident before the first step.
    pub step_mem_mib: f64,
}

/// One line of a profile: kinds of plan steps with their total time.
#[derive(Clone, Debug)]
pub struct ProfileLine {
    /// Ops of the plan step.
    pub label: String,
    /// Milliseconds per training step.
    pub ms: f64,
    /// Plan steps of this kind.
    pub count: usize,
    /// Multiply-adds per training step.
    pub macs: u64,
}

/// Times `options.steps` steps of `cfg` on `device`.
///
/// # Errors
/// Those of building and running the program.
pub fn bench(cfg: &Config, device: Box<dyn Device>, options: &BenchOptions) -> Result<(BenchResult, Vec<ProfileLine>)> {
    let batch = cfg.data.train_batch_size;
    let scale = cfg.generator.scaling_factor;
    if options.hr == 0 || !options.hr.is_multiple_of(scale) {
        return Err(Error::usage(format!("--hr {} is not a multiple of the scale, {scale}", options.hr)));
    }
    let lr = options.hr / scale;
    let shape = BatchShape { batch, hr: (options.hr, options.hr), hr_type: DType::F32, lr_type: Some(DType::F32) };
    let mut session = Session::new(cfg, device)?;
    let key = match options.phase {
        Phase::Forward => Key::Forward(batch, lr, lr),
        Phase::Pretrain => Key::Pretrain(shape),
        Phase::Adversarial => Key::Adversarial(shape),
    };
    // As the peer counts: networks and optimisers are resident, nothing of a step is.
    let before = peak_resident_mib();
    let plan = session.plan(key)?;
    upload_random(&mut session, plan, cfg, options.hr)?;
    let mut step = [0.0; scalars::COUNT];
    step[scalars::LR_G] = cfg.optimizers.optim_g_lr as f32;
    step[scalars::LR_D] = cfg.optimizers.optim_d_lr as f32;
    step[scalars::ADV_WEIGHT] = cfg.training.losses.adv_loss_beta as f32;
    step[scalars::EMA_ON] = f32::from(u8::from(cfg.training.ema.enabled));
    let mut times = Vec::with_capacity(options.steps);
    for i in 0..options.warmup + options.steps {
        if i == options.warmup {
            session.set_profile(options.profile);
        }
        let start = Instant::now();
        session.run(plan, step)?;
        if i >= options.warmup {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let peak = peak_resident_mib();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let round = |v: f64| (v * 1e3).round() / 1e3;
    let result = BenchResult {
        implementation: "srgan",
        version: env!("CARGO_PKG_VERSION"),
        mode: "f32",
        device: session.device().describe(),
        phase: options.phase.name(),
        batch,
        hr: options.hr,
        step_ms_median: round(median),
        step_ms_min: round(times[0]),
        patches_per_s: round(1e3 * batch as f64 / median),
        peak_mem_mib: round(peak),
        step_mem_mib: round(peak - before),
    };
    let profile = if options.profile { profile(&session, plan, options.steps) } else { vec![] };
    Ok((result, profile))
}

/// Random images, and noise where the generator reads it, for side `hr`.
fn upload_random(session: &mut Session, plan: PlanId, cfg: &Config, hr: usize) -> Result<()> {
    let (batch, bands) = (cfg.data.train_batch_size, cfg.model.in_bands);
    let lr = hr / cfg.generator.scaling_factor;
    let random = |side: usize, sample: u32| -> Vec<f32> {
        let mut rng = Rng::new(0, Stream::Noise, 0, sample);
        (0..batch * side * side * bands).map(|_| rng.uniform()).collect()
    };
    session.upload(plan, "hr", bytes_of(&random(hr, 0)))?;
    session.upload(plan, "lr", bytes_of(&random(lr, 1)))?;
    session.upload(plan, "codes", &vec![0; batch])?;
    if nn::is_stochastic(cfg) {
        session.upload(plan, "noise", bytes_of(&latent_noise(cfg, Stream::Noise, 0, 0..batch as u64)))?;
    }
    Ok(())
}

fn profile(session: &Session, plan: PlanId, runs: usize) -> Vec<ProfileLine> {
    let mut lines: Vec<ProfileLine> = Vec::new();
    let device = session.device();
    for (step, time) in device.plan(plan).steps.iter().zip(device.times(plan)) {
        let (label, ms) = (step.label(), time.as_secs_f64() * 1e3 / runs as f64);
        match lines.iter_mut().find(|l| l.label == label) {
            Some(line) => {
                line.ms += ms;
                line.count += 1;
                line.macs += step.macs;
            }
            None => lines.push(ProfileLine { label, ms, count: 1, macs: step.macs }),
        }
    }
    lines.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    lines
}

/// Peak resident memory of this process so far, in MiB.
fn peak_resident_mib() -> f64 {
    // SAFETY: rusage is plain data that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as f64 / 1024.0
}
