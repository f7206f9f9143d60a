//! From a loss to changed weights: gradient bucket, norm and clipping, Adam, statistics, average.

use std::collections::HashMap;
use std::sync::Arc;

use super::parts::Bound;
use super::{Metrics, Programs};
use crate::Result;
use crate::graph::{Tape, Value};
use crate::nn::Layout;
use crate::ops::adam::{Adam, AdamCommit, AdamWeights};
use crate::ops::assign::Assign;
use crate::ops::concat::ConcatFlat;
use crate::ops::ema::{EmaBuffers, EmaCommit, EmaDecay};
use crate::ops::grad_norm::{ClipScale, GradNorm};
use crate::ops::mul::Mul;
use crate::plan::Commit;
use crate::train::names;
use crate::train::names::scalars;
use crate::types::Shape;

/// A network's gradients in one bucket, their norm, and the factor that clips them.
pub(super) struct Scaled {
    pub grad: Value,
    pub norm: Value,
    pub clip: Value,
    /// The clipped norm's square, which bounds what Adam's second moments take: finite only if they stay so.
    pub square: Value,
}

impl Programs<'_> {
    /// Gradients of `objective` for a network's parameters in one contiguous bucket.
    pub(super) fn gradient(&self, tape: &mut Tape, objective: Value, net: &Bound) -> Result<Value> {
        let one = tape.scalar(1.0);
        let params = &net.layout.params;
        let params: Vec<_> = params.iter().filter_map(|p| Some((p.offset, *net.params.get(&p.name)?))).collect();
        let wrt: Vec<Value> = params.iter().map(|(_, v)| *v).collect();
        let grads = tape.gradients(&[(objective, one)], &wrt)?;
        let found = params.iter().zip(grads).filter_map(|((offset, _), g)| Some((*offset, g?)));
        let (offsets, parts): (Vec<usize>, Vec<Value>) = found.unzip();
        tape.scoped(&format!("{}.gradient", net.layout.prefix), |tape| {
            tape.push(ConcatFlat { offsets, shape: Shape::vector(net.layout.len) }, &parts)
        })
    }

    /// The bucket's norm and the factor that clips it to `Optimizers.gradient_clip_val`.
    pub(super) fn scale(&self, tape: &mut Tape, layout: &Layout, grad: Value) -> Result<Scaled> {
        tape.scoped(&format!("{}.gradient", layout.prefix), |tape| {
            let norm = tape.push(GradNorm, &[grad])?;
            let max_norm = self.cfg.optimizers.gradient_clip_val as f32;
            let clip = if max_norm > 0.0 { tape.push(ClipScale { max_norm }, &[norm])? } else { tape.scalar(1.0) };
            let clipped = tape.push(Mul, &[norm, clip])?;
            let square = tape.push(Mul, &[clipped, clipped])?;
            Ok(Scaled { grad, norm, clip, square })
        })
    }

    fn adam(&self, layout: &Layout, weight_decay: f64) -> Adam {
        let o = &self.cfg.optimizers;
        Adam { beta1: o.betas[0], beta2: o.betas[1], eps: o.eps, weight_decay, decayed: layout.decayed() }
    }

    fn adam_d(&self) -> Adam {
        self.adam(&self.discriminator, self.cfg.optimizers.weight_decay_d)
    }

    /// D's weights after its update, before it is certain that the step counts.
    pub(super) fn updated_discriminator(&self, tape: &mut Tape, d: &Bound, scaled: &Scaled) -> Result<Value> {
        let n = Shape::vector(self.discriminator.len);
        let m = tape.state(names::D_EXP_AVG, n);
        let v = tape.state(names::D_EXP_AVG_SQ, n);
        let t = tape.state(names::D_UPDATES, Shape::SCALAR);
        let lr = self.scalar(tape, scalars::LR_D)?;
        let operands = [d.flat, m, v, scaled.grad, lr, scaled.clip, t];
        tape.scoped("optim_d", |tape| tape.push(AdamWeights(self.adam_d()), &operands))
    }

    pub(super) fn commit_discriminator(
        &self,
        tape: &mut Tape,
        scaled: &Scaled,
        buffers: &HashMap<String, Value>,
        commits: &mut Vec<Commit>,
    ) -> Result<()> {
        let lr = self.scalar(tape, scalars::LR_D)?;
        let states = [&self.discriminator.params_state(), names::D_EXP_AVG, names::D_EXP_AVG_SQ];
        commits.push(adam_commit(self.adam_d(), &self.discriminator, (states, names::D_UPDATES), (scaled, lr)));
        commit_buffers(&self.discriminator, "", buffers, commits);
        Ok(())
    }

    pub(super) fn commit_generator(
        &self,
        tape: &mut Tape,
        scaled: &Scaled,
        buffers: &HashMap<String, Value>,
        commits: &mut Vec<Commit>,
        metrics: &mut Metrics,
    ) -> Result<()> {
        let lr = self.scalar(tape, scalars::LR_G)?;
        let adam = self.adam(&self.generator, self.cfg.optimizers.weight_decay_g);
        let params = self.generator.params_state();
        let states = [params.as_str(), names::G_EXP_AVG, names::G_EXP_AVG_SQ];
        commits.push(adam_commit(adam, &self.generator, (states, names::G_UPDATES), (scaled, lr)));
        commit_buffers(&self.generator, "", buffers, commits);
        let ema = &self.cfg.training.ema;
        if !ema.enabled {
            return Ok(());
        }
        let n = Shape::vector(self.generator.len);
        let enabled = self.scalar(tape, scalars::EMA_ON)?;
        let count = tape.state(names::EMA_UPDATES, Shape::SCALAR);
        let (decay, use_num_updates) = (ema.decay, ema.use_num_updates);
        metrics.push(names::EMA_LAST_DECAY, tape.push(EmaDecay { decay, use_num_updates }, &[enabled, count])?);
        metrics.push(names::EMA_NUM_UPDATES, count);
        let states = vec![(format!("ema.{params}"), n), (params, n), (names::EMA_UPDATES.to_owned(), Shape::SCALAR)];
        commits.push(Commit { op: Arc::new(EmaCommit { decay, use_num_updates }), inputs: vec![enabled], states });
        for b in &self.generator.buffers {
            let states = vec![(format!("ema.{}", b.name), b.shape), (b.name.clone(), b.shape)];
            commits.push(Commit { op: Arc::new(EmaBuffers), inputs: vec![enabled], states });
        }
        Ok(())
    }
}

/// Adam's update of weights and moments, and its counter.
fn adam_commit(
    adam: Adam,
    layout: &Layout,
    (states, counter): ([&str; 3], &str),
    (scaled, lr): (&Scaled, Value),
) -> Commit {
    let mut states: Vec<_> = states.map(|s| (s.to_owned(), Shape::vector(layout.len))).into();
    states.push((counter.to_owned(), Shape::SCALAR));
    Commit { op: Arc::new(AdamCommit(adam)), inputs: vec![scaled.grad, lr, scaled.clip], states }
}

/// The states of `layout`'s buffers, under a prefix, take their new values.
pub(super) fn commit_buffers(
    layout: &Layout,
    prefix: &str,
    buffers: &HashMap<String, Value>,
    commits: &mut Vec<Commit>,
) {
    for b in &layout.buffers {
        if let Some(v) = buffers.get(&b.name) {
            let states = vec![(format!("{prefix}{}", b.name), b.shape)];
            commits.push(Commit { op: Arc::new(Assign), inputs: vec![*v], states });
        }
    }
}
