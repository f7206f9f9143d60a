//! What the assembler reports of each kernel (`--ptxas-options=-v`).

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a block's static shared memory.
    pub shared_bytes: u32,
    /// Bytes of a thread's stack: arrays that are indexed at run time.
    pub stack_bytes: u32,
    /// Bytes that a thread writes to memory for lack of registers, per pass through the code.
    pub spill_stores: u32,
    /// Bytes that it reads back.
    pub spill_loads: u32,
}

impl Usage {
    /// Whether the kernel has too few registers.
    pub fn spills(&self) -> bool {
        self.spill_stores > 0 || self.spill_loads > 0
    }
}

/// The kernels of a log, in its order.
pub fn resource_usage(log: &str) -> Vec<Usage> {
    let mut found: Vec<Usage> = Vec::new();
    // Functions that are not inlined have properties too: only those of the entry count.
    let mut of_entry = false;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            found.push(Usage { kernel, ..Usage::default() });
        } else if let Some((_, function)) = line.split_once("Function properties for ") {
            of_entry = found.last().is_some_and(|u| u.kernel == function.trim());
        } else if let Some(usage) = found.last_mut() {
            let number = |unit: &str| number_before(line, unit);
            if let Some(stack) = number(" bytes stack frame").filter(|_| of_entry) {
                usage.stack_bytes = stack;
                usage.spill_stores = number(" bytes spill stores").unwrap_or(0);
                usage.spill_loads = number(" bytes spill loads").unwrap_or(0);
            } else if let Some(registers) = number(" registers") {
                usage.registers = registers;
                usage.shared_bytes = number(" bytes smem").unwrap_or(0);
            }
        }
    }
    found
}

/// The whole number right before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_two_kernels_and_a_function() {
        let log = "kernels/a.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n\
                   ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'first' for 'sm_90a'\n\
                   ptxas info    : Function properties for first\n\
                   \x20   1032 bytes stack frame, 128 bytes spill stores, 132 bytes spill loads\n\
                   ptxas info    : Used 255 registers, used 1 barriers, 1032 bytes cumulative stack size, 4224 bytes smem\n\
                   ptxas info    : Compile time = 12.345 ms\n\
                   ptxas info    : Function properties for helper\n\
                   \x20   8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
                   ptxas info    : Compiling entry function 'second' for 'sm_90a'\n\
                   ptxas info    : Function properties for second\n\
                   \x20   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 16 registers, used 0 barriers, 384 bytes cmem[0]\n";
        let first = Usage {
            kernel: "first".into(),
            registers: 255,
            shared_bytes: 4224,
            stack_bytes: 1032,
            spill_stores: 128,
            spill_loads: 132,
        };
        let second = Usage { kernel: "second".into(), registers: 16, ..Usage::default() };
        assert_eq!(resource_usage(log), [first.clone(), second.clone()]);
        assert!(first.spills() && !second.spills());
    }

    #[test]
    fn a_log_without_kernels() {
        assert_eq!(resource_usage(""), []);
        assert_eq!(resource_usage("ptxas info    : 0 bytes gmem\n  0 bytes stack frame\nUsed registers"), []);
    }
}
