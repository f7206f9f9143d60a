//! How an op is written in ONNX (operators of the default domain, opset 17). An op describes itself
//! ([`Op::onnx`](super::Op::onnx)); the export writes the graph and knows no op.
//!
//! A value (N,H,W,C) of the tape is a tensor [N, C, H, W] there, weights (O,kh,kw,I) included, which makes them
//! [O, I, kh, kw]. Batch, height and width are open in the file: a description may use channels and the extents of weights,
//! nothing else.

/// A node of an ONNX graph.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxNode {
    /// The operator, as `Conv`.
    pub operator: &'static str,
    /// What it reads.
    pub inputs: Vec<OnnxInput>,
    /// Its attributes by name.
    pub attributes: Vec<(&'static str, OnnxAttribute)>,
}

/// What a node reads.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxInput {
    /// An operand of the op.
    Operand(usize),
    /// The output of an earlier node of the same op, counted from 0.
    Node(usize),
    /// A number.
    Scalar(f32),
    /// A list of whole numbers, as the bounds of a slice are.
    Ints(Vec<i64>),
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxAttribute {
    /// A whole number.
    Int(i64),
    /// A list of whole numbers.
    Ints(Vec<i64>),
    /// A number.
    Float(f32),
    /// A name.
    Text(&'static str),
}

impl OnnxNode {
    /// A node without attributes.
    pub fn new(operator: &'static str, inputs: impl Into<Vec<OnnxInput>>) -> Self {
        OnnxNode { operator, inputs: inputs.into(), attributes: Vec::new() }
    }

    /// A node that reads the first `operands` operands in their order.
    pub fn of(operator: &'static str, operands: usize) -> Self {
        OnnxNode::new(operator, (0..operands).map(OnnxInput::Operand).collect::<Vec<_>>())
    }

    fn with(mut self, name: &'static str, value: OnnxAttribute) -> Self {
        self.attributes.push((name, value));
        self
    }

    /// The same with an attribute that is a whole number.
    #[must_use]
    pub fn int(self, name: &'static str, value: usize) -> Self {
        self.with(name, OnnxAttribute::Int(value as i64))
    }

    /// The same with an attribute that is a list of whole numbers.
    #[must_use]
    pub fn ints(self, name: &'static str, values: &[usize]) -> Self {
        self.with(name, OnnxAttribute::Ints(values.iter().map(|v| *v as i64).collect()))
    }

    /// The same with an attribute that is a number.
    #[must_use]
    pub fn float(self, name: &'static str, value: f32) -> Self {
        self.with(name, OnnxAttribute::Float(value))
    }

    /// The same with an attribute that is a name.
    #[must_use]
    pub fn text(self, name: &'static str, value: &'static str) -> Self {
        self.with(name, OnnxAttribute::Text(value))
    }
}

/// Nodes of which each reads the one before, and the first operand 0.
#[derive(Clone, Debug, Default)]
pub struct OnnxChain(Vec<OnnxNode>);

impl OnnxChain {
    /// What the next node reads.
    fn last(&self) -> OnnxInput {
        self.0.len().checked_sub(1).map_or(OnnxInput::Operand(0), OnnxInput::Node)
    }

    /// The same with `operator` on the result so far and `number`; numbers that change nothing add nothing.
    #[must_use]
    pub fn then(mut self, operator: &'static str, number: f32) -> Self {
        let neutral = if matches!(operator, "Mul" | "Div") { 1.0 } else { 0.0 };
        if number != neutral {
            self.0.push(OnnxNode::new(operator, [self.last(), OnnxInput::Scalar(number)]));
        }
        self
    }

    /// The same limited to `low ..= high`.
    #[must_use]
    pub fn clip(mut self, low: f32, high: f32) -> Self {
        self.0.push(OnnxNode::new("Clip", [self.last(), OnnxInput::Scalar(low), OnnxInput::Scalar(high)]));
        self
    }

    /// The nodes, at least one.
    pub fn nodes(mut self) -> Vec<OnnxNode> {
        if self.0.is_empty() {
            self.0.push(OnnxNode::of("Identity", 1));
        }
        self.0
    }
}
