//! A reader of pickles that runs nothing: the stack machine of Python's `pickle`, protocols 2 to 5, whose objects
//! are those of [`value`](super::value). Every opcode takes at least one byte and adds at most what it was given, and
//! there are not more than [`MAX_OPCODES`], so that time and memory are bounded.
//!
//! Our own because readers of pickles in general (`serde-pickle`) know neither the persistent ids by which torch names
//! storages nor its classes, and bound no memory.

use std::collections::HashMap;

use super::input::Input;
use super::value::{Objects, Value};
use crate::Result;

/// The opcodes, with the names that Python's `pickle` gives them.
mod op {
    pub const PROTO: u8 = 0x80;
    pub const FRAME: u8 = 0x95;
    pub const STOP: u8 = b'.';
    pub const MARK: u8 = b'(';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const NONE: u8 = b'N';
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const INT: u8 = b'I';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const BINFLOAT: u8 = b'G';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const BINSTRING: u8 = b'T';
    pub const BINUNICODE: u8 = b'X';
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const BINBYTES8: u8 = 0x8e;
    pub const BYTEARRAY8: u8 = 0x96;
    pub const NEXT_BUFFER: u8 = 0x97;
    pub const READONLY_BUFFER: u8 = 0x98;
    pub const EMPTY_LIST: u8 = b']';
    pub const LIST: u8 = b'l';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE: u8 = b't';
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE3: u8 = 0x87;
    pub const EMPTY_DICT: u8 = b'}';
    pub const DICT: u8 = b'd';
    pub const EMPTY_SET: u8 = 0x8f;
    pub const FROZENSET: u8 = 0x91;
    pub const APPEND: u8 = b'a';
    pub const APPENDS: u8 = b'e';
    pub const SETITEM: u8 = b's';
    pub const SETITEMS: u8 = b'u';
    pub const ADDITEMS: u8 = 0x90;
    pub const GLOBAL: u8 = b'c';
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const REDUCE: u8 = b'R';
    pub const NEWOBJ: u8 = 0x81;
    pub const NEWOBJ_EX: u8 = 0x92;
    pub const OBJ: u8 = b'o';
    pub const BUILD: u8 = b'b';
    pub const BINPERSID: u8 = b'Q';
    pub const EXT1: u8 = 0x82;
    pub const EXT4: u8 = 0x84;
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const MEMOIZE: u8 = 0x94;
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
}

/// Opcodes of a pickle that is read. A tensor takes some 30 of them.
const MAX_OPCODES: usize = 4_000_000;

/// The state of one pickle's reading.
struct Machine<'a, 'f> {
    input: &'a mut Input<'f>,
    objects: &'a mut Objects,
    stack: Vec<Value>,
    /// Heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

/// Reads one pickle, and returns its object.
///
/// # Errors
/// [`crate::Error::Checkpoint`] if the input ends early or is not a pickle of these protocols.
pub fn load(input: &mut Input, objects: &mut Objects) -> Result<Value> {
    let mut machine = Machine { input, objects, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    for _ in 0..MAX_OPCODES {
        let opcode = machine.input.byte()?;
        if opcode == op::STOP {
            return machine.pop();
        }
        machine.step(opcode)?;
    }
    Err(machine.input.damaged(&format!("it has more than {MAX_OPCODES} parts")))
}

impl Machine<'_, '_> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::PROTO => self.protocol(),
            op::FRAME => self.input.skip(8),
            op::MARK | op::POP | op::POP_MARK | op::DUP => self.stack_only(opcode),
            op::NONE
            | op::NEWTRUE
            | op::NEWFALSE
            | op::INT
            | op::BININT
            | op::BININT1
            | op::BININT2
            | op::LONG1
            | op::LONG4
            | op::BINFLOAT => self.scalar(opcode),
            op::SHORT_BINSTRING | op::BINSTRING | op::BINUNICODE | op::SHORT_BINUNICODE | op::BINUNICODE8 => {
                self.text(opcode)
            }
            op::BINBYTES
            | op::SHORT_BINBYTES
            | op::BINBYTES8
            | op::BYTEARRAY8
            | op::NEXT_BUFFER
            | op::READONLY_BUFFER => self.binary(opcode),
            op::EMPTY_LIST
            | op::EMPTY_TUPLE
            | op::EMPTY_DICT
            | op::EMPTY_SET
            | op::LIST
            | op::TUPLE
            | op::DICT
            | op::TUPLE1..=op::TUPLE3
            | op::FROZENSET => self.container(opcode),
            op::APPEND | op::APPENDS | op::SETITEM | op::SETITEMS | op::ADDITEMS => self.fill(opcode),
            op::GLOBAL
            | op::STACK_GLOBAL
            | op::REDUCE
            | op::NEWOBJ
            | op::NEWOBJ_EX
            | op::OBJ
            | op::BUILD
            | op::BINPERSID
            | op::EXT1..=op::EXT4 => self.object(opcode),
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::BINGET | op::LONG_BINGET => self.memo(opcode),
            _ => Err(self.input.damaged(&format!("{opcode:#04x} is no opcode of pickle protocols 2 to 5"))),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        match self.input.byte()? {
            2..=5 => Ok(()),
            other => Err(self.input.damaged(&format!("pickle protocol {other}; 2 to 5 can be read"))),
        }
    }

    fn stack_only(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::MARK => self.marks.push(self.stack.len()),
            // Of a mark, it closes it.
            op::POP if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            op::POP => drop(self.pop()?),
            op::POP_MARK => drop(self.pop_to_mark()?),
            _ => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
        }
        Ok(())
    }

    fn scalar(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            op::NEWTRUE | op::NEWFALSE => Value::Bool(opcode == op::NEWTRUE),
            op::INT => {
                // 01 and 00 are the booleans of protocol 0, not met here.
                let line = self.input.line()?;
                std::str::from_utf8(&line).ok().and_then(|s| s.trim().parse().ok()).map_or(Value::Opaque, Value::Int)
            }
            op::BININT => Value::Int(i32::from_le_bytes(self.input.array()?).into()),
            op::BININT1 => Value::Int(self.input.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.input.array()?).into()),
            op::LONG1 => {
                let len = self.input.byte()?.into();
                self.long(len)?
            }
            op::LONG4 => {
                let len = self.length_32()?;
                self.long(len)?
            }
            op::BINFLOAT => {
                self.input.skip(8)?;
                Value::Opaque
            }
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    /// A little-endian two's complement number; those beyond 64 bits do not matter here.
    fn long(&mut self, len: u64) -> Result<Value> {
        if len > 8 {
            self.input.skip(len)?;
            return Ok(Value::Opaque);
        }
        let bytes = self.input.bytes(len)?;
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// The strings of Python 3, and those of Python 2, of either kind.
    fn text(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            op::SHORT_BINSTRING | op::SHORT_BINUNICODE => self.input.byte()?.into(),
            op::BINSTRING | op::BINUNICODE => self.length_32()?,
            _ => u64::from_le_bytes(self.input.array()?),
        };
        let bytes = self.input.bytes(len)?;
        self.stack.push(Value::Text(String::from_utf8_lossy(&bytes).into()));
        Ok(())
    }

    /// Byte strings and buffers, whose content does not matter here.
    fn binary(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            op::SHORT_BINBYTES => self.input.byte()?.into(),
            op::BINBYTES => self.length_32()?,
            op::BINBYTES8 | op::BYTEARRAY8 => u64::from_le_bytes(self.input.array()?),
            op::READONLY_BUFFER => return Ok(()),
            _ => 0, // The buffer is not in the file.
        };
        self.input.skip(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            op::EMPTY_LIST | op::EMPTY_TUPLE => self.objects.seq(Vec::new()),
            op::EMPTY_DICT => self.objects.dict(Vec::new()),
            op::EMPTY_SET => Value::Opaque,
            op::FROZENSET => {
                self.pop_to_mark()?;
                Value::Opaque
            }
            op::DICT => {
                let items = self.pop_to_mark()?;
                self.objects.dict(pairs(items))
            }
            op::LIST | op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.objects.seq(items)
            }
            _ => {
                let first = self.height_below(usize::from(opcode - op::TUPLE1) + 1)?;
                let items = self.stack.split_off(first);
                self.objects.seq(items)
            }
        };
        self.stack.push(value);
        Ok(())
    }

    /// Adds to the container below what is added; one that is opaque stays so.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            op::APPEND => vec![self.pop()?],
            op::SETITEM => {
                let first = self.height_below(2)?;
                self.stack.split_off(first)
            }
            _ => self.pop_to_mark()?,
        };
        match (self.top()?, opcode) {
            (&Value::Seq(i), op::APPEND | op::APPENDS) => self.objects.seqs[i].extend(items),
            (&Value::Dict(i), op::SETITEM | op::SETITEMS) => self.objects.dicts[i].extend(pairs(items)),
            _ => {}
        }
        Ok(())
    }

    fn object(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            op::GLOBAL => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                Value::global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))
            }
            op::STACK_GLOBAL => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => Value::global(&module, &name),
                _ => return Err(self.input.damaged("the name of a class is not a string")),
            },
            op::REDUCE | op::NEWOBJ => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.objects.call(&function, &arguments)
            }
            op::NEWOBJ_EX => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.objects.call(&class, &arguments)
            }
            op::OBJ => {
                self.pop_to_mark()?;
                Value::Opaque
            }
            op::BUILD => {
                let (state, object) = (self.pop()?, self.pop()?);
                self.objects.build(&object, &state);
                object
            }
            op::BINPERSID => {
                let id = self.pop()?;
                self.objects.persistent(&id)
            }
            _ => {
                self.input.skip(1 << (opcode - op::EXT1))?;
                Value::Opaque
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn memo(&mut self, opcode: u8) -> Result<()> {
        let index = match opcode {
            op::BINPUT | op::BINGET => self.input.byte()?.into(),
            op::LONG_BINPUT | op::LONG_BINGET => u32::from_le_bytes(self.input.array()?),
            // A pickle is shorter than 4 GiB.
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, op::BINGET | op::LONG_BINGET) {
            let Some(value) = self.memo.get(&index).cloned() else {
                return Err(self.input.damaged(&format!("there is no object {index} to refer to")));
            };
            self.stack.push(value);
        } else {
            let value = self.top()?.clone();
            self.memo.insert(index, value);
        }
        Ok(())
    }

    fn length_32(&mut self) -> Result<u64> {
        Ok(u32::from_le_bytes(self.input.array()?).into())
    }

    fn pop(&mut self) -> Result<Value> {
        let first = self.height_below(1)?;
        Ok(self.stack.swap_remove(first))
    }

    fn top(&self) -> Result<&Value> {
        self.height_below(1).map(|i| &self.stack[i])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let first = self.marks.pop().ok_or_else(|| self.input.damaged("there is no mark"))?;
        Ok(self.stack.split_off(first))
    }

    /// The stack's height without its last `count` objects, which must not reach below a mark.
    fn height_below(&self, count: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let left = (self.stack.len() - floor).checked_sub(count);
        left.map(|n| floor + n).ok_or_else(|| self.input.damaged("the stack is empty"))
    }
}

/// Keys and values that alternate; a key without a value is dropped.
fn pairs(items: Vec<Value>) -> Vec<(Value, Value)> {
    let mut items = items.into_iter();
    std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
}
