//! A reader of pickles that runs nothing: the stack machine of Python's `pickle`, protocols 2 to 5, whose objects
//! are those of [`value`](super::value). Every opcode takes at least one byte and adds at most what it was given,
//! so that time and memory are bounded by the length of the input.

use std::collections::HashMap;

use super::input::Input;
use super::value::{Objects, Value};
use crate::Result;

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
    loop {
        let opcode = machine.input.byte()?;
        if opcode == b'.' {
            return machine.pop();
        }
        machine.step(opcode)?;
    }
}

impl Machine<'_, '_> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => self.protocol(),                              // PROTO
            0x95 => self.input.skip(8),                           // FRAME
            b'(' | b'0' | b'1' | b'2' => self.stack_only(opcode), // MARK, POP, POP_MARK, DUP
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.scalar(opcode),
            b'U' | b'T' | b'X' | 0x8c | 0x8d => self.text(opcode),
            b'B' | b'C' | 0x8e | 0x96 | 0x97 | 0x98 => self.binary(opcode),
            b']' | b')' | b'}' | 0x8f | b'l' | b't' | b'd' | 0x85..=0x87 | 0x91 => self.container(opcode),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode),
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'o' | b'b' | b'Q' | 0x82..=0x84 => self.object(opcode),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode),
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
            b'(' => self.marks.push(self.stack.len()),
            // POP of a mark closes it.
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            _ => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
        }
        Ok(())
    }

    fn scalar(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            0x88 | 0x89 => Value::Bool(opcode == 0x88), // NEWTRUE, NEWFALSE
            b'I' => {
                // INT; 01 and 00 are the booleans of protocol 0, not met here.
                let line = self.input.line()?;
                std::str::from_utf8(&line).ok().and_then(|s| s.trim().parse().ok()).map_or(Value::Opaque, Value::Int)
            }
            b'J' => Value::Int(i32::from_le_bytes(self.input.array()?).into()), // BININT
            b'K' => Value::Int(self.input.byte()?.into()),                      // BININT1
            b'M' => Value::Int(u16::from_le_bytes(self.input.array()?).into()), // BININT2
            0x8a => {
                let len = self.input.byte()?.into();
                self.long(len)?
            }
            0x8b => {
                let len = self.length_32()?;
                self.long(len)?
            }
            b'G' => {
                self.input.skip(8)?;
                Value::Opaque
            }
            _ => Value::Opaque, // NONE
        };
        self.stack.push(value);
        Ok(())
    }

    /// LONG1, LONG4: a little-endian two's complement number; those beyond 64 bits do not matter here.
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
            b'U' | 0x8c => self.input.byte()?.into(),
            b'T' | b'X' => self.length_32()?,
            _ => u64::from_le_bytes(self.input.array()?),
        };
        let bytes = self.input.bytes(len)?;
        self.stack.push(Value::Text(String::from_utf8_lossy(&bytes).into()));
        Ok(())
    }

    /// Byte strings and buffers, whose content does not matter here.
    fn binary(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'C' => self.input.byte()?.into(),
            b'B' => self.length_32()?,
            0x8e | 0x96 => u64::from_le_bytes(self.input.array()?),
            0x98 => return Ok(()), // READONLY_BUFFER
            _ => 0,                // NEXT_BUFFER: not in the file
        };
        self.input.skip(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b']' | b')' => self.objects.seq(Vec::new()),
            b'}' => self.objects.dict(Vec::new()),
            0x8f => Value::Opaque, // EMPTY_SET
            0x91 => {
                self.pop_to_mark()?; // FROZENSET
                Value::Opaque
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.objects.dict(pairs(items))
            }
            b'l' | b't' => {
                let items = self.pop_to_mark()?;
                self.objects.seq(items)
            }
            _ => {
                let first = self.height_below(usize::from(opcode - 0x84))?; // TUPLE1 to TUPLE3
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
            b'a' => vec![self.pop()?],
            b's' => {
                let first = self.height_below(2)?;
                self.stack.split_off(first)
            }
            _ => self.pop_to_mark()?,
        };
        match (self.top()?, opcode) {
            (&Value::Seq(i), b'a' | b'e') => self.objects.seqs[i].extend(items),
            (&Value::Dict(i), b's' | b'u') => self.objects.dicts[i].extend(pairs(items)),
            _ => {}
        }
        Ok(())
    }

    fn object(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                Value::global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => Value::global(&module, &name),
                _ => return Err(self.input.damaged("the name of a class is not a string")),
            },
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.objects.call(&function, &arguments)
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.objects.call(&class, &arguments)
            }
            b'o' => {
                self.pop_to_mark()?;
                Value::Opaque
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.pop()?);
                self.objects.build(&object, &state);
                object
            }
            b'Q' => {
                let id = self.pop()?;
                self.objects.persistent(&id)
            }
            _ => {
                self.input.skip(1 << (opcode - 0x82))?; // EXT1, EXT2, EXT4
                Value::Opaque
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn memo(&mut self, opcode: u8) -> Result<()> {
        let index = match opcode {
            b'q' | b'h' => self.input.byte()?.into(),
            b'r' | b'j' => u32::from_le_bytes(self.input.array()?),
            // A pickle is shorter than 4 GiB.
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
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
