//! The objects of a pickle, as far as weights need them. Nothing is imported or called: what a few functions of
//! torch return is known here, every other object is [`Value::Opaque`].
//!
//! Containers are numbers of an arena, so that a hostile pickle can make neither cycles nor deep recursion.

use std::collections::HashMap;
use std::rc::Rc;

use safetensors::tensor::Dtype;

/// An object of a pickle.
#[derive(Clone, Debug)]
pub enum Value {
    /// Anything that does not matter here.
    Opaque,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    /// A list or tuple: its number in [`Objects`].
    Seq(usize),
    /// A dict or `OrderedDict`: its number in [`Objects`].
    Dict(usize),
    Global(Global),
    Storage(Rc<Storage>),
    /// A tensor or parameter: its number in [`Objects`].
    Tensor(usize),
}

/// The functions and classes that mean something here.
#[derive(Clone, Copy, Debug)]
pub enum Global {
    OrderedDict,
    /// `(storage, offset, size, stride, …)` -> tensor.
    Rebuild,
    /// `(tensor, …)` -> the same tensor; without arguments, one that is filled afterwards (until torch 0.3).
    Parameter,
    /// `(function, class, its arguments, state)` -> a tensor of a Python class.
    Subclass,
    /// A tensor that is filled afterwards (until torch 0.3).
    EmptyTensor,
    /// Makes a tensor that is more than a view of a storage: sparse, quantised, of a new element type, …
    Foreign,
    /// A class of storages: the element type, where it is known here, and the bytes of an element.
    Storage(Option<Dtype>, u64),
}

/// A block of numbers that lies elsewhere in the file.
#[derive(Debug)]
pub struct Storage {
    /// Name of the block.
    pub key: Rc<str>,
    pub dtype: Option<Dtype>,
    /// Bytes of an element.
    pub width: u64,
    /// Elements of the block before this storage's first; not 0 only in files of torch until 0.3.
    pub start: u64,
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// Elements of a storage; size and stride are numbers of sequences.
    View { storage: Rc<Storage>, offset: i64, size: usize, stride: usize },
    /// One that this program cannot read.
    Foreign,
    /// Made, but not filled.
    Empty,
}

/// Bytes of the name of a tensor or a storage; longer ones, looked up again and again, would take long.
pub const MAX_NAME: usize = 1024;
/// Flags of a tensor.
const MAX_FLAGS: usize = 16;

/// All objects of the pickles of a file.
#[derive(Debug, Default)]
pub struct Objects {
    pub seqs: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub tensors: Vec<Tensor>,
    /// The storages that were mentioned, by the block they lie in.
    pub storages: HashMap<Rc<str>, Rc<Storage>>,
}

impl Value {
    /// What `module.name` means.
    pub fn global(module: &str, name: &str) -> Value {
        let torch = matches!(module, "torch" | "torch.cuda" | "torch.storage");
        Value::Global(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Rebuild,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter") => Global::Parameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::Subclass,
            ("torch._utils", _) if name.starts_with("_rebuild_") => Global::Foreign,
            _ if torch && name.ends_with("Tensor") => Global::EmptyTensor,
            _ if torch => match storage_type(name) {
                Some((dtype, width)) => Global::Storage(dtype, width),
                None => return Value::Opaque,
            },
            _ => return Value::Opaque,
        })
    }

    fn seq(&self) -> Option<usize> {
        if let Value::Seq(i) = self { Some(*i) } else { None }
    }
}

/// Element type (`None` for one that cannot be read here) and bytes per element of a storage class.
fn storage_type(name: &str) -> Option<(Option<Dtype>, u64)> {
    Some(match name.strip_suffix("Storage")? {
        "Float" => (Some(Dtype::F32), 4),
        "Double" => (Some(Dtype::F64), 8),
        "Half" => (Some(Dtype::F16), 2),
        "BFloat16" => (Some(Dtype::BF16), 2),
        "Long" => (Some(Dtype::I64), 8),
        "Int" => (Some(Dtype::I32), 4),
        "Short" => (Some(Dtype::I16), 2),
        "Char" => (Some(Dtype::I8), 1),
        "Byte" => (Some(Dtype::U8), 1),
        "Bool" => (Some(Dtype::BOOL), 1),
        "QInt32" => (None, 4),
        "ComplexFloat" => (None, 8),
        "ComplexDouble" => (None, 16),
        "Untyped" | "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => (None, 1),
        _ => return None,
    })
}

impl Objects {
    /// A new list or tuple.
    pub fn seq(&mut self, items: Vec<Value>) -> Value {
        self.seqs.push(items);
        Value::Seq(self.seqs.len() - 1)
    }

    /// A new dict.
    pub fn dict(&mut self, items: Vec<(Value, Value)>) -> Value {
        self.dicts.push(items);
        Value::Dict(self.dicts.len() - 1)
    }

    fn tensor(&mut self, tensor: Tensor) -> Value {
        self.tensors.push(tensor);
        Value::Tensor(self.tensors.len() - 1)
    }

    /// What `function(*arguments)` returns.
    pub fn call(&mut self, function: &Value, arguments: &Value) -> Value {
        let Value::Global(global) = function else { return Value::Opaque };
        let first = self.argument(arguments, 0);
        match global {
            Global::OrderedDict => {
                let pairs = self.pairs(first);
                self.dict(pairs)
            }
            Global::Rebuild => {
                let view = self.view(arguments).unwrap_or(Tensor::Foreign);
                self.tensor(view)
            }
            Global::Subclass if matches!(first, Some(Value::Global(Global::Rebuild))) => {
                let view = self.argument(arguments, 2).and_then(|a| self.view(&a)).unwrap_or(Tensor::Foreign);
                self.tensor(view)
            }
            Global::Parameter => match first {
                Some(tensor @ Value::Tensor(_)) => tensor,
                _ => self.tensor(Tensor::Empty),
            },
            Global::EmptyTensor => self.tensor(Tensor::Empty),
            Global::Foreign | Global::Subclass => self.tensor(Tensor::Foreign),
            Global::Storage(..) => Value::Opaque,
        }
    }

    /// Gives `object` its state; only tensors of old files have one that matters.
    pub fn build(&mut self, object: &Value, state: &Value) {
        let Value::Tensor(i) = *object else { return };
        if !matches!(self.tensors[i], Tensor::Empty) {
            return;
        }
        if let Some(view) = self.view(state) {
            self.tensors[i] = view;
        } else if let Some(Value::Tensor(data)) = self.argument(state, 0) {
            self.tensors[i] = self.tensors[data].clone();
        }
    }

    /// The storage that a persistent id names.
    pub fn persistent(&mut self, id: &Value) -> Value {
        let Some(Some(items)) = id.seq().map(|i| self.seqs.get(i)) else { return Value::Opaque };
        let [Value::Text(kind), Value::Global(Global::Storage(dtype, width)), Value::Text(key), _, _, rest @ ..] =
            items.as_slice()
        else {
            return Value::Opaque;
        };
        if kind.as_ref() != "storage" || key.len() > MAX_NAME {
            return Value::Opaque;
        }
        // (name of the view, its first element, its elements)
        let view = rest.first().and_then(Value::seq).and_then(|i| self.seqs[i].get(1));
        let start = if let Some(Value::Int(start)) = view { u64::try_from(*start).unwrap_or(u64::MAX) } else { 0 };
        let storage = Rc::new(Storage { key: key.clone(), dtype: *dtype, width: *width, start });
        self.storages.entry(key.clone()).or_insert_with(|| storage.clone());
        Value::Storage(storage)
    }

    fn argument(&self, arguments: &Value, index: usize) -> Option<Value> {
        self.seqs.get(arguments.seq()?)?.get(index).cloned()
    }

    /// Takes the `[[key, value], …]` that Python 2 makes an `OrderedDict` of. The list is emptied: it is used once,
    /// and copies of copies would grow without bound.
    fn pairs(&mut self, list: Option<Value>) -> Vec<(Value, Value)> {
        let Some(list) = list.as_ref().and_then(Value::seq) else { return Vec::new() };
        let items = std::mem::take(&mut self.seqs[list]);
        let pair = |item: &Value| match self.seqs[item.seq()?].as_slice() {
            [key, value] => Some((key.clone(), value.clone())),
            _ => None,
        };
        items.iter().filter_map(pair).collect()
    }

    /// The tensor of `(storage, offset, size, stride, requires_grad, hooks, flags)`, as far as these are there.
    fn view(&self, arguments: &Value) -> Option<Tensor> {
        let items = self.seqs.get(arguments.seq()?)?.as_slice();
        // Flags say that the values are to be negated or conjugated; there are two of them.
        if let Some(&Value::Dict(flags)) = items.get(6) {
            let flags = &self.dicts[flags];
            if flags.len() > MAX_FLAGS || flags.iter().any(|(_, flag)| matches!(flag, Value::Bool(true))) {
                return Some(Tensor::Foreign);
            }
        }
        match items {
            [Value::Storage(storage), Value::Int(offset), Value::Seq(size), Value::Seq(stride), ..] => {
                Some(Tensor::View { storage: storage.clone(), offset: *offset, size: *size, stride: *stride })
            }
            _ => None,
        }
    }
}
