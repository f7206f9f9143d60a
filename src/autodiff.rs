//! Reverse-mode differentiation: appends to the tape the nodes that compute gradients.

use crate::Result;
use crate::graph::{Application, Source, Tape, Value};
use crate::ops::add;

impl Tape {
    /// Gradients of Σ ⟨output, cotangent⟩ over `seeds` with respect to each of `wrt`; `None` where no path
    /// leads from `wrt` to an output.
    ///
    /// Only values that depend on `wrt` are visited: leaving a network's parameters out freezes it. The
    /// gradients are ordinary values, so they can be differentiated again.
    ///
    /// # Errors
    /// The first shape or derivative error of an op on the way.
    pub fn gradients(&mut self, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>> {
        let count = self.nodes().len();
        let mut depends = vec![false; count];
        for v in wrt {
            depends[v.index()] = true;
        }
        for i in 0..count {
            depends[i] |= self.nodes()[i].inputs.iter().any(|v| depends[v.index()]);
        }
        let mut sums: Vec<Option<Value>> = vec![None; count];
        for &(output, cotangent) in seeds {
            if depends[output.index()] {
                self.accumulate(&mut sums[output.index()], cotangent)?;
            }
        }
        for i in (0..count).rev() {
            let Some(d_output) = sums[i] else { continue };
            let at = Value::at(i);
            let Source::Op(op) = self.node(at).source.clone() else { continue };
            let inputs = self.node(at).inputs.clone();
            let needs: Vec<bool> = inputs.iter().map(|v| depends[v.index()]).collect();
            if !needs.contains(&true) {
                continue;
            }
            let path = self.node(at).path.to_string();
            let scope = if path.starts_with("d:") { path } else { format!("d:{path}") };
            let here = Application { inputs: &inputs, output: at, needs: &needs };
            self.within(scope, |tape| {
                for (k, d) in op.vjp(tape, &here, d_output)?.into_iter().enumerate() {
                    if let (Some(d), true) = (d, needs[k]) {
                        tape.accumulate(&mut sums[inputs[k].index()], d)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(wrt.iter().map(|v| sums[v.index()]).collect())
    }

    /// The one place where gradients of several uses of a value are summed.
    fn accumulate(&mut self, sum: &mut Option<Value>, term: Value) -> Result<()> {
        *sum = Some(match *sum {
            None => term,
            Some(so_far) => self.push(add::Add::SUM, &[so_far, term])?,
        });
        Ok(())
    }
}
