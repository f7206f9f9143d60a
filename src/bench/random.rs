//! Steps on random images that are on the device before the first one.

use std::time::Duration;

use super::{Phase, Steps};
use crate::config::Config;
use crate::rng::{Rng, Stream};
use crate::runtime::{PlanId, Run};
use crate::train::perceptual::Bands;
use crate::train::programs::BatchShape;
use crate::train::scalars;
use crate::train::session::{Key, Session};
use crate::train::step::latent_noise;
use crate::types::DType;
use crate::{Error, Result, nn};

/// A plan whose inputs stay as they are.
pub(super) struct RandomSteps {
    plan: PlanId,
    scalars: [f32; scalars::COUNT],
    extent: (usize, usize),
    before: Option<Run>,
}

impl RandomSteps {
    /// The program of `phase` for HR images of side `hr`, its inputs filled.
    pub fn new(session: &mut Session, phase: Phase, hr: usize) -> Result<Self> {
        let cfg = session.config().clone();
        let batch = cfg.data.train_batch_size;
        let plan = session.plan(random_program(&cfg, phase, hr)?)?;
        upload_random(session, plan, hr)?;
        Ok(RandomSteps { plan, scalars: phase.numbers(&cfg).scalars(), extent: (batch, hr), before: None })
    }
}

impl Steps for RandomSteps {
    fn step(&mut self, session: &mut Session) -> Result<Duration> {
        let run = session.start(self.plan, self.scalars)?;
        if let Some(before) = self.before.replace(run) {
            session.collect(before)?;
        }
        Ok(Duration::ZERO)
    }

    fn plan(&self) -> PlanId {
        self.plan
    }

    fn extent(&self) -> (usize, usize) {
        self.extent
    }
}

/// The program of `phase` for pairs of f32 images with HR side `hr`.
///
/// # Errors
/// [`Error::Usage`] if the side is not a multiple of the scale.
pub fn random_program(cfg: &Config, phase: Phase, hr: usize) -> Result<Key> {
    let (batch, scale) = (cfg.data.train_batch_size, cfg.generator.scaling_factor);
    if hr == 0 || !hr.is_multiple_of(scale) {
        return Err(Error::usage(format!("--hr {hr} is not a multiple of the scale, {scale}")));
    }
    let lr = hr / scale;
    let shape = BatchShape { batch, hr: (hr, hr), hr_type: DType::F32, lr_type: Some(DType::F32) };
    Ok(phase.of_step().map_or(Key::Forward(batch, lr, lr), |phase| Key::Step(phase, shape)))
}

/// Fills the inputs of a program of [`random_program`] with random images, and noise where the generator reads it.
///
/// # Errors
/// If the plan is for images of another side.
pub fn upload_random(session: &mut Session, plan: PlanId, hr: usize) -> Result<()> {
    let cfg = session.config().clone();
    let (batch, bands) = (cfg.data.train_batch_size, cfg.model.in_bands);
    let lr = hr / cfg.generator.scaling_factor;
    let random = |side: usize, sample: u32| -> Vec<f32> {
        let mut rng = Rng::new(0, Stream::Noise, 0, sample);
        (0..batch * side * side * bands).map(|_| rng.uniform()).collect()
    };
    session.upload(plan, "hr", bytemuck::cast_slice(&random(hr, 0)))?;
    session.upload(plan, "lr", bytemuck::cast_slice(&random(lr, 1)))?;
    session.upload(plan, "codes", &vec![0; batch])?;
    if nn::is_stochastic(&cfg) {
        session.upload(plan, "noise", bytemuck::cast_slice(&latent_noise(&cfg, Stream::Noise, 0, 0..batch as u64)))?;
    }
    Bands::upload(session, plan, (Stream::PerceptualBands, 0, 0))
}
