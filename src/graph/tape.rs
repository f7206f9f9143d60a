//! The tape: an append-only list of nodes, each an op applied to earlier values.

use std::sync::Arc;

use super::Op;
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// A value on the tape: the output of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);

impl Value {
    /// The output of node `index`.
    pub(crate) fn at(index: usize) -> Value {
        Value(index as u32)
    }

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
    segments: Vec<Segment>,
}

/// A part of a tape between two borders.
#[derive(Clone, Debug)]
pub struct Segment {
    /// For messages and profiles.
    pub name: &'static str,
    /// Index of its first node.
    pub start: usize,
    /// The flat gradients that are complete where it begins. Whoever changes them in place at this border, as a sum over
    /// ranks does, changes what all later nodes read.
    pub bucket: Option<Value>,
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
            Some(i) => Value::at(i),
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
    /// Fails ([`Error::Shape`], with the node's path) if the op cannot work on these shapes.
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

    /// Runs `body` with `scope` in place of the current path.
    pub(crate) fn within<T>(&mut self, scope: String, body: impl FnOnce(&mut Tape) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.scope, scope);
        let result = body(self);
        self.scope = outer;
        result
    }

    /// Runs `body`, whose nodes, and the gradients of these, are not rounded to bf16 in programs of that precision.
    pub fn exactly<T>(&mut self, body: impl FnOnce(&mut Tape) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.exact, true);
        let result = body(self);
        self.exact = outer;
        result
    }

    /// Ends the segment before and begins one; `bucket` is complete by now.
    pub fn begin_segment(&mut self, name: &'static str, bucket: Option<Value>) {
        self.segments.push(Segment { name, start: self.nodes.len(), bucket });
    }

    /// The segments, in order; none where nobody began one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segments of another tape whose node `i` is `moved[i]` here.
    pub(crate) fn copy_segments(&mut self, other: &Tape, moved: &[Value]) {
        let start = |s: &Segment| moved.get(s.start).map_or(self.nodes.len(), |v| v.index());
        let copy = |s: &Segment| Segment { start: start(s), bucket: s.bucket.map(|v| moved[v.index()]), ..s.clone() };
        self.segments = other.segments.iter().map(copy).collect();
    }

    /// A node of another tape, with its operands on this one.
    pub(crate) fn copy_node(&mut self, node: &Node, inputs: Vec<Value>) -> Value {
        self.nodes.push(Node { inputs, ..node.clone() });
        Value::at(self.nodes.len() - 1)
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
        Value::at(self.nodes.len() - 1)
    }
}
