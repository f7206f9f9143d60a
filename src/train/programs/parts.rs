//! What training programs are made of: prepared inputs, bound networks, the losses of each network.

use std::collections::HashMap;

use super::{BatchShape, Metrics, Programs};
use crate::config::{Degradation, PretrainLoss};
use crate::loss::{self, Adversarial, ContentTerms, ContentWeights};
use crate::nn::{self, Layout, Net, Vars};
use crate::ops::add::Add;
use crate::ops::mul::Mul;
use crate::ops::prepare::{Normalization, Prepare};
use crate::ops::resize::Resize;
use crate::ops::slice::SliceChannels;
use crate::tape::{DType, Shape, Tape, Value};
use crate::train::names::{self, scalars};
use crate::{Error, Result};

/// LR and HR as networks see them.
pub(super) struct Inputs {
    pub lr: Value,
    pub hr: Value,
    pub noise: Option<Value>,
}

/// A network on a tape: its parameters, and the current values of its buffers.
pub(super) struct Bound<'l> {
    pub layout: &'l Layout,
    pub flat: Value,
    pub params: HashMap<String, Value>,
    pub buffers: HashMap<String, Value>,
}

impl<'l> Bound<'l> {
    /// Binds `layout` to its states, whose names may have a prefix: `ema.` or `staged.`.
    pub fn new(tape: &mut Tape, layout: &'l Layout, params_prefix: &str, buffers_prefix: &str) -> Self {
        let flat = tape.state(&format!("{params_prefix}{}", layout.params_state()), Shape::vector(layout.len));
        let state = |b: &nn::Tensor| (b.name.clone(), tape.state(&format!("{buffers_prefix}{}", b.name), b.shape));
        let buffers = layout.buffers.iter().map(state).collect();
        Bound { layout, flat, params: HashMap::new(), buffers }
    }

    /// What a network is written with.
    pub fn vars(&mut self) -> Vars<'_> {
        Vars::Bound { layout: self.layout, flat: self.flat, buffers: &mut self.buffers, params: &mut self.params }
    }

    /// The same network with other parameters; the buffers go on where they are.
    pub fn with_params(&self, flat: Value) -> Self {
        Bound { layout: self.layout, flat, params: HashMap::new(), buffers: self.buffers.clone() }
    }
}

/// The generator's losses.
pub(super) struct GeneratorLosses {
    pub content: Value,
    pub adversarial: Value,
    pub total: Value,
}

impl Programs<'_> {
    pub(super) fn noise(&self, tape: &mut Tape, batch: usize) -> Option<Value> {
        let dim = self.cfg.generator.noise_dim;
        nn::is_stochastic(self.cfg).then(|| tape.input("noise", Shape([batch, 1, 1, dim]), DType::F32))
    }

    /// Normalise, flip and turn, then make LR: the first ops of every program.
    pub(super) fn inputs(&self, tape: &mut Tape, shape: BatchShape) -> Result<Inputs> {
        let (height, width) = shape.hr;
        let (bands, scale) = (self.cfg.model.in_bands, self.cfg.generator.scaling_factor);
        let normalization = Normalization::parse(self.cfg.data.method().name())
            .ok_or_else(|| Error::Internal("a normalisation that no op knows".into()))?;
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

    pub(super) fn run_generator(&self, tape: &mut Tape, inputs: &Inputs, g: &mut Bound, train: bool) -> Result<Value> {
        nn::generator(&mut Net::new(tape, g.vars(), train).aligned_to(self.align), self.cfg, inputs.lr, inputs.noise)
    }

    pub(super) fn run_discriminator(&self, tape: &mut Tape, image: Value, d: &mut Bound, train: bool) -> Result<Value> {
        nn::discriminator(&mut Net::new(tape, d.vars(), train).aligned_to(self.align), self.cfg, image)
    }

    fn content_weights(&self) -> ContentWeights {
        let l = &self.cfg.training.losses;
        ContentWeights {
            l1: l.l1_weight as f32,
            sam: l.sam_weight as f32,
            perceptual: l.perceptual_weight as f32,
            tv: l.tv_weight as f32,
            max_val: l.max_val as f32,
            ssim_win: l.ssim_win,
        }
    }

    /// The content loss of SR.
    fn content(&self, tape: &mut Tape, sr: Value, hr: Value) -> Result<ContentTerms> {
        let perceptual = self.perceptual_distance(tape, sr, hr)?;
        loss::content(tape, (sr, hr), perceptual, &self.content_weights())
    }

    /// One of the step's scalars.
    pub(super) fn scalar(&self, tape: &mut Tape, index: usize) -> Result<Value> {
        let known = tape.nodes().iter().position(|n| &*n.path == scalars::SLOT);
        let all = match known {
            Some(i) => Value(i as u32),
            None => tape.input(scalars::SLOT, Shape::vector(scalars::COUNT), DType::F32),
        };
        tape.push(SliceChannels { offset: index, channels: 1 }, &[all])
    }

    /// Pretraining: SR and what the generator minimises.
    pub(super) fn content_part(
        &self,
        tape: &mut Tape,
        inputs: &Inputs,
        g: &mut Bound,
        metrics: &mut Metrics,
    ) -> Result<Value> {
        let sr = self.run_generator(tape, inputs, g, true)?;
        let terms = self.content(tape, sr, inputs.hr)?;
        let objective = match self.cfg.training.pretrain_loss {
            PretrainLoss::Content => terms.total,
            PretrainLoss::L1 => terms.l1,
        };
        metrics.content(&terms, objective);
        metrics.push(names::GENERATOR_TOTAL, objective);
        Ok(objective)
    }

    /// D's loss on (HR, SR): D(y) first, then D(G(x)).
    pub(super) fn discriminator_part(
        &self,
        tape: &mut Tape,
        (hr, sr): (Value, Value),
        d: &mut Bound,
        metrics: &mut Metrics,
    ) -> Result<Value> {
        let real = self.run_discriminator(tape, hr, d, true)?;
        let fake = self.run_discriminator(tape, sr, d, true)?;
        let target = if self.cfg.training.label_smoothing { 0.9 } else { 1.0 };
        let mut d_loss = loss::discriminator_loss(tape, self.objective(), real, fake, target)?;
        let gamma = self.cfg.training.losses.r1_gamma;
        if gamma > 0.0 {
            let r1 = loss::r1_penalty(tape, real, hr, gamma as f32)?;
            d_loss = tape.push(Add::SUM, &[d_loss, r1])?;
            metrics.push(names::R1_PENALTY, r1);
        }
        metrics.push(names::D_ADVERSARIAL, d_loss);
        for (name, value) in loss::probabilities(tape, self.objective(), real, fake)? {
            metrics.push(name, value);
        }
        Ok(d_loss)
    }

    /// G's losses on (HR, SR) through the updated D: D(G(x)) first, then, if relativistic, D(y).
    pub(super) fn generator_part(
        &self,
        tape: &mut Tape,
        (hr, sr): (Value, Value),
        d: &mut Bound,
        metrics: &mut Metrics,
    ) -> Result<GeneratorLosses> {
        let fake = self.run_discriminator(tape, sr, d, true)?;
        let real = match self.objective() {
            Adversarial::RelativisticBce => Some(self.run_discriminator(tape, hr, d, true)?),
            Adversarial::Bce | Adversarial::Wasserstein => None,
        };
        let terms = self.content(tape, sr, hr)?;
        let adversarial = loss::generator_loss(tape, self.objective(), fake, real)?;
        let weight = self.scalar(tape, scalars::ADV_WEIGHT)?;
        let weighted = tape.push(Mul, &[adversarial, weight])?;
        let total = tape.push(Add::SUM, &[terms.total, weighted])?;
        metrics.content(&terms, terms.total);
        metrics.push(names::GENERATOR_ADVERSARIAL, adversarial);
        metrics.push(names::GENERATOR_TOTAL, total);
        Ok(GeneratorLosses { content: terms.total, adversarial, total })
    }
}
