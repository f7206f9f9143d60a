//! Writes pickles of protocol 2, as far as a checkpoint of PyTorch needs them: dicts, lists, texts, numbers, and tensors
//! whose values lie elsewhere. Nothing in them is code: `torch.load(weights_only=True)` accepts them.

use serde_json::Value;

// Opcodes, as Python's pickletools names them.
const PROTO: u8 = 0x80;
const STOP: u8 = b'.';
const MARK: u8 = b'(';
const NONE: u8 = b'N';
const NEWTRUE: u8 = 0x88;
const NEWFALSE: u8 = 0x89;
const BININT: u8 = b'J';
const LONG1: u8 = 0x8a;
const BINFLOAT: u8 = b'G';
const BINUNICODE: u8 = b'X';
const EMPTY_LIST: u8 = b']';
const APPENDS: u8 = b'e';
const EMPTY_DICT: u8 = b'}';
const SETITEMS: u8 = b'u';
const EMPTY_TUPLE: u8 = b')';
const TUPLE: u8 = b't';
const GLOBAL: u8 = b'c';
const REDUCE: u8 = b'R';
const BINPERSID: u8 = b'Q';

/// Class of a tensor's storage.
#[derive(Clone, Copy, Debug)]
pub(super) enum Storage {
    /// 32-bit floats.
    Float,
    /// 64-bit integers.
    Long,
}

/// A pickle being written; each method appends one object.
pub(super) struct Pickler(Vec<u8>);

impl Pickler {
    /// An empty pickle.
    pub fn new() -> Self {
        Pickler(vec![PROTO, 2])
    }

    /// The bytes; the object that was written last is the result.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(STOP);
        self.0
    }

    pub fn none(&mut self) {
        self.0.push(NONE);
    }

    pub fn bool(&mut self, value: bool) {
        self.0.push(if value { NEWTRUE } else { NEWFALSE });
    }

    pub fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(small) => {
                self.0.push(BININT);
                self.0.extend(small.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([LONG1, 8]);
                self.0.extend(value.to_le_bytes());
            }
        }
    }

    pub fn float(&mut self, value: f64) {
        self.0.push(BINFLOAT);
        self.0.extend(value.to_be_bytes());
    }

    pub fn text(&mut self, value: &str) {
        self.0.push(BINUNICODE);
        // Names and paths; no text of a configuration comes near 4 GiB.
        self.0.extend((value.len() as u32).to_le_bytes());
        self.0.extend(value.as_bytes());
    }

    /// A dict; `fill` appends keys and values in turns.
    pub fn dict(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.extend([EMPTY_DICT, MARK]);
        fill(self);
        self.0.push(SETITEMS);
    }

    /// An `OrderedDict`, as state dicts are.
    pub fn ordered_dict(&mut self, fill: impl FnOnce(&mut Self)) {
        self.global("collections", "OrderedDict");
        self.0.extend([EMPTY_TUPLE, REDUCE, MARK]);
        fill(self);
        self.0.push(SETITEMS);
    }

    /// What a JSON document holds.
    pub fn json(&mut self, value: &Value) {
        match value {
            Value::Null => self.none(),
            Value::Bool(value) => self.bool(*value),
            Value::String(text) => self.text(text),
            Value::Number(number) => match number.as_i64() {
                Some(int) => self.int(int),
                None => self.float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(items) => {
                self.0.extend([EMPTY_LIST, MARK]);
                items.iter().for_each(|item| self.json(item));
                self.0.push(APPENDS);
            }
            Value::Object(entries) => self.dict(|pickler| {
                for (key, value) in entries {
                    pickler.text(key);
                    pickler.json(value);
                }
            }),
        }
    }

    /// A contiguous tensor on the CPU that fills the storage `key`.
    pub fn tensor(&mut self, key: &str, storage: Storage, shape: &[usize]) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.push(MARK);
        self.0.push(MARK);
        self.text("storage");
        self.global("torch", storage.class());
        self.text(key);
        self.text("cpu");
        self.int(shape.iter().product::<usize>() as i64);
        self.0.extend([TUPLE, BINPERSID]);
        self.int(0);
        self.sizes(shape);
        let mut stride = 1;
        let mut strides: Vec<usize> = Vec::with_capacity(shape.len());
        for size in shape.iter().rev() {
            strides.push(stride);
            stride *= size;
        }
        strides.reverse();
        self.sizes(&strides);
        self.bool(false);
        self.ordered_dict(|_| ());
        self.0.extend([TUPLE, REDUCE]);
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.0.push(MARK);
        sizes.iter().for_each(|size| self.int(*size as i64));
        self.0.push(TUPLE);
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.push(GLOBAL);
        self.0.extend(format!("{module}\n{name}\n").as_bytes());
    }
}

impl Storage {
    fn class(self) -> &'static str {
        match self {
            Storage::Float => "FloatStorage",
            Storage::Long => "LongStorage",
        }
    }
}
