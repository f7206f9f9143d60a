//! From a network's gradients to its changed state: norm and clipping, Adam, buffers, average.

use std::sync::Arc;

use super::Programs;
use super::step_tape::StepTape;
use crate::Result;
use crate::graph::{Tape, Value};
use crate::metrics::Metric;
use crate::nn::{Layout, Network, Tensor};
use crate::ops::adam::{Adam, AdamCommit, AdamWeights};
use crate::ops::ema::{EmaBuffers, EmaCommit, EmaDecay};
use crate::ops::grad_norm::{ClipScale, GradNorm};
use crate::ops::mul::Mul;
use crate::ops::rank_mean::RankMeanCommit;
use crate::plan::Commit;
use crate::train::scalars;
use crate::train::states::{EMA, EMA_UPDATES, Moments, moments};
use crate::types::Shape;

/// The buffers that are measured on batches, by the ends of their names.
const RUNNING: [&str; 2] = [".running_mean", ".running_var"];

pub(super) fn is_measured(buffer: &Tensor) -> bool {
    RUNNING.iter().any(|name| buffer.name.ends_with(name))
}

/// A network's gradients, their norm, and the factor that clips them.
#[derive(Clone, Copy)]
pub(super) struct Clipped {
    pub grad: Value,
    pub norm: Value,
    pub factor: Value,
    /// The clipped norm's square, which bounds what Adam's second moments take: finite only if they stay so.
    pub square: Value,
}

impl Programs {
    /// Flat gradients with their norm and the factor that clips them to `Optimizers.gradient_clip_val`.
    pub(super) fn clip(&self, tape: &mut Tape, layout: &Layout, grad: Value) -> Result<Clipped> {
        tape.scoped(&format!("{}.gradient", layout.prefix), |tape| {
            let norm = tape.push(GradNorm, &[grad])?;
            let max_norm = self.cfg.optimizers.gradient_clip_val as f32;
            let factor = if max_norm > 0.0 { tape.push(ClipScale { max_norm }, &[norm])? } else { tape.scalar(1.0) };
            let clipped = tape.push(Mul, &[norm, factor])?;
            let square = tape.push(Mul, &[clipped, clipped])?;
            Ok(Clipped { grad, norm, factor, square })
        })
    }

    fn adam(&self, network: Network) -> Adam {
        let o = &self.cfg.optimizers;
        let weight_decay = match network {
            Network::Generator => o.weight_decay_g,
            Network::Discriminator => o.weight_decay_d,
        };
        let decayed = self.layout(network).decayed();
        Adam { beta1: o.betas[0], beta2: o.betas[1], eps: o.eps, weight_decay, decayed }
    }

    fn learning_rate(&self, tape: &mut Tape, network: Network) -> Result<Value> {
        self.scalar(
            tape,
            match network {
                Network::Generator => scalars::LR_G,
                Network::Discriminator => scalars::LR_D,
            },
        )
    }

    /// A network's weights after its update, before it is certain that the step counts.
    pub(super) fn updated_weights(&self, step: &mut StepTape, network: Network, grads: &Clipped) -> Result<Value> {
        let (n, weights) = (Shape::vector(self.layout(network).len), step.weights(network));
        let Moments { exp_avg, exp_avg_sq, updates } = moments(network);
        let tape = &mut step.tape;
        let (m, v) = (tape.state(exp_avg, n), tape.state(exp_avg_sq, n));
        let t = tape.state(updates, Shape::SCALAR);
        let lr = self.learning_rate(tape, network)?;
        tape.scoped(exp_avg.trim_end_matches(".exp_avg"), |tape| {
            tape.push(AdamWeights(self.adam(network)), &[weights, m, v, grads.grad, lr, grads.factor, t])
        })
    }

    /// Adam's update of a network, and its buffers.
    pub(super) fn commit_network(&self, step: &mut StepTape, network: Network, grads: &Clipped) -> Result<()> {
        let (layout, Moments { exp_avg, exp_avg_sq, updates }) = (self.layout(network), moments(network));
        let lr = self.learning_rate(&mut step.tape, network)?;
        let flat = Shape::vector(layout.len);
        let states = vec![
            (layout.params_state(), flat),
            (exp_avg.to_owned(), flat),
            (exp_avg_sq.to_owned(), flat),
            (updates.to_owned(), Shape::SCALAR),
        ];
        let inputs = vec![grads.grad, lr, grads.factor];
        step.commits.push(Commit { op: Arc::new(AdamCommit(self.adam(network))), inputs, states });
        step.commit_buffers(network, "");
        Ok(())
    }

    /// Running statistics are the mean of what the ranks have measured, each on its own batch. Other buffers follow from the
    /// weights and are the same on all.
    pub(super) fn commit_rank_mean(&self, step: &mut StepTape, network: Network) {
        let states: Vec<_> =
            self.layout(network).buffers.iter().filter(|b| is_measured(b)).map(|b| (b.name.clone(), b.shape)).collect();
        if self.ranks > self.synced_ranks() && !states.is_empty() {
            step.commits.push(Commit { op: Arc::new(RankMeanCommit), inputs: vec![], states });
        }
    }

    /// The average of the generator's weights, and a copy of its buffers.
    pub(super) fn commit_average(&self, step: &mut StepTape) -> Result<()> {
        let ema = &self.cfg.training.ema;
        if !ema.enabled {
            return Ok(());
        }
        let layout = self.layout(Network::Generator);
        let (params, n) = (layout.params_state(), Shape::vector(layout.len));
        let enabled = self.scalar(&mut step.tape, scalars::EMA_ON)?;
        let count = step.tape.state(EMA_UPDATES, Shape::SCALAR);
        let (decay, use_num_updates) = (ema.decay, ema.use_num_updates);
        let last_decay = step.tape.push(EmaDecay { decay, use_num_updates }, &[enabled, count])?;
        step.measure(Metric::EmaLastDecay, last_decay);
        step.measure(Metric::EmaUpdates, count);
        let states = vec![(format!("{EMA}{params}"), n), (params, n), (EMA_UPDATES.to_owned(), Shape::SCALAR)];
        let op = Arc::new(EmaCommit { decay, use_num_updates });
        step.commits.push(Commit { op, inputs: vec![enabled], states });
        for b in &layout.buffers {
            let states = vec![(format!("{EMA}{}", b.name), b.shape), (b.name.clone(), b.shape)];
            step.commits.push(Commit { op: Arc::new(EmaBuffers), inputs: vec![enabled], states });
        }
        Ok(())
    }
}
