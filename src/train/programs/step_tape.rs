//! The tape of a step, and what passes the borders between its segments.
//!
//! | passes | on one tape | between programs |
//! | --- | --- | --- |
//! | a network's bucket | its value | summed in a state over micro-batches |
//! | the discriminator's new weights | their value | a staged state |
//! | statistics and spectral vectors | their values | staged states, moved by each micro-batch |
//! | SR | its value | computed again, to the same bits |

use std::sync::Arc;

use super::update::Clipped;
use super::{BatchShape, Phase, Programs, Recorded, Segment};
use crate::graph::{Tape, Value};
use crate::metrics::Metric;
use crate::nn::{Bound, Network, Tensor};
use crate::ops::assign::{AddTo, Assign, Clear};
use crate::ops::concat::{ConcatChannels, ConcatFlat};
use crate::ops::mul::Scale;
use crate::ops::slice::{SliceChannels, SliceFlat};
use crate::plan::{Commit, Program};
use crate::train::states::{self, STAGED};
use crate::types::Shape;
use crate::{Error, Result};

/// HR and SR of a step.
#[derive(Clone, Copy)]
pub(super) struct StepImages {
    pub hr: Value,
    pub sr: Value,
}

/// A network as the step has it so far.
struct Trained<'p> {
    bound: Bound<'p>,
    bucket: Option<Value>,
    clipped: Option<Clipped>,
}

/// A step, or one of its segments, while it is written.
pub(super) struct StepTape<'p> {
    programs: &'p Programs,
    phase: Phase,
    shape: BatchShape,
    /// The segment, where it is a program of its own.
    apart: Option<Segment>,
    pub tape: Tape,
    images: Option<StepImages>,
    networks: [Option<Trained<'p>>; 2],
    metrics: Vec<(Metric, Value)>,
    checks: Vec<Value>,
    pub commits: Vec<Commit>,
}

impl<'p> StepTape<'p> {
    /// A step whose segments are all written here.
    pub fn joined(programs: &'p Programs, phase: Phase, shape: BatchShape) -> Self {
        StepTape {
            programs,
            phase,
            shape,
            apart: None,
            tape: Tape::new(),
            images: None,
            networks: [None, None],
            metrics: vec![],
            checks: vec![],
            commits: vec![],
        }
    }

    /// A step of which this segment is written here.
    pub fn apart(programs: &'p Programs, phase: Phase, segment: Segment, shape: BatchShape) -> Self {
        StepTape { apart: Some(segment), ..Self::joined(programs, phase, shape) }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    fn trained(&mut self, network: Network) -> &mut Trained<'p> {
        let (tape, layout) = (&mut self.tape, self.programs.layout(network));
        let buffers = if self.apart.is_some() { STAGED } else { "" };
        let is_updated = (network, self.apart) == (Network::Discriminator, Some(Segment::GeneratorGradients));
        let params = if is_updated { STAGED } else { "" };
        self.networks[network as usize].get_or_insert_with(|| {
            let bound = Bound::new(tape, layout, params, buffers);
            Trained { bound, bucket: None, clipped: None }
        })
    }

    /// A network's flat weights as they are at this point of the step.
    pub fn weights(&mut self, network: Network) -> Value {
        self.trained(network).bound.flat
    }

    /// HR, and SR in training mode. The segments of a step that takes one batch share them.
    pub fn images(&mut self) -> Result<StepImages> {
        if let Some(images) = self.images {
            return Ok(images);
        }
        let inputs = self.programs.inputs(&mut self.tape, self.shape)?;
        self.trained(Network::Generator);
        let StepTape { programs, tape, networks: [Some(generator), _], .. } = self else {
            return Err(Error::Internal("a step without a generator".into()));
        };
        let sr = programs.run_generator(tape, &inputs, &mut generator.bound, true)?;
        Ok(*self.images.insert(StepImages { hr: inputs.hr, sr }))
    }

    /// The discriminator's logits on an image, in training mode.
    pub fn judge(&mut self, image: Value) -> Result<Value> {
        self.trained(Network::Discriminator);
        let StepTape { programs, tape, networks: [_, Some(discriminator)], .. } = self else {
            return Err(Error::Internal("a step without a discriminator".into()));
        };
        programs.run_discriminator(tape, image, &mut discriminator.bound, true)
    }

    /// Adds a scalar to what the program reports.
    pub fn measure(&mut self, metric: Metric, value: Value) {
        self.metrics.push((metric, value));
    }

    /// Ends a gradient segment with the network's bucket: the gradients of `loss`, then 0 · `loss` as the verdict, in one
    /// flat tensor. In a program of its own the segment adds its share of the bucket to the sum over micro-batches.
    pub fn close_bucket(&mut self, network: Network, loss: Value) -> Result<()> {
        let micro_batches = self.programs.config().training.accumulate_grad_batches;
        let share = 1.0 / micro_batches as f32;
        let loss = if self.apart.is_some() { self.tape.push(Scale::by(share), &[loss])? } else { loss };
        let layout = self.programs.layout(network);
        self.trained(network);
        let Some(Trained { bound, .. }) = &self.networks[network as usize] else {
            return Err(Error::Internal(format!("a step without a {}", network.name())));
        };
        let (mut offsets, mut parts) = bound.gradients(&mut self.tape, loss)?;
        let path = format!("{}.gradient", layout.prefix);
        let shape = states::bucket_shape(layout);
        let bucket = self.tape.scoped(&path, |tape| {
            offsets.push(layout.len);
            parts.push(tape.push(Scale::by(0.0), &[loss])?);
            tape.push(ConcatFlat { offsets, shape }, &parts)
        })?;
        if self.apart.is_some() {
            let states = vec![(states::bucket_state(layout), shape)];
            self.commits.push(Commit { op: Arc::new(AddTo), inputs: vec![bucket], states });
        }
        self.trained(network).bucket = Some(bucket);
        Ok(())
    }

    /// Begins a segment. Before an update the network's bucket is complete; in a program of its own, the update reads the
    /// sum over micro-batches.
    pub fn begin(&mut self, segment: Segment) {
        let bucket = match segment {
            Segment::DiscriminatorUpdate => Some(self.bucket(Network::Discriminator)),
            Segment::GeneratorUpdate => Some(self.bucket(Network::Generator)),
            Segment::DiscriminatorGradients | Segment::GeneratorGradients => None,
        };
        self.tape.begin_segment(segment.name(), bucket);
    }

    /// What a network's bucket holds behind the border.
    fn bucket(&mut self, network: Network) -> Value {
        if let Some(bucket) = self.trained(network).bucket {
            return bucket;
        }
        let layout = self.programs.layout(network);
        let bucket = self.tape.state(&states::bucket_state(layout), states::bucket_shape(layout));
        self.trained(network).bucket = Some(bucket);
        bucket
    }

    /// A network's gradients with their norm and the factor that clips them.
    pub fn clipped(&mut self, network: Network) -> Result<Clipped> {
        if let Some(clipped) = self.trained(network).clipped {
            return Ok(clipped);
        }
        let bucket = self.bucket(network);
        let layout = self.programs.layout(network);
        let grad = self.tape.scoped(&format!("{}.gradient", layout.prefix), |tape| {
            tape.push(SliceFlat { offset: 0, shape: Shape::vector(layout.len) }, &[bucket])
        })?;
        let clipped = self.programs.clip(&mut self.tape, layout, grad)?;
        self.trained(network).clipped = Some(clipped);
        Ok(clipped)
    }

    /// Makes the step count only if a network's loss and its clipped gradients are finite.
    pub fn check(&mut self, network: Network, grads: &Clipped) -> Result<()> {
        let bucket = self.bucket(network);
        let offset = self.programs.layout(network).len;
        let verdict = self.tape.push(SliceChannels { offset, channels: 1 }, &[bucket])?;
        self.checks.extend([verdict, grads.square]);
        Ok(())
    }

    /// The discriminator's weights from here on.
    pub fn stage_discriminator(&mut self, weights: Value) {
        let layout = self.programs.layout(Network::Discriminator);
        let trained = self.trained(Network::Discriminator);
        trained.bound = trained.bound.with_params(weights);
        if self.apart.is_some() {
            let states = vec![(format!("{STAGED}{}", layout.params_state()), Shape::vector(layout.len))];
            self.commits.push(Commit { op: Arc::new(Assign), inputs: vec![weights], states });
        }
    }

    /// Hands a network's buffers on to the next segment or micro-batch.
    pub fn keep_buffers(&mut self, network: Network) {
        if self.apart.is_some() {
            self.commit_buffers(network, STAGED);
        }
    }

    /// The states of a network's buffers, under a prefix, take their new values.
    pub fn commit_buffers(&mut self, network: Network, prefix: &str) {
        let layout = self.programs.layout(network);
        let buffers = &self.trained(network).bound.buffers;
        let assign = |b: &Tensor| {
            let states = vec![(format!("{prefix}{}", b.name), b.shape)];
            Some(Commit { op: Arc::new(Assign), inputs: vec![*buffers.get(&b.name)?], states })
        };
        let commits: Vec<Commit> = layout.buffers.iter().filter_map(assign).collect();
        self.commits.extend(commits);
    }

    /// The finished program.
    pub fn finish(self, name: &'static str) -> Result<Recorded> {
        let StepTape { mut tape, metrics, checks, commits, .. } = self;
        let (metrics, values): (Vec<Metric>, Vec<Value>) = metrics.into_iter().unzip();
        let mut outputs = Vec::new();
        if !values.is_empty() {
            let vector = tape.scoped("metrics", |tape| tape.push(ConcatChannels, &values))?;
            outputs.push(("metrics".to_owned(), vector));
        }
        Ok(Recorded { program: Program { name, tape, outputs, checks, commits }, metrics })
    }
}

impl Programs {
    /// What comes before a step's first micro-batch: buckets are cleared, and buffers staged as they are.
    ///
    /// # Errors
    /// Never fails for networks that could be built.
    pub fn begin(&self, phase: Phase, shape: BatchShape) -> Result<Recorded> {
        let mut step = StepTape::joined(self, phase, shape);
        for network in phase.networks() {
            let layout = self.layout(*network);
            let states = vec![(states::bucket_state(layout), states::bucket_shape(layout))];
            step.commits.push(Commit { op: Arc::new(Clear), inputs: vec![], states });
            step.commit_buffers(*network, STAGED);
        }
        step.finish("begin")
    }
}
