//! `srgan bench`: times the steps of a config, on random data that is already on the device or on batches of the
//! config's own data, and the loader alone.

mod data;
mod profile;
mod random;
mod report;

use std::time::{Duration, Instant};

use serde::Serialize;

pub use data::{LoaderResult, bench_loader};
pub use profile::{Profile, ProfileLine};
pub use random::{random_program, upload_random};

use crate::Result;
use crate::config::Config;
use crate::data::Dataset;
use crate::device::Peaks;
use crate::device::cpu::memory::peak_resident;
use crate::runtime::{Device, PlanId};
use crate::train::programs;
use crate::train::session::Session;
use crate::train::step::StepNumbers;
use data::DataSteps;
use random::RandomSteps;

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

    /// What a step of it trains; `None` if it is no training step.
    fn of_step(self) -> Option<programs::Phase> {
        match self {
            Phase::Forward => None,
            Phase::Pretrain => Some(programs::Phase::Pretrain),
            Phase::Adversarial => Some(programs::Phase::Adversarial),
        }
    }

    /// The scalars of a step of the phase: the config's rates and weights after warm-up and ramp.
    fn numbers(self, cfg: &Config) -> StepNumbers {
        StepNumbers {
            phase: self.of_step().unwrap_or(programs::Phase::Pretrain),
            adv_weight: cfg.training.losses.adv_loss_beta,
            lr_g: cfg.optimizers.optim_g_lr,
            lr_d: cfg.optimizers.optim_d_lr,
            ema_on: cfg.training.ema.enabled,
        }
    }
}

/// Where a step's images come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Random images of this HR side, on the device before the first step.
    Random {
        /// Rows and columns.
        hr: usize,
    },
    /// A data set through its loader, as in training.
    Data(&'a Dataset),
}

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions<'a> {
    /// The program.
    pub phase: Phase,
    /// Its images.
    pub source: Source<'a>,
    /// Counted steps, at least one.
    pub steps: usize,
    /// Steps before them; at least one.
    pub warmup: usize,
    /// Whether each plan step is timed too, in as many steps after the counted ones.
    pub profile: bool,
}

/// What was measured; as JSON it has the keys of the PyTorch peer's.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// This program.
    #[serde(rename = "impl")]
    pub implementation: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Precision; the peer says here how it was run.
    pub mode: String,
    /// The device.
    pub device: String,
    /// The program.
    pub phase: &'static str,
    /// Patches per step.
    pub batch: usize,
    /// Rows of the HR patches.
    pub hr: usize,
    /// Median time of a step.
    pub step_ms_median: f64,
    /// Shortest time of a step.
    pub step_ms_min: f64,
    /// Patches per second at the median.
    pub patches_per_s: f64,
    /// Peak resident memory of the process; on a GPU the memory there that networks, optimisers and plans take.
    pub peak_mem_mib: f64,
    /// The peak less what was there before the program was compiled: networks and optimisers, no activations.
    pub step_mem_mib: f64,
    /// Share of the time of all steps in which the next batch was waited for; with [`Source::Data`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_share: Option<f64>,
    /// Counted steps.
    pub steps: usize,
    /// The device and the libraries whose algorithms were timed, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timed_on: Option<String>,
    /// What each kind of plan step costs, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// Steps that can be timed one by one, as in training: each is started before the one before it is waited for.
trait Steps {
    /// Starts one, waits for the one before it if there is one, and returns how long it waited for data.
    fn step(&mut self, session: &mut Session) -> Result<Duration>;
    /// The plan that a step runs.
    fn plan(&self) -> PlanId;
    /// Patches of a step, and their HR rows.
    fn extent(&self) -> (usize, usize);
}

/// Times `options.steps` steps of `cfg` on `device`.
///
/// # Errors
/// Fails if the options are wrong, the data cannot be read, or the program cannot be built or run.
pub fn bench(cfg: &Config, device: Box<dyn Device>, options: &BenchOptions) -> Result<BenchResult> {
    let mut session = Session::new(cfg.clone(), device)?;
    // As the peer counts: networks and optimisers are resident, nothing of a step is.
    let before = peak_mib(session.device());
    // On a GPU while there is memory for it; on the CPU, where it would count as the step's, not before the end.
    let early = options.profile && session.device().memory_in_use().is_some();
    let peaks = early.then(|| session.device().peaks()).transpose()?;
    let mut steps: Box<dyn Steps> = match options.source {
        Source::Random { hr } => Box::new(RandomSteps::new(&mut session, options.phase, hr)?),
        Source::Data(dataset) => Box::new(DataSteps::new(&mut session, options, dataset)?),
    };
    let times = time(&mut session, steps.as_mut(), options)?;
    let peak = peak_mib(session.device());
    let profile = options.profile.then(|| profile(&mut session, steps.as_mut(), options, peaks)).transpose()?;
    let (batch, hr) = steps.extent();
    let median = times.median();
    Ok(BenchResult {
        implementation: "srgan",
        version: env!("CARGO_PKG_VERSION"),
        mode: session.precision().to_string(),
        device: session.device().describe(),
        phase: options.phase.name(),
        batch,
        hr,
        step_ms_median: rounded(1e3 * median),
        step_ms_min: rounded(1e3 * times.of_steps[0]),
        patches_per_s: rounded(batch as f64 / median),
        peak_mem_mib: rounded(peak),
        step_mem_mib: rounded(peak - before),
        wait_share: matches!(options.source, Source::Data(_)).then(|| rounded(times.wait_share())),
        steps: times.of_steps.len(),
        timed_on: session.device().choices().map(|choices| choices.timed_on.clone()),
        profile,
    })
}

/// Seconds of the counted steps, in ascending order, and how many of all of them were spent waiting for data.
struct Times {
    of_steps: Vec<f64>,
    waited: f64,
}

impl Times {
    /// The middle, or the mean of the two in the middle.
    fn median(&self) -> f64 {
        let (n, t) = (self.of_steps.len(), &self.of_steps);
        (t[(n - 1) / 2] + t[n / 2]) / 2.0
    }

    fn wait_share(&self) -> f64 {
        self.waited / self.of_steps.iter().sum::<f64>()
    }
}

fn time(session: &mut Session, steps: &mut dyn Steps, options: &BenchOptions) -> Result<Times> {
    // At least one, so that each counted step waits for one.
    for _ in 0..options.warmup.max(1) {
        steps.step(session)?;
    }
    let mut times = Times { of_steps: Vec::with_capacity(options.steps), waited: 0.0 };
    for _ in 0..options.steps.max(1) {
        let start = Instant::now();
        times.waited += steps.step(session)?.as_secs_f64();
        times.of_steps.push(start.elapsed().as_secs_f64());
    }
    times.of_steps.sort_by(f64::total_cmp);
    Ok(times)
}

/// Times the parts of as many steps again. Such steps take longer: on a GPU each records its work anew.
fn profile(
    session: &mut Session,
    steps: &mut dyn Steps,
    options: &BenchOptions,
    peaks: Option<Peaks>,
) -> Result<Profile> {
    let count = options.steps.max(1);
    session.set_profile(true);
    for _ in 0..count {
        steps.step(session)?;
    }
    session.set_profile(false);
    let peaks = peaks.map_or_else(|| session.device().peaks(), Ok)?;
    Ok(Profile::new(session.device().times(steps.plan()), count, peaks))
}

/// Three digits after the point are all that a measurement has.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Peak memory of this process so far on `device`, in MiB. What a GPU's plans take is never given back.
fn peak_mib(device: &dyn Device) -> f64 {
    match device.memory_in_use() {
        Some(bytes) => bytes as f64 / f64::from(1 << 20),
        None => peak_resident() as f64 / f64::from(1 << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        let median = |of_steps: &[f64]| Times { of_steps: of_steps.to_vec(), waited: 0.0 }.median();
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
