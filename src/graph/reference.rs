//! Runs a tape node by node in f64 with the ops' references: the second implementation that plans,
//! derivatives and kernels are checked against.

use std::collections::HashMap;

use super::{Source, Tape, Value};
use crate::types::Shape;
use crate::{Error, Result};

/// A contiguous NHWC array in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor64 {
    /// Extent.
    pub shape: Shape,
    /// Elements in memory order.
    pub data: Vec<f64>,
}

impl Tensor64 {
    /// An array of `shape` filled with zeros.
    pub fn zeros(shape: Shape) -> Self {
        Tensor64 { shape, data: vec![0.0; shape.len()] }
    }

    /// An array from its elements.
    pub fn new(shape: Shape, data: Vec<f64>) -> Self {
        assert_eq!(shape.len(), data.len(), "{shape} does not hold {} elements", data.len());
        Tensor64 { shape, data }
    }

    /// An array whose element at (n, y, x, c) is `f(n, y, x, c)`.
    pub fn from_fn(shape: Shape, mut f: impl FnMut([usize; 4]) -> f64) -> Self {
        let [n, h, w, c] = shape.0;
        let mut data = Vec::with_capacity(shape.len());
        for i in 0..n {
            for y in 0..h {
                for x in 0..w {
                    for k in 0..c {
                        data.push(f([i, y, x, k]));
                    }
                }
            }
        }
        Tensor64 { shape, data }
    }

    /// The element at `at`, where extents of 1 are repeated.
    pub fn at(&self, at: [usize; 4]) -> f64 {
        self.data[self.index(at)]
    }

    /// Position in memory of the element at `at`, where extents of 1 are repeated.
    pub fn index(&self, at: [usize; 4]) -> usize {
        (0..4).fold(0, |i, d| i * self.shape.0[d] + if self.shape.0[d] == 1 { 0 } else { at[d] })
    }
}

impl Tape {
    /// Computes every node from the given inputs and states; element `i` is the value of node `i`.
    ///
    /// # Errors
    /// Fails ([`Error::Internal`]) if an input or state that the tape names is missing or has another extent.
    pub fn evaluate_f64(&self, given: &HashMap<String, Tensor64>) -> Result<Vec<Tensor64>> {
        let mut values: Vec<Tensor64> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            let value = match &node.source {
                Source::Input(_) | Source::State => match given.get(&*node.path) {
                    Some(t) if t.shape == node.shape => t.clone(),
                    Some(t) => {
                        return Err(Error::Internal(format!("{}: given {}, needs {}", node.path, t.shape, node.shape)));
                    }
                    None => return Err(Error::Internal(format!("no value given for '{}'", node.path))),
                },
                Source::Const(data) => Tensor64::new(node.shape, data.iter().map(|v| f64::from(*v)).collect()),
                Source::Op(op) => {
                    let inputs: Vec<&Tensor64> = node.inputs.iter().map(|v| &values[v.index()]).collect();
                    let out = op.reference(&inputs, node.shape);
                    debug_assert_eq!(out.shape, node.shape, "{}", node.path);
                    out
                }
            };
            values.push(value);
        }
        Ok(values)
    }

    /// The value of `v` in the result of [`Tape::evaluate_f64`].
    pub fn value_of<'a>(&self, values: &'a [Tensor64], v: Value) -> &'a Tensor64 {
        &values[v.index()]
    }
}
