//! One training step: schedules to scalars, a run of the right program, and the complete list of metrics. It is started
//! and finished apart, so that the next one can be on its way to the device meanwhile.

use std::collections::HashMap;

use super::names;
use super::names::scalars;
use super::perceptual::Bands;
use super::programs::BatchShape;
use super::session::{Key, Part, Session};
use crate::checkpoint::PlateauState;
use crate::config::Config;
use crate::data::Batch;
use crate::loss::Adversarial;
use crate::optim::schedule;
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
    /// Only the generator is trained.
    pub pretraining: bool,
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
        let pretraining = schedule::is_pretraining(training, step);
        let warmup = schedule::warmup_factor(sched, step);
        StepNumbers {
            pretraining,
            adv_weight: schedule::adversarial_weight(training, step),
            lr_g: optim.optim_g_lr * warmup * plateau_g.factor,
            lr_d: optim.optim_d_lr * plateau_d.factor,
            ema_on: training.ema.enabled && step >= training.ema.update_after_step,
        }
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
    /// Whether only the generator was trained.
    pub pretraining: bool,
    /// Every metric of a training step, by name, in the order of [`metric_names`].
    pub values: Vec<(&'static str, f64)>,
}

impl StepReport {
    /// The value of a metric; 0 for one that this run does not have.
    pub fn get(&self, name: &str) -> f64 {
        self.values.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, v)| *v)
    }
}

/// Names of the metrics of a training step under `cfg`, in the order in which they are logged.
pub fn metric_names(cfg: &Config, objective: Adversarial) -> Vec<&'static str> {
    let mut all = vec![
        "train_metrics/l1",
        "train_metrics/sam",
        names::TRAIN_PERCEPTUAL,
        "train_metrics/tv",
        "train_metrics/psnr",
        "train_metrics/ssim",
        names::CONTENT,
        names::GENERATOR_ADVERSARIAL,
        names::GENERATOR_TOTAL,
        names::GENERATOR_GRAD_NORM,
        names::D_ADVERSARIAL,
        names::R1_PENALTY,
        names::D_REAL,
        names::D_FAKE,
        names::DISCRIMINATOR_GRAD_NORM,
    ];
    if objective == Adversarial::RelativisticBce {
        all.extend([names::D_REAL_RELATIVISTIC, names::D_FAKE_RELATIVISTIC]);
    }
    all.extend(["training/pretrain_phase", "training/adv_loss_weight", "lr_generator", "lr_discriminator"]);
    all.push("EMA/enabled");
    if cfg.training.ema.enabled {
        all.extend([
            "EMA/decay",
            "EMA/update_after_step",
            "EMA/use_num_updates",
            "EMA/is_active",
            "EMA/steps_until_activation",
            names::EMA_LAST_DECAY,
            names::EMA_NUM_UPDATES,
        ]);
    }
    all
}

/// A step that was started and whose report has not been taken.
#[derive(Debug)]
#[must_use = "the step's report is taken by `finish`"]
pub struct StartedStep {
    step: u64,
    numbers: StepNumbers,
    /// The last of its programs, which changes the state.
    last: Started,
    /// What the programs before it measured.
    measured: Measured,
}

impl StartedStep {
    /// Waits for the step; what it did.
    ///
    /// # Errors
    /// Those of the device.
    pub fn finish(self, session: &mut Session, cfg: &Config) -> Result<StepReport> {
        let StartedStep { step, numbers, last, mut measured } = self;
        let committed = last.collect(session, &mut measured)?;
        let ema = &cfg.training.ema;
        let counted = u8::from(committed && numbers.ema_on);
        let values = metric_names(cfg, session.programs().objective()).into_iter().map(|name| {
            // What the phase does not compute is logged as 0: the adversarial part in pretraining.
            let of_device = measured.get(name).copied().unwrap_or(0.0);
            let value = match name {
                "training/pretrain_phase" => f64::from(u8::from(numbers.pretraining)),
                "training/adv_loss_weight" => numbers.adv_weight,
                "lr_generator" => numbers.lr_g,
                "lr_discriminator" => numbers.lr_d,
                "EMA/enabled" => f64::from(u8::from(ema.enabled)),
                "EMA/decay" => ema.decay,
                "EMA/update_after_step" => ema.update_after_step as f64,
                "EMA/use_num_updates" => f64::from(u8::from(ema.use_num_updates)),
                "EMA/is_active" => f64::from(u8::from(numbers.ema_on)),
                "EMA/steps_until_activation" => ema.update_after_step.saturating_sub(step) as f64,
                names::EMA_NUM_UPDATES => of_device + f64::from(counted),
                names::EMA_LAST_DECAY if !committed => 0.0,
                _ => of_device,
            };
            (name, value)
        });
        Ok(StepReport { committed, pretraining: numbers.pretraining, values: values.collect() })
    }
}

/// Starts step `step` on its batches: one, or as many micro-batches as gradients are accumulated over. The batches are
/// free when the call returns, and the next step may be started before this one is finished.
///
/// # Errors
/// Those of the device and of compiling a program at its first use.
pub fn start_step(
    session: &mut Session,
    cfg: &Config,
    shape: BatchShape,
    batches: &[RawBatch],
    (step, numbers): (u64, StepNumbers),
) -> Result<StartedStep> {
    let scalars = numbers.scalars();
    let mut run = StepRun { session, cfg, step, scalars, before: None, measured: HashMap::new() };
    let last = match batches {
        [batch] => {
            let key = if numbers.pretraining { Key::Pretrain(shape) } else { Key::Adversarial(shape) };
            run.start(key, Some((batch, 0)), 1.0)?
        }
        _ => run.accumulated(shape, batches, numbers.pretraining)?,
    };
    Ok(StartedStep { step, numbers, last, measured: run.measured })
}

/// Runs a step as [`start_step`] does, and waits for it.
///
/// # Errors
/// Those of [`start_step`] and [`StartedStep::finish`].
pub fn run_step(
    session: &mut Session,
    cfg: &Config,
    shape: BatchShape,
    batches: &[RawBatch],
    numbers: (u64, StepNumbers),
) -> Result<StepReport> {
    start_step(session, cfg, shape, batches, numbers)?.finish(session, cfg)
}

/// Metrics that programs measured, by name.
type Measured = HashMap<String, f64>;

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
        let outcome = session.collect(self.run)?;
        for ((names, _), values) in session.device().plan(self.plan).outputs.iter().zip(&outcome.outputs) {
            for (name, value) in names.split('\n').zip(values) {
                *measured.entry(name.to_owned()).or_default() += self.share * f64::from(*value);
            }
        }
        Ok(outcome.committed)
    }
}

/// A step in progress: the programs that it runs and what they measured.
struct StepRun<'r, 'a> {
    session: &'r mut Session<'a>,
    cfg: &'r Config,
    step: u64,
    scalars: [f32; scalars::COUNT],
    /// The program that was started before, if it was not collected.
    before: Option<Started>,
    measured: Measured,
}

impl StepRun<'_, '_> {
    /// Starts a program, on a batch with the number of its first sample in the step.
    fn start(&mut self, key: Key, batch: Option<(&RawBatch, usize)>, share: f64) -> Result<Started> {
        let plan = self.session.plan(key)?;
        if let Some((batch, first)) = batch {
            self.session.upload(plan, "hr", batch.hr)?;
            self.session.upload(plan, "codes", batch.codes)?;
            if let Some(lr) = batch.lr {
                self.session.upload(plan, "lr", lr)?;
            }
            if nn::is_stochastic(self.cfg) {
                let samples = first as u64..(first + batch.codes.len()) as u64;
                let noise = match batch.noise {
                    Some(given) => given.to_vec(),
                    None => latent_noise(self.cfg, Stream::Noise, self.step, samples),
                };
                self.session.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
            }
            Bands::upload(self.session, plan, self.cfg, (Stream::PerceptualBands, self.step, first as u32))?;
        }
        Ok(Started { plan, run: self.session.start(plan, self.scalars)?, share })
    }

    /// Starts a part of a step with gradient accumulation, then collects the one before it.
    fn part(&mut self, part: Part, batch: Option<(&RawBatch, usize)>, share: f64) -> Result<()> {
        let started = self.start(Key::Accumulate(part), batch, share)?;
        match self.before.replace(started) {
            Some(before) => before.collect(self.session, &mut self.measured).map(|_| ()),
            None => Ok(()),
        }
    }

    /// All parts of a step with gradient accumulation; metrics are means over the micro-batches. The update, which
    /// needs the verdict on what the parts measured, is started when all of them have been collected.
    fn accumulated(&mut self, shape: BatchShape, batches: &[RawBatch], pretraining: bool) -> Result<Started> {
        let share = 1.0 / batches.len() as f64;
        let each = |run: &mut Self, part: Part| -> Result<()> {
            for (i, batch) in batches.iter().enumerate() {
                run.part(part, Some((batch, i * shape.batch)), share)?;
            }
            Ok(())
        };
        self.part(Part::Begin, None, 1.0)?;
        if pretraining {
            each(self, Part::Content(shape))?;
        } else {
            each(self, Part::Judge(shape))?;
            self.part(Part::Stage, None, 1.0)?;
            each(self, Part::Generate(shape))?;
        }
        if let Some(before) = self.before.take() {
            before.collect(self.session, &mut self.measured)?;
        }
        let losses = [names::CONTENT, names::GENERATOR_ADVERSARIAL, names::GENERATOR_TOTAL, names::D_ADVERSARIAL];
        let finite = losses.iter().all(|n| self.measured.get(*n).is_none_or(|v| v.is_finite()));
        self.scalars[scalars::GUARD] = if finite { 0.0 } else { f32::NAN };
        self.start(Key::Accumulate(Part::Update(!pretraining)), None, 1.0)
    }
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
