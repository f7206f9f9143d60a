//! The tape: an append-only list of nodes, each an op applied to earlier values.
//!
//! A training step is written once (network code calls [`Tape::push`]), differentiated by
//! [`Tape::gradients`], which appends ordinary nodes, and compiled by [`crate::plan`]. The tape knows no op
//! by name: shape and derivative rules live with the ops (`src/ops/<op>.rs`).

mod grad;
mod reference;

use std::fmt;
use std::sync::Arc;

use crate::ops::Op;
use crate::{Error, Result};

pub use reference::Tensor64;

/// Extent of a value: batch, height, width, channels (NHWC); weights are (out, kernel height, kernel width, in).
/// Vectors over channels are (1, 1, 1, C), scalars (1, 1, 1, 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(pub [usize; 4]);

impl Shape {
    /// Shape of a scalar.
    pub const SCALAR: Shape = Shape([1; 4]);

    /// A vector of `n` elements, (1, 1, 1, n).
    pub const fn vector(n: usize) -> Self {
        Shape([1, 1, 1, n])
    }
    /// Batch.
    pub const fn n(&self) -> usize {
        self.0[0]
    }
    /// Height.
    pub const fn h(&self) -> usize {
        self.0[1]
    }
    /// Width.
    pub const fn w(&self) -> usize {
        self.0[2]
    }
    /// Channels.
    pub const fn c(&self) -> usize {
        self.0[3]
    }
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.0[0] * self.0[1] * self.0[2] * self.0[3]
    }
    /// Number of pixels, N·H·W.
    pub const fn pixels(&self) -> usize {
        self.0[0] * self.0[1] * self.0[2]
    }
    /// True if there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// True if `self` can be repeated to fill `full`: each extent is equal or 1.
    pub fn broadcasts_to(&self, full: &Shape) -> bool {
        self.0.iter().zip(&full.0).all(|(a, b)| a == b || *a == 1)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [n, h, w, c] = self.0;
        write!(f, "{n}x{h}x{w}x{c}")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the elements of a value that ops compute are stored. They are computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16: a float's upper half.
    Bf16,
}

impl Element {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 => 2,
        }
    }

    /// Floats of memory that `count` elements take.
    pub const fn floats(self, count: usize) -> usize {
        (count * self.size()).div_ceil(4)
    }
}

/// Element type of a program input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Unsigned 8 bit.
    U8,
    /// Unsigned 16 bit.
    U16,
    /// Signed 16 bit.
    I16,
    /// 32-bit float.
    F32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::U16 | DType::I16 => 2,
            DType::F32 => 4,
        }
    }
}

/// A value on the tape: the output of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) u32);

impl Value {
    /// Position of the node on its tape.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a node's value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Uploaded by the host before each run; the node's path is the slot's name.
    Input(DType),
    /// Outlives programs: parameters, moments, statistics; the node's path is the state's name.
    State,
    /// Known while the program is built.
    Const(Arc<[f32]>),
    /// Computed from earlier values.
    Op(Arc<dyn Op>),
}

/// One entry of the tape.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value comes from.
    pub source: Source,
    /// Operands of the op; empty for other sources.
    pub inputs: Vec<Value>,
    /// Extent of the output.
    pub shape: Shape,
    /// Name of the place that wrote it, for errors and profiles: `generator.body.0.conv1`.
    pub path: Arc<str>,
    /// Whether it keeps f32 where a program rounds to bf16 (see [`Tape::exactly`]).
    pub exact: bool,
}

/// The append-only record of a program.
#[derive(Debug, Default)]
pub struct Tape {
    nodes: Vec<Node>,
    scope: String,
    exact: bool,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// A slot that the host fills before each run.
    pub fn input(&mut self, name: &str, shape: Shape, dtype: DType) -> Value {
        self.append(Source::Input(dtype), vec![], shape, name.into())
    }

    /// The value of the state `name` as it was before the run. Asking twice gives the same value.
    pub fn state(&mut self, name: &str, shape: Shape) -> Value {
        let known = self.nodes.iter().position(|n| matches!(n.source, Source::State) && &*n.path == name);
        match known {
            Some(i) => Value(i as u32),
            None => self.append(Source::State, vec![], shape, name.into()),
        }
    }

    /// A constant. `data.len()` must be `shape.len()`.
    pub fn constant(&mut self, shape: Shape, data: Vec<f32>) -> Value {
        debug_assert_eq!(shape.len(), data.len());
        let path = self.path_here("const");
        self.append(Source::Const(data.into()), vec![], shape, path)
    }

    /// A constant scalar.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(Shape::SCALAR, vec![value])
    }

    /// Applies `op` to `inputs`.
    ///
    /// # Errors
    /// [`Error::Shape`] with the node's path if the op cannot work on these shapes.
    pub fn push(&mut self, op: impl Op, inputs: &[Value]) -> Result<Value> {
        self.push_arc(Arc::new(op), inputs)
    }

    /// As [`Tape::push`], for an op that is already shared.
    pub fn push_arc(&mut self, op: Arc<dyn Op>, inputs: &[Value]) -> Result<Value> {
        let shapes: Vec<Shape> = inputs.iter().map(|v| self.shape(*v)).collect();
        let path = self.path_here(op.name());
        let shape =
            op.shape(&shapes).map_err(|message| Error::Shape { node: path.to_string(), op: op.name(), message })?;
        Ok(self.append(Source::Op(op), inputs.to_vec(), shape, path))
    }

    /// Runs `body` with `name` appended to the path of every node that it writes.
    pub fn scoped<T>(&mut self, name: &str, body: impl FnOnce(&mut Tape) -> Result<T>) -> Result<T> {
        let outer = self.scope.len();
        if outer > 0 {
            self.scope.push('.');
        }
        self.scope.push_str(name);
        let result = body(self);
        self.scope.truncate(outer);
        result
    }

    /// Runs `body`, whose nodes, and the gradients of these, are not rounded to bf16 in programs of that precision.
    pub fn exactly<T>(&mut self, body: impl FnOnce(&mut Tape) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.exact, true);
        let result = body(self);
        self.exact = outer;
        result
    }

    /// A node of another tape, with its operands on this one.
    pub(crate) fn copy_node(&mut self, node: &Node, inputs: Vec<Value>) -> Value {
        self.nodes.push(Node { inputs, ..node.clone() });
        Value((self.nodes.len() - 1) as u32)
    }

    /// Extent of a value.
    pub fn shape(&self, v: Value) -> Shape {
        self.nodes[v.index()].shape
    }

    /// The node that a value is the output of.
    pub fn node(&self, v: Value) -> &Node {
        &self.nodes[v.index()]
    }

    /// All nodes in the order in which they were written, operands before users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn path_here(&self, leaf: &str) -> Arc<str> {
        if self.scope.is_empty() { leaf.into() } else { self.scope.as_str().into() }
    }

    fn append(&mut self, source: Source, inputs: Vec<Value>, shape: Shape, path: Arc<str>) -> Value {
        self.nodes.push(Node { source, inputs, shape, path, exact: self.exact });
        Value((self.nodes.len() - 1) as u32)
    }
}
