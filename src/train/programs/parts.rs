//! What training programs are made of: prepared inputs, bound networks, the losses of each network.

use super::step_tape::{StepImages, StepTape};
use super::{BatchShape, Programs};
use crate::config::{Degradation, PretrainLoss};
use crate::graph::{Tape, Value};
use crate::loss::{self, Adversarial, ContentTerms, Images};
use crate::metrics::Metric;
use crate::nn::{self, Bound, Net};
use crate::ops::add::Add;
use crate::ops::mul::Mul;
use crate::ops::prepare::{Normalization, Prepare};
use crate::ops::resize::Resize;
use crate::ops::slice::SliceChannels;
use crate::train::scalars;
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// LR and HR as networks see them.
pub(super) struct Inputs {
    pub lr: Value,
    pub hr: Value,
    pub noise: Option<Value>,
}

impl Programs {
    pub(super) fn noise(&self, tape: &mut Tape, batch: usize) -> Option<Value> {
        let dim = self.cfg.generator.noise_dim;
        nn::is_stochastic(&self.cfg).then(|| tape.input("noise", Shape([batch, 1, 1, dim]), DType::F32))
    }

    /// How raw pixels become network input.
    pub(crate) fn normalization(&self) -> Result<Normalization> {
        let found = Normalization::parse(self.cfg.data.method().name());
        found.ok_or_else(|| Error::Internal("a normalisation that no op knows".into()))
    }

    /// Normalise, flip and turn, then make LR: the first ops of every program.
    pub(super) fn inputs(&self, tape: &mut Tape, shape: BatchShape) -> Result<Inputs> {
        let (height, width) = shape.hr;
        let (bands, scale) = (self.cfg.model.in_bands, self.cfg.generator.scaling_factor);
        let normalization = self.normalization()?;
        let codes = tape.input("codes", Shape([shape.batch, 1, 1, 1]), DType::U8);
        let raw = tape.input("hr", Shape([shape.batch, height, width, bands]), shape.hr_type);
        let hr = tape.push(Prepare { dtype: shape.hr_type, normalization }, &[raw, codes])?;
        let lr_shape = Shape([shape.batch, height / scale, width / scale, bands]);
        let lr = match shape.lr_type {
            Some(dtype) => {
                let raw = tape.input("lr", lr_shape, dtype);
                tape.push(Prepare { dtype, normalization }, &[raw, codes])?
            }
            None => {
                let antialias = self.cfg.data.degradation == Degradation::BicubicAntialias;
                tape.push(Resize { height: lr_shape.h(), width: lr_shape.w(), antialias }, &[hr])?
            }
        };
        Ok(Inputs { lr, hr, noise: self.noise(tape, shape.batch) })
    }

    fn net<'a>(&self, tape: &'a mut Tape, bound: &'a mut Bound, train: bool) -> Net<'a> {
        Net::new(tape, bound.vars(), train).aligned_to(self.align).synced_over(self.synced_ranks())
    }

    pub(super) fn run_generator(&self, tape: &mut Tape, inputs: &Inputs, g: &mut Bound, train: bool) -> Result<Value> {
        nn::generator(&mut self.net(tape, g, train), &self.cfg, inputs.lr, inputs.noise)
    }

    pub(super) fn run_discriminator(&self, tape: &mut Tape, image: Value, d: &mut Bound, train: bool) -> Result<Value> {
        nn::discriminator(&mut self.net(tape, d, train), &self.cfg, image)
    }

    /// The content loss of SR, whose components are measured.
    fn content(&self, step: &mut StepTape, StepImages { sr, hr }: StepImages) -> Result<ContentTerms> {
        let perceptual = self.perceptual_distances(&mut step.tape, sr, hr)?;
        let terms = loss::content(&mut step.tape, &Images { sr, hr, perceptual }, &self.cfg.training.losses)?;
        terms.components.iter().for_each(|(metric, value)| step.measure(*metric, *value));
        Ok(terms)
    }

    /// One of the step's scalars.
    pub(super) fn scalar(&self, tape: &mut Tape, index: usize) -> Result<Value> {
        let known = tape.nodes().iter().position(|n| &*n.path == scalars::SLOT);
        let all = match known {
            Some(i) => Value::at(i),
            None => tape.input(scalars::SLOT, Shape::vector(scalars::COUNT), DType::F32),
        };
        tape.push(SliceChannels { offset: index, channels: 1 }, &[all])
    }

    /// What the generator minimises in pretraining.
    pub(super) fn pretraining_loss(&self, step: &mut StepTape, images: StepImages) -> Result<Value> {
        let terms = self.content(step, images)?;
        let objective = match self.cfg.training.pretrain_loss {
            PretrainLoss::Content => terms.total,
            PretrainLoss::L1 => terms.get(Metric::TrainL1).unwrap_or(terms.total),
        };
        step.measure(Metric::Content, objective);
        step.measure(Metric::GeneratorTotal, objective);
        Ok(objective)
    }

    /// What the discriminator minimises: D(y) first, then D(G(x)); with R1.
    pub(super) fn discriminator_loss(&self, step: &mut StepTape, StepImages { sr, hr }: StepImages) -> Result<Value> {
        let (real, fake) = (step.judge(hr)?, step.judge(sr)?);
        let target = if self.cfg.training.label_smoothing { 0.9 } else { 1.0 };
        let mut d_loss = loss::discriminator_loss(&mut step.tape, self.objective(), real, fake, target)?;
        let gamma = self.cfg.training.losses.r1_gamma;
        if gamma > 0.0 {
            let r1 = loss::r1_penalty(&mut step.tape, real, hr, gamma as f32)?;
            d_loss = step.tape.push(Add::SUM, &[d_loss, r1])?;
            step.measure(Metric::R1Penalty, r1);
        }
        step.measure(Metric::DiscriminatorLoss, d_loss);
        for (metric, value) in loss::probabilities(&mut step.tape, self.objective(), real, fake)? {
            step.measure(metric, value);
        }
        Ok(d_loss)
    }

    /// What the generator minimises in the adversarial phase: D(G(x)) first, then, if relativistic, D(y).
    pub(super) fn generator_loss(&self, step: &mut StepTape, images: StepImages) -> Result<Value> {
        let fake = step.judge(images.sr)?;
        let real = match self.objective() {
            Adversarial::RelativisticBce { .. } => Some(step.judge(images.hr)?),
            Adversarial::Bce | Adversarial::Wasserstein => None,
        };
        let terms = self.content(step, images)?;
        let adversarial = loss::generator_loss(&mut step.tape, self.objective(), fake, real)?;
        let weight = self.scalar(&mut step.tape, scalars::ADV_WEIGHT)?;
        let weighted = step.tape.push(Mul, &[adversarial, weight])?;
        let total = step.tape.push(Add::SUM, &[terms.total, weighted])?;
        step.measure(Metric::Content, terms.total);
        step.measure(Metric::GeneratorAdversarial, adversarial);
        step.measure(Metric::GeneratorTotal, total);
        Ok(total)
    }
}
