//! The programs of a run, each a whole step on one tape: `pretrain`, `adversarial`, `evaluate`.
//!
//! A training step's order (see `adversarial`): SR = G(LR) once; D's loss on HR and SR, D's update staged; then
//! G's loss through the updated D on the same SR; then all state changes, only if every loss and gradient norm
//! is finite.

use std::collections::HashMap;
use std::sync::Arc;

use super::names::{self, scalars};
use crate::config::{AdvLoss, Config, Degradation, PretrainLoss};
use crate::loss::{self, Adversarial, ContentTerms, ContentWeights};
use crate::nn::{self, Layout, Net, Vars};
use crate::ops::adam::{Adam, AdamCommit, AdamWeights};
use crate::ops::assign::Assign;
use crate::ops::concat::{ConcatChannels, ConcatFlat};
use crate::ops::ema::{EmaBuffers, EmaCommit, EmaDecay};
use crate::ops::grad_norm::{ClipScale, GradNorm};
use crate::ops::image_metrics::ImageMetrics;
use crate::ops::mul::Mul;
use crate::ops::prepare::{Normalization, Prepare};
use crate::ops::resize::Resize;
use crate::ops::slice::SliceChannels;
use crate::plan::{Commit, Program};
use crate::tape::{DType, Shape, Tape, Value};
use crate::{Error, Result};

/// Extent and types of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Images.
    pub batch: usize,
    /// HR rows and columns.
    pub hr: (usize, usize),
    /// Type of the raw HR pixels.
    pub hr_type: DType,
    /// Type of the raw LR pixels of paired data; `None` makes LR from HR.
    pub lr_type: Option<DType>,
}

/// Writes programs for one config.
pub struct Programs<'a> {
    cfg: &'a Config,
    generator: Layout,
    discriminator: Layout,
}

/// LR and HR as networks see them, and the scalars of the step.
struct Inputs {
    lr: Value,
    hr: Value,
    noise: Option<Value>,
}

/// A network's forward passes on one tape: its parameters and the current values of its buffers.
struct Binding {
    flat: Value,
    params: HashMap<String, Value>,
}

impl Binding {
    fn new(flat: Value) -> Self {
        Binding { flat, params: HashMap::new() }
    }
}

/// A gradient bucket with its norm and the factor that clips it.
struct Bucket {
    grad: Value,
    norm: Value,
    clip: Value,
}

impl<'a> Programs<'a> {
    /// Programs for `cfg`.
    ///
    /// # Errors
    /// If the networks of the config cannot be built.
    pub fn new(cfg: &'a Config) -> Result<Self> {
        let (generator, discriminator) = (nn::generator_layout(cfg)?, nn::discriminator_layout(cfg)?);
        Ok(Programs { cfg, generator, discriminator })
    }

    /// The generator's tensors.
    pub fn generator(&self) -> &Layout {
        &self.generator
    }

    /// The discriminator's tensors.
    pub fn discriminator(&self) -> &Layout {
        &self.discriminator
    }

    /// Which adversarial objective the config names.
    pub fn objective(&self) -> Adversarial {
        let losses = &self.cfg.training.losses;
        match losses.adv_loss_type {
            AdvLoss::Wasserstein => Adversarial::Wasserstein,
            AdvLoss::Bce if losses.relativistic_average_d => Adversarial::RelativisticBce,
            AdvLoss::Bce => Adversarial::Bce,
        }
    }

    /// The generator alone on the content loss.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn pretrain(&self, shape: BatchShape) -> Result<Program> {
        let mut tape = Tape::new();
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Binding::new(tape.state(&self.generator.params_state(), Shape::vector(self.generator.len)));
        let mut g_buffers = HashMap::new();
        let sr = self.run_generator(&mut tape, &inputs, &mut g, &mut g_buffers, true)?;
        let terms = loss::content(&mut tape, sr, inputs.hr, &self.content_weights())?;
        let objective = match self.cfg.training.pretrain_loss {
            PretrainLoss::Content => terms.total,
            PretrainLoss::L1 => terms.l1,
        };
        let bucket = self.bucket(&mut tape, objective, &self.generator, &g)?;
        let mut metrics = Metrics::default();
        metrics.content(&terms, objective);
        metrics.push(names::GENERATOR_TOTAL, objective);
        metrics.push(names::GENERATOR_GRAD_NORM, bucket.norm);
        let mut commits = Vec::new();
        self.commit_generator(&mut tape, &bucket, &g_buffers, &mut commits, &mut metrics)?;
        let checks = vec![objective, bucket.norm];
        metrics.finish("pretrain", tape, checks, commits)
    }

    /// Discriminator and generator.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn adversarial(&self, shape: BatchShape) -> Result<Program> {
        let mut tape = Tape::new();
        let inputs = self.inputs(&mut tape, shape)?;
        let losses = &self.cfg.training.losses;
        let objective = self.objective();
        let mut g = Binding::new(tape.state(&self.generator.params_state(), Shape::vector(self.generator.len)));
        let mut d = Binding::new(tape.state(&self.discriminator.params_state(), Shape::vector(self.discriminator.len)));
        let (mut g_buffers, mut d_buffers) = (HashMap::new(), HashMap::new());
        let sr = self.run_generator(&mut tape, &inputs, &mut g, &mut g_buffers, true)?;
        let mut metrics = Metrics::default();

        let real = self.run_discriminator(&mut tape, inputs.hr, &mut d, &mut d_buffers, true)?;
        let fake = self.run_discriminator(&mut tape, sr, &mut d, &mut d_buffers, true)?;
        let target = if self.cfg.training.label_smoothing { 0.9 } else { 1.0 };
        let mut d_loss = loss::discriminator_loss(&mut tape, objective, real, fake, target)?;
        if losses.r1_gamma > 0.0 {
            let r1 = loss::r1_penalty(&mut tape, real, inputs.hr, losses.r1_gamma as f32)?;
            d_loss = tape.push(crate::ops::add::Add::SUM, &[d_loss, r1])?;
            metrics.push(names::R1_PENALTY, r1);
        }
        metrics.push(names::D_ADVERSARIAL, d_loss);
        for (name, value) in loss::probabilities(&mut tape, objective, real, fake)? {
            metrics.push(name, value);
        }
        let d_bucket = self.bucket(&mut tape, d_loss, &self.discriminator, &d)?;
        metrics.push(names::DISCRIMINATOR_GRAD_NORM, d_bucket.norm);

        let mut updated = Binding::new(self.staged_discriminator(&mut tape, &d, &d_bucket)?);
        let fake = self.run_discriminator(&mut tape, sr, &mut updated, &mut d_buffers, true)?;
        let real = match objective {
            Adversarial::RelativisticBce => {
                Some(self.run_discriminator(&mut tape, inputs.hr, &mut updated, &mut d_buffers, true)?)
            }
            _ => None,
        };
        let terms = loss::content(&mut tape, sr, inputs.hr, &self.content_weights())?;
        let adversarial = loss::generator_loss(&mut tape, objective, fake, real)?;
        let weight = self.scalar(&mut tape, scalars::ADV_WEIGHT)?;
        let weighted = tape.push(Mul, &[adversarial, weight])?;
        let total = tape.push(crate::ops::add::Add::SUM, &[terms.total, weighted])?;
        let g_bucket = self.bucket(&mut tape, total, &self.generator, &g)?;
        metrics.content(&terms, terms.total);
        metrics.push(names::GENERATOR_ADVERSARIAL, adversarial);
        metrics.push(names::GENERATOR_TOTAL, total);
        metrics.push(names::GENERATOR_GRAD_NORM, g_bucket.norm);

        let mut commits = Vec::new();
        self.commit_discriminator(&mut tape, &d_bucket, &d_buffers, &mut commits)?;
        self.commit_generator(&mut tape, &g_bucket, &g_buffers, &mut commits, &mut metrics)?;
        let checks = vec![d_loss, d_bucket.norm, terms.total, adversarial, total, g_bucket.norm];
        metrics.finish("adversarial", tape, checks, commits)
    }

    /// Validation: SR with the stored statistics, metrics per image, logits of D where asked, and the images
    /// themselves where asked.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn evaluate(&self, shape: BatchShape, options: EvaluateOptions) -> Result<Program> {
        let mut tape = Tape::new();
        let inputs = self.inputs(&mut tape, shape)?;
        let prefix = if options.ema { "ema." } else { "" };
        let flat = tape.state(&format!("{prefix}{}", self.generator.params_state()), Shape::vector(self.generator.len));
        let mut g = Binding::new(flat);
        let mut g_buffers = HashMap::new();
        for b in &self.generator.buffers {
            g_buffers.insert(b.name.clone(), tape.state(&format!("{prefix}{}", b.name), b.shape));
        }
        let sr = self.run_generator(&mut tape, &inputs, &mut g, &mut g_buffers, false)?;
        let losses = &self.cfg.training.losses;
        let image_metrics = ImageMetrics { max_val: losses.max_val as f32, ssim_win: losses.ssim_win };
        let mut outputs = vec![("metrics".to_owned(), tape.push(image_metrics, &[sr, inputs.hr])?)];
        if options.bicubic {
            let (height, width) = shape.hr;
            let up = tape.push(Resize { height, width, antialias: false }, &[inputs.lr])?;
            outputs.push(("bicubic_metrics".to_owned(), tape.push(image_metrics, &[up, inputs.hr])?));
        }
        if options.discriminator {
            let flat = tape.state(&self.discriminator.params_state(), Shape::vector(self.discriminator.len));
            let (mut d, mut buffers) = (Binding::new(flat), HashMap::new());
            let real = self.run_discriminator(&mut tape, inputs.hr, &mut d, &mut buffers, false)?;
            let fake = self.run_discriminator(&mut tape, sr, &mut d, &mut buffers, false)?;
            outputs.extend([("real_logits".to_owned(), real), ("fake_logits".to_owned(), fake)]);
        }
        if options.images {
            outputs.extend([("lr".to_owned(), inputs.lr), ("sr".to_owned(), sr), ("hr".to_owned(), inputs.hr)]);
        }
        Ok(Program { name: "evaluate", tape, outputs, checks: vec![], commits: vec![] })
    }

    /// The generator's forward pass alone, in evaluation mode, on LR that is already prepared.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn forward(&self, batch: usize, lr: (usize, usize)) -> Result<Program> {
        let mut tape = Tape::new();
        let lr = tape.input("lr", Shape([batch, lr.0, lr.1, self.cfg.model.in_bands]), DType::F32);
        let noise = self.noise(&mut tape, batch);
        let inputs = Inputs { lr, hr: lr, noise };
        let mut g = Binding::new(tape.state(&self.generator.params_state(), Shape::vector(self.generator.len)));
        let sr = self.run_generator(&mut tape, &inputs, &mut g, &mut HashMap::new(), false)?;
        let outputs = vec![("sr".to_owned(), sr)];
        Ok(Program { name: "forward", tape, outputs, checks: vec![], commits: vec![] })
    }

    fn noise(&self, tape: &mut Tape, batch: usize) -> Option<Value> {
        let dim = self.cfg.generator.noise_dim;
        nn::is_stochastic(self.cfg).then(|| tape.input("noise", Shape([batch, 1, 1, dim]), DType::F32))
    }

    /// Normalise, flip and turn, then make LR: the first ops of every program.
    fn inputs(&self, tape: &mut Tape, shape: BatchShape) -> Result<Inputs> {
        let (height, width) = shape.hr;
        let (bands, scale) = (self.cfg.model.in_bands, self.cfg.generator.scaling_factor);
        let normalization = Normalization::parse(self.cfg.data.normalization.name())
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

    fn run_generator(
        &self,
        tape: &mut Tape,
        inputs: &Inputs,
        g: &mut Binding,
        buffers: &mut HashMap<String, Value>,
        train: bool,
    ) -> Result<Value> {
        let vars = Vars::Bound { layout: &self.generator, flat: g.flat, buffers, params: &mut g.params };
        nn::generator(&mut Net::new(tape, vars, train), self.cfg, inputs.lr, inputs.noise)
    }

    fn run_discriminator(
        &self,
        tape: &mut Tape,
        image: Value,
        d: &mut Binding,
        buffers: &mut HashMap<String, Value>,
        train: bool,
    ) -> Result<Value> {
        let vars = Vars::Bound { layout: &self.discriminator, flat: d.flat, buffers, params: &mut d.params };
        nn::discriminator(&mut Net::new(tape, vars, train), self.cfg, image)
    }

    fn content_weights(&self) -> ContentWeights {
        let l = &self.cfg.training.losses;
        ContentWeights {
            l1: l.l1_weight as f32,
            sam: l.sam_weight as f32,
            tv: l.tv_weight as f32,
            max_val: l.max_val as f32,
            ssim_win: l.ssim_win,
        }
    }

    fn scalar(&self, tape: &mut Tape, index: usize) -> Result<Value> {
        let known = tape.nodes().iter().position(|n| &*n.path == scalars::SLOT);
        let all = match known {
            Some(i) => Value(i as u32),
            None => tape.input(scalars::SLOT, Shape::vector(scalars::COUNT), DType::F32),
        };
        tape.push(SliceChannels { offset: index, channels: 1 }, &[all])
    }

    /// Gradients of `objective` for a network's parameters in one contiguous bucket.
    fn bucket(&self, tape: &mut Tape, objective: Value, layout: &Layout, net: &Binding) -> Result<Bucket> {
        let one = tape.scalar(1.0);
        let params: Vec<_> = layout.params.iter().filter_map(|p| Some((p.offset, *net.params.get(&p.name)?))).collect();
        let wrt: Vec<Value> = params.iter().map(|(_, v)| *v).collect();
        let grads = tape.gradients(&[(objective, one)], &wrt)?;
        let found = params.iter().zip(grads).filter_map(|((offset, _), g)| Some((*offset, g?)));
        let (offsets, parts): (Vec<usize>, Vec<Value>) = found.unzip();
        tape.scoped(&format!("{}.gradient", layout.prefix), |tape| {
            let grad = tape.push(ConcatFlat { offsets, shape: Shape::vector(layout.len) }, &parts)?;
            let norm = tape.push(GradNorm, &[grad])?;
            let max_norm = self.cfg.optimizers.gradient_clip_val as f32;
            let clip = if max_norm > 0.0 { tape.push(ClipScale { max_norm }, &[norm])? } else { tape.scalar(1.0) };
            Ok(Bucket { grad, norm, clip })
        })
    }

    fn adam(&self, layout: &Layout, weight_decay: f64) -> Adam {
        let o = &self.cfg.optimizers;
        Adam { beta1: o.betas[0], beta2: o.betas[1], eps: o.eps, weight_decay, decayed: layout.decayed() }
    }

    /// D's weights after its update, before it is certain that the step counts.
    fn staged_discriminator(&self, tape: &mut Tape, d: &Binding, bucket: &Bucket) -> Result<Value> {
        let n = Shape::vector(self.discriminator.len);
        let m = tape.state(names::D_EXP_AVG, n);
        let v = tape.state(names::D_EXP_AVG_SQ, n);
        let t = tape.state(names::D_UPDATES, Shape::SCALAR);
        let lr = self.scalar(tape, scalars::LR_D)?;
        let adam = self.adam(&self.discriminator, self.cfg.optimizers.weight_decay_d);
        let operands = [d.flat, m, v, bucket.grad, lr, bucket.clip, t];
        tape.scoped("optim_d", |tape| tape.push(AdamWeights(adam), &operands))
    }

    fn commit_discriminator(
        &self,
        tape: &mut Tape,
        bucket: &Bucket,
        buffers: &HashMap<String, Value>,
        commits: &mut Vec<Commit>,
    ) -> Result<()> {
        let n = Shape::vector(self.discriminator.len);
        let adam = self.adam(&self.discriminator, self.cfg.optimizers.weight_decay_d);
        let states = [self.discriminator.params_state(), names::D_EXP_AVG.into(), names::D_EXP_AVG_SQ.into()];
        let mut states: Vec<(String, Shape)> = states.into_iter().map(|s| (s, n)).collect();
        states.push((names::D_UPDATES.into(), Shape::SCALAR));
        let inputs = vec![bucket.grad, self.scalar(tape, scalars::LR_D)?, bucket.clip];
        commits.push(Commit { op: Arc::new(AdamCommit(adam)), inputs, states });
        commit_buffers(&self.discriminator, buffers, commits);
        Ok(())
    }

    fn commit_generator(
        &self,
        tape: &mut Tape,
        bucket: &Bucket,
        buffers: &HashMap<String, Value>,
        commits: &mut Vec<Commit>,
        metrics: &mut Metrics,
    ) -> Result<()> {
        let n = Shape::vector(self.generator.len);
        let params = self.generator.params_state();
        let adam = self.adam(&self.generator, self.cfg.optimizers.weight_decay_g);
        let states = [params.clone(), names::G_EXP_AVG.into(), names::G_EXP_AVG_SQ.into()];
        let mut states: Vec<(String, Shape)> = states.into_iter().map(|s| (s, n)).collect();
        states.push((names::G_UPDATES.into(), Shape::SCALAR));
        let inputs = vec![bucket.grad, self.scalar(tape, scalars::LR_G)?, bucket.clip];
        commits.push(Commit { op: Arc::new(AdamCommit(adam)), inputs, states });
        commit_buffers(&self.generator, buffers, commits);
        let ema = &self.cfg.training.ema;
        if ema.enabled {
            let enabled = self.scalar(tape, scalars::EMA_ON)?;
            let count = tape.state(names::EMA_UPDATES, Shape::SCALAR);
            let (decay, use_num_updates) = (ema.decay, ema.use_num_updates);
            metrics.push(names::EMA_LAST_DECAY, tape.push(EmaDecay { decay, use_num_updates }, &[enabled, count])?);
            let states =
                vec![(format!("ema.{params}"), n), (params, n), (names::EMA_UPDATES.to_owned(), Shape::SCALAR)];
            commits.push(Commit { op: Arc::new(EmaCommit { decay, use_num_updates }), inputs: vec![enabled], states });
            for b in &self.generator.buffers {
                let states = vec![(format!("ema.{}", b.name), b.shape), (b.name.clone(), b.shape)];
                commits.push(Commit { op: Arc::new(EmaBuffers), inputs: vec![enabled], states });
            }
        }
        Ok(())
    }
}

/// What a validation program gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EvaluateOptions {
    /// Use the averaged weights.
    pub ema: bool,
    /// Logits of the discriminator on HR and SR.
    pub discriminator: bool,
    /// LR, SR and HR.
    pub images: bool,
    /// Metrics of bicubic upsampling of LR, beside SR's.
    pub bicubic: bool,
}

fn commit_buffers(layout: &Layout, buffers: &HashMap<String, Value>, commits: &mut Vec<Commit>) {
    for b in &layout.buffers {
        if let Some(v) = buffers.get(&b.name) {
            let states = vec![(b.name.clone(), b.shape)];
            commits.push(Commit { op: Arc::new(Assign), inputs: vec![*v], states });
        }
    }
}

/// Scalars that a program reports, in one vector.
#[derive(Default)]
struct Metrics {
    names: Vec<&'static str>,
    values: Vec<Value>,
}

impl Metrics {
    fn push(&mut self, name: &'static str, value: Value) {
        self.names.push(name);
        self.values.push(value);
    }

    fn content(&mut self, terms: &ContentTerms, objective: Value) {
        self.push(names::CONTENT, objective);
        let components = [terms.l1, terms.sam, terms.tv, terms.psnr, terms.ssim];
        for (name, value) in names::TRAIN_COMPONENTS.into_iter().zip(components) {
            self.push(name, value);
        }
    }

    fn finish(self, name: &'static str, mut tape: Tape, checks: Vec<Value>, commits: Vec<Commit>) -> Result<Program> {
        let vector = tape.scoped("metrics", |tape| tape.push(ConcatChannels, &self.values))?;
        let outputs = vec![(self.names.join("\n"), vector)];
        Ok(Program { name, tape, outputs, checks, commits })
    }
}
