//! A network on a tape, with its parameters as they are at this point of a program.

use std::collections::HashMap;

use super::layers::Vars;
use super::layout::{Layout, Tensor};
use crate::Result;
use crate::graph::{Tape, Value};
use crate::ops::concat::ConcatFlat;
use crate::types::Shape;

/// A network's parameters, and the current values of its buffers. Network code is written with [`Bound::vars`].
pub struct Bound<'l> {
    /// The network's tensors.
    pub layout: &'l Layout,
    /// All parameters, (1,1,1,len).
    pub flat: Value,
    /// Parameters that the network has used so far, by name: what gradients are taken for.
    pub params: HashMap<String, Value>,
    /// Buffers by name; forwards in training mode move them.
    pub buffers: HashMap<String, Value>,
}

impl<'l> Bound<'l> {
    /// Binds `layout` to its states, whose names may have a prefix: `ema.` or `staged.`.
    pub fn new(tape: &mut Tape, layout: &'l Layout, params_prefix: &str, buffers_prefix: &str) -> Self {
        let flat = tape.state(&format!("{params_prefix}{}", layout.params_state()), Shape::vector(layout.len));
        let state = |b: &Tensor| (b.name.clone(), tape.state(&format!("{buffers_prefix}{}", b.name), b.shape));
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

    /// Gradients of the scalar `loss` for the parameters that the network has used, and their places in the flat layout.
    ///
    /// # Errors
    /// Fails if an op on the way has no derivative.
    pub fn gradients(&self, tape: &mut Tape, loss: Value) -> Result<(Vec<usize>, Vec<Value>)> {
        let one = tape.scalar(1.0);
        let used = |p: &Tensor| Some((p.offset, *self.params.get(&p.name)?));
        let params: Vec<(usize, Value)> = self.layout.params.iter().filter_map(used).collect();
        let wrt: Vec<Value> = params.iter().map(|(_, v)| *v).collect();
        let grads = tape.gradients(&[(loss, one)], &wrt)?;
        Ok(params.iter().zip(grads).filter_map(|((offset, _), grad)| Some((*offset, grad?))).unzip())
    }

    /// The same as one flat tensor, as optimisers take it: (1,1,1,len) with zeros where nothing depends on a parameter.
    ///
    /// # Errors
    /// Fails if an op on the way has no derivative.
    pub fn flat_gradient(&self, tape: &mut Tape, loss: Value) -> Result<Value> {
        let (offsets, parts) = self.gradients(tape, loss)?;
        tape.push(ConcatFlat { offsets, shape: Shape::vector(self.layout.len) }, &parts)
    }
}
