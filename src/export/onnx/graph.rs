//! A recorded program as an ONNX graph. Ops write themselves ([`Op::onnx`]); what depends on weights alone is computed now,
//! by the ops' references, and stands in the graph as an initialiser.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::proto::{
    AttributeProto, Dimension, Extent, FLOAT, GraphProto, INT64, NodeProto, TensorProto, TensorShapeProto, TensorType,
    TypeProto, ValueInfoProto, attribute_type,
};
use crate::graph::{Node, OnnxAttribute, OnnxInput, OnnxNode, Op, Source, Tape, Tensor64, Value};
use crate::types::Shape;
use crate::{Error, Result};

/// The value of a state: what a tape reads that is neither input nor constant.
pub(super) type States<'a> = HashMap<String, &'a [f32]>;

/// What is done to images outside the recorded program.
#[derive(Default)]
pub(super) struct Outside {
    /// Nodes before it; none changes nothing.
    pub first: Vec<OnnxNode>,
    /// Nodes behind it.
    pub last: Vec<OnnxNode>,
}

/// A graph being written.
pub(super) struct GraphBuilder<'a> {
    tape: &'a Tape,
    states: &'a States<'a>,
    outside: &'a Outside,
    graph: GraphProto,
    /// Values that depend on weights alone, until they stand in the graph.
    known: HashMap<Value, Tensor64>,
    /// Names of values that stand in the graph.
    names: HashMap<Value, String>,
    taken: HashSet<String>,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph of `tape`.
    pub fn new(tape: &'a Tape, states: &'a States<'a>, outside: &'a Outside) -> Self {
        let graph = GraphProto { name: "generator".into(), ..GraphProto::default() };
        let (known, names, taken) = (HashMap::new(), HashMap::new(), HashSet::new());
        GraphBuilder { tape, states, outside, graph, known, names, taken }
    }

    /// Writes what `output` needs, and what is done outside the program; the result is called `name`.
    ///
    /// # Errors
    /// [`Error::Internal`] if an op has no form in ONNX or a state is missing.
    pub fn write(mut self, output: Value, name: &str) -> Result<GraphProto> {
        let outside = self.outside;
        self.taken.insert(name.to_owned());
        if outside.last.is_empty() {
            self.names.insert(output, name.to_owned());
        }
        for value in needed(self.tape, output) {
            self.value(value)?;
        }
        if !outside.last.is_empty() {
            self.nodes(&outside.last, &[output], "output", name.to_owned())?;
        }
        let channels = self.tape.shape(output).c();
        self.graph.output.push(info(name, &["batch", "sr_height", "sr_width"], channels));
        Ok(self.graph)
    }

    fn value(&mut self, value: Value) -> Result<()> {
        let node = self.tape.node(value);
        match &node.source {
            // Written where a node reads it: the codes of flips are inputs of the program, but not of the graph.
            Source::Input(_) => Ok(()),
            Source::State => {
                let data = self.states.get(&*node.path);
                let data = data.ok_or_else(|| Error::Internal(format!("no state {} to export", node.path)))?;
                self.know(value, node.shape, data);
                Ok(())
            }
            Source::Const(data) => {
                self.know(value, node.shape, data);
                Ok(())
            }
            Source::Op(op) if node.inputs.iter().all(|input| self.known.contains_key(input)) => {
                let operands: Vec<&Tensor64> = node.inputs.iter().map(|input| &self.known[input]).collect();
                let result = op.reference(&operands, node.shape);
                self.known.insert(value, result);
                Ok(())
            }
            Source::Op(op) => self.op(value, node, op),
        }
    }

    fn know(&mut self, value: Value, shape: Shape, data: &[f32]) {
        self.known.insert(value, Tensor64::new(shape, data.iter().map(|v| f64::from(*v)).collect()));
    }

    /// An input of the graph. Images are open in batch, height and width, and go through the nodes before the program; vectors (N,1,1,C) are
    /// [batch, C], as PyTorch has them.
    fn input(&mut self, value: Value) -> Result<()> {
        let (node, first) = (self.tape.node(value), &self.outside.first);
        let name = self.unique(node.path.to_string());
        let is_image = (node.shape.h(), node.shape.w()) != (1, 1);
        let open: &[&str] = if is_image { &["batch", "height", "width"] } else { &["batch"] };
        self.graph.input.push(info(&name, open, node.shape.c()));
        self.names.insert(value, name.clone());
        let to_image = [OnnxNode::new("Unsqueeze", [OnnxInput::Operand(0), OnnxInput::Ints(vec![2, 3])])];
        let nodes: &[OnnxNode] = if is_image { first } else { &to_image };
        if !nodes.is_empty() {
            let result = self.unique(format!("{name}.image"));
            self.nodes(nodes, &[value], &name, result.clone())?;
            self.names.insert(value, result);
        }
        Ok(())
    }

    fn op(&mut self, value: Value, node: &Node, op: &Arc<dyn Op>) -> Result<()> {
        let shapes: Vec<Shape> = node.inputs.iter().map(|input| self.tape.shape(*input)).collect();
        let nodes = op
            .onnx(&shapes)
            .ok_or_else(|| Error::Internal(format!("{} ({}) cannot be written in ONNX", node.path, op.name())))?;
        let name = match self.names.get(&value) {
            Some(name) => name.clone(),
            None => self.unique(format!("{}/{}", node.path, op.name())),
        };
        self.nodes(&nodes, &node.inputs, &node.path, name.clone())?;
        self.names.insert(value, name);
        Ok(())
    }

    /// Writes nodes of one op, the last of which gives `output`.
    fn nodes(&mut self, nodes: &[OnnxNode], operands: &[Value], path: &str, output: String) -> Result<()> {
        let mut outputs: Vec<String> = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let input = node.inputs.iter().map(|input| self.operand(input, operands, &outputs, path));
            let input = input.collect::<Result<_>>()?;
            let is_last = i + 1 == nodes.len();
            let name = if is_last { output.clone() } else { self.unique(format!("{output}/{i}")) };
            let attribute = node.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
            outputs.push(name.clone());
            let output = vec![name.clone()];
            self.graph.node.push(NodeProto { input, output, name, op_type: node.operator.into(), attribute });
        }
        Ok(())
    }

    /// The name of what a node reads.
    fn operand(&mut self, input: &OnnxInput, operands: &[Value], nodes: &[String], path: &str) -> Result<String> {
        match input {
            OnnxInput::Operand(k) => {
                let value = operands[*k];
                if let Some(tensor) = self.known.remove(&value) {
                    return Ok(self.initializer(value, &tensor));
                }
                if !self.names.contains_key(&value) && matches!(self.tape.node(value).source, Source::Input(_)) {
                    self.input(value)?;
                }
                let name = self.names.get(&value).cloned();
                name.ok_or_else(|| Error::Internal(format!("{path} reads a value that was not written")))
            }
            OnnxInput::Node(k) => Ok(nodes[*k].clone()),
            OnnxInput::Scalar(number) => {
                Ok(self.constant(format!("{path}/{number:?}"), vec![], FLOAT, number.to_le_bytes().to_vec()))
            }
            OnnxInput::Ints(ints) => {
                let bytes = ints.iter().flat_map(|n| n.to_le_bytes()).collect();
                Ok(self.constant(format!("{path}/{ints:?}"), vec![ints.len() as i64], INT64, bytes))
            }
        }
    }

    /// Puts a value that depends on weights alone into the graph, in ONNX's order of axes.
    fn initializer(&mut self, value: Value, tensor: &Tensor64) -> String {
        let [n, h, w, c] = tensor.shape.0;
        let mut bytes = Vec::with_capacity(4 * tensor.data.len());
        for i in 0..n {
            for k in 0..c {
                for p in 0..h * w {
                    bytes.extend_from_slice(&(tensor.data[(i * h * w + p) * c + k] as f32).to_le_bytes());
                }
            }
        }
        let dims = [n, c, h, w].map(|size| size as i64).to_vec();
        let name = self.constant(self.tape.node(value).path.to_string(), dims, FLOAT, bytes);
        self.names.insert(value, name.clone());
        name
    }

    fn constant(&mut self, name: String, dims: Vec<i64>, data_type: i32, raw_data: Vec<u8>) -> String {
        let name = self.unique(name);
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        name
    }

    /// A name that nothing else in the graph has.
    fn unique(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        let mut number = 1;
        while !self.taken.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}#{number}");
        }
        name
    }
}

/// What `output` depends on, operands before their users.
fn needed(tape: &Tape, output: Value) -> Vec<Value> {
    let mut is_needed = vec![false; output.index() + 1];
    is_needed[output.index()] = true;
    for i in (0..=output.index()).rev().filter(|i| *i < tape.nodes().len()) {
        if is_needed[i] {
            tape.nodes()[i].inputs.iter().for_each(|input| is_needed[input.index()] = true);
        }
    }
    (0..is_needed.len()).filter(|i| is_needed[*i]).map(Value::at).collect()
}

fn attribute(name: &str, value: &OnnxAttribute) -> AttributeProto {
    let named = AttributeProto { name: name.into(), ..AttributeProto::default() };
    match value {
        OnnxAttribute::Int(i) => AttributeProto { i: Some(*i), r#type: attribute_type::INT, ..named },
        OnnxAttribute::Ints(ints) => AttributeProto { ints: ints.clone(), r#type: attribute_type::INTS, ..named },
        OnnxAttribute::Float(f) => AttributeProto { f: Some(*f), r#type: attribute_type::FLOAT, ..named },
        OnnxAttribute::Text(text) => {
            AttributeProto { s: Some(text.as_bytes().to_vec()), r#type: attribute_type::STRING, ..named }
        }
    }
}

/// A tensor of floats [batch, channels, …], open in the sizes that are named.
fn info(name: &str, open: &[&str], channels: usize) -> ValueInfoProto {
    let mut dim: Vec<Dimension> =
        open.iter().map(|name| Dimension { extent: Some(Extent::Open((*name).to_owned())) }).collect();
    dim.insert(1, Dimension { extent: Some(Extent::Fixed(channels as i64)) });
    let tensor = TensorType { elem_type: FLOAT, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
