//! One training step: schedules to scalars, the programs that it runs, and the complete list of metrics. It is started
//! and finished apart, so that the next one can be on its way to the device meanwhile.

use std::collections::HashMap;

use super::perceptual::Bands;
use super::plans;
use super::programs::{BatchShape, Phase};
use super::scalars;
use super::schedule;
use super::session::{Key, Session};
use crate::checkpoint::PlateauState;
use crate::config::Config;
use crate::data::Batch;
use crate::loss::Adversarial;
use crate::metrics::{Metric, Source, When};
use crate::rng::{Rng, Stream};
use crate::runtime::{PlanId, Run};
use crate::{Result, nn};

/// Raw images of a batch as a program's slots take them.
#[derive(Clone, Copy, Debug)]
pub struct RawBatch<'b> {
    /// HR pixels, N,H,W,C in their file's type.
    pub hr: &'b [u8],
    /// LR pixels of paired data.
    pub lr: Option<&'b [u8]>,
    /// Flip and turn of each image.
    pub codes: &'b [u8],
    /// Latent noise instead of the seed's, (N, D).
    pub noise: Option<&'b [f32]>,
}

impl<'b> From<&'b Batch> for RawBatch<'b> {
    fn from(batch: &'b Batch) -> Self {
        let lr = batch.lr.as_ref().map(|lr| lr.data.as_slice());
        RawBatch { hr: &batch.hr.data, lr, codes: &batch.augment, noise: None }
    }
}

/// The numbers of a step that follow from its index and the plateau schedulers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepNumbers {
    /// What is trained.
    pub phase: Phase,
    /// Weight of the adversarial loss.
    pub adv_weight: f64,
    /// The generator's learning rate.
    pub lr_g: f64,
    /// The discriminator's learning rate.
    pub lr_d: f64,
    /// Whether the EMA is updated.
    pub ema_on: bool,
}

impl StepNumbers {
    /// The numbers of step `step`, from 0.
    pub fn at(cfg: &Config, step: u64, plateau_g: &PlateauState, plateau_d: &PlateauState) -> Self {
        let (training, sched, optim) = (&cfg.training, &cfg.schedulers, &cfg.optimizers);
        let warmup = schedule::warmup_factor(sched, step);
        StepNumbers {
            phase: schedule::phase(training, step),
            adv_weight: schedule::adversarial_weight(training, step),
            lr_g: optim.optim_g_lr * warmup * plateau_g.factor,
            lr_d: optim.optim_d_lr * plateau_d.factor,
            ema_on: training.ema.enabled && step >= training.ema.update_after_step,
        }
    }

    /// The value of a metric that follows from the schedules.
    fn metric(&self, cfg: &Config, step: u64, metric: Metric) -> Option<f64> {
        let ema = &cfg.training.ema;
        let flag = |on: bool| f64::from(u8::from(on));
        Some(match metric {
            Metric::PretrainPhase => flag(self.phase == Phase::Pretrain),
            Metric::AdversarialWeight => self.adv_weight,
            Metric::GeneratorRate => self.lr_g,
            Metric::DiscriminatorRate => self.lr_d,
            Metric::EmaEnabled => flag(ema.enabled),
            Metric::EmaDecay => ema.decay,
            Metric::EmaUpdateAfter => ema.update_after_step as f64,
            Metric::EmaUsesUpdates => flag(ema.use_num_updates),
            Metric::EmaActive => flag(self.ema_on),
            Metric::EmaStepsUntilActive => ema.update_after_step.saturating_sub(step) as f64,
            _ => return None,
        })
    }

    pub(crate) fn scalars(&self) -> [f32; scalars::COUNT] {
        let mut all = [0.0; scalars::COUNT];
        all[scalars::LR_G] = self.lr_g as f32;
        all[scalars::LR_D] = self.lr_d as f32;
        all[scalars::ADV_WEIGHT] = self.adv_weight as f32;
        all[scalars::EMA_ON] = f32::from(u8::from(self.ema_on));
        all
    }
}

/// What a step did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Whether all numbers were finite and the weights moved.
    pub committed: bool,
    /// What was trained.
    pub phase: Phase,
    /// Every metric of a training step in the order of [`Metric::ALL`].
    pub values: Vec<(Metric, f64)>,
}

impl StepReport {
    /// The value of a metric; 0 for one that this run does not have.
    pub fn get(&self, metric: Metric) -> f64 {
        self.values.iter().find(|(m, _)| *m == metric).map_or(0.0, |(_, v)| *v)
    }
}

/// The metrics that a run of `cfg` logs, in the order of their columns.
pub fn logged_metrics(cfg: &Config) -> Vec<Metric> {
    let is_logged = |metric: &Metric| match metric.when() {
        When::Always | When::Adversarial => true,
        When::Relativistic => {
            matches!(Adversarial::of(&cfg.training.losses, false), Adversarial::RelativisticBce { .. })
        }
        When::Averaged => cfg.training.ema.enabled,
    };
    Metric::ALL.iter().copied().filter(is_logged).collect()
}

/// A step that was started and whose report has not been taken.
#[derive(Debug)]
#[must_use = "the step's report is taken by `finish`"]
pub struct StartedStep {
    step: u64,
    numbers: StepNumbers,
    /// The last of its programs, which changes the state.
    last: Option<Started>,
    /// What the programs before it measured.
    measured: Measured,
}

impl StartedStep {
    /// Waits for the step; what it did.
    ///
    /// # Errors
    /// If the device failed.
    pub fn finish(self, session: &mut Session) -> Result<StepReport> {
        let StartedStep { step, numbers, last, mut measured } = self;
        let committed = last.map_or(Ok(false), |last| last.collect(session, &mut measured))?;
        let cfg = session.config();
        let of_step = logged_metrics(cfg).into_iter().filter(|metric| metric.source() != Source::Validation);
        let values = of_step.map(|metric| {
            // What the phase does not compute is logged as 0.
            let of_device = measured.get(&metric).copied().unwrap_or(0.0);
            let value = match metric {
                Metric::EmaUpdates => of_device + f64::from(u8::from(committed && numbers.ema_on)),
                Metric::EmaLastDecay if !committed => 0.0,
                _ => numbers.metric(cfg, step, metric).unwrap_or(of_device),
            };
            (metric, value)
        });
        Ok(StepReport { committed, phase: numbers.phase, values: values.collect() })
    }
}

/// Starts step `step` on its batches: one, or as many micro-batches as gradients are accumulated over. The batches are
/// free when the call returns, and the next step may be started before this one is finished.
///
/// # Errors
/// If a program cannot be compiled at its first use, or the device fails.
pub fn start_step(
    session: &mut Session,
    shape: BatchShape,
    batches: &[RawBatch],
    (step, numbers): (u64, StepNumbers),
) -> Result<StartedStep> {
    let mut started = StartedStep { step, numbers, last: None, measured: HashMap::new() };
    let share = 1.0 / batches.len() as f64;
    for (key, takes_images) in plans::of_step(numbers.phase, shape, batches.len()) {
        if !takes_images {
            started.start(session, key, None, 1.0)?;
            continue;
        }
        for (i, batch) in batches.iter().enumerate() {
            started.start(session, key, Some((batch, i * shape.batch)), share)?;
        }
    }
    Ok(started)
}

/// Runs a step as [`start_step`] does, and waits for it.
///
/// # Errors
/// If the images do not fit the plan, or the device fails.
pub fn run_step(
    session: &mut Session,
    shape: BatchShape,
    batches: &[RawBatch],
    numbers: (u64, StepNumbers),
) -> Result<StepReport> {
    start_step(session, shape, batches, numbers)?.finish(session)
}

/// What programs measured.
type Measured = HashMap<Metric, f64>;

/// A program of a step that was started.
#[derive(Debug)]
struct Started {
    plan: PlanId,
    run: Run,
    /// Share of its metrics in the step's.
    share: f64,
}

impl Started {
    /// Waits for the program and adds its metrics. True if its checks passed.
    fn collect(self, session: &mut Session, measured: &mut Measured) -> Result<bool> {
        let outcome = session.collect_over_ranks(self.run)?;
        for (metric, value) in session.metrics(self.plan).iter().zip(outcome.outputs.iter().flatten()) {
            *measured.entry(*metric).or_default() += self.share * f64::from(*value);
        }
        Ok(outcome.committed)
    }
}

impl StartedStep {
    /// Starts a program of the step, on a batch with the number of its first sample in the step; then collects the one
    /// before it.
    fn start(&mut self, session: &mut Session, key: Key, batch: Option<(&RawBatch, usize)>, share: f64) -> Result<()> {
        let plan = session.plan(key)?;
        if let Some((batch, first)) = batch {
            upload_batch(session, plan, batch, (self.step, first))?;
        }
        let run = session.start(plan, self.numbers.scalars())?;
        match self.last.replace(Started { plan, run, share }) {
            Some(before) => before.collect(session, &mut self.measured).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Fills a plan's slots with a batch of a step whose first sample has number `first` there.
fn upload_batch(session: &mut Session, plan: PlanId, batch: &RawBatch, (step, first): (u64, usize)) -> Result<()> {
    session.upload(plan, "hr", batch.hr)?;
    session.upload(plan, "codes", batch.codes)?;
    if let Some(lr) = batch.lr {
        session.upload(plan, "lr", lr)?;
    }
    // The step's micro-batch of all ranks, of which this rank has every `count`th sample.
    let (ranks, count) = (session.ranks(), session.ranks().count());
    let first = first * count;
    if nn::is_stochastic(session.config()) {
        let samples = (first + ranks.index()..first + count * batch.codes.len()).step_by(count).map(|i| i as u64);
        let noise = match batch.noise {
            Some(given) => given.to_vec(),
            None => latent_noise(session.config(), Stream::Noise, step, samples),
        };
        session.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
    }
    Bands::upload(session, plan, (Stream::PerceptualBands, step, first as u32))
}

/// Standard normal noise for the stochastic generator, (N, D), each image's from its own counter.
pub fn latent_noise(cfg: &Config, stream: Stream, step: u64, images: impl IntoIterator<Item = u64>) -> Vec<f32> {
    let dim = cfg.generator.noise_dim;
    let draw = |image: u64| {
        let mut rng = Rng::new(cfg.training.seed, stream, step, image as u32);
        (0..dim).map(move |_| rng.normal())
    };
    images.into_iter().flat_map(draw).collect()
}
