//! A loss of one's own: the squared difference of the detail in SR and HR, which a Laplace filter finds. It is written of
//! ops that exist, so that its gradient follows; the example compares that with finite differences.
//!
//! ```sh
//! cargo run --release --example custom_loss
//! ```
//!
//! A term that configurations can weigh is added in three places of this crate: docs/develop/add-a-loss-term.md.

use srgan::graph::{Tape, Value};
use srgan::ops::add::Add;
use srgan::ops::conv2d::{Conv2d, Geometry};
use srgan::ops::mul::Scale;
use srgan::ops::sum_to::sum_product_to;
use srgan::plan::{Plan, PlanOptions, Program};
use srgan::runtime::{Cpu, Device};
use srgan::types::{DType, Shape};
use srgan::{Error, Result};

const IMAGES: Shape = Shape([2, 12, 12, 3]);

/// Mean of (Laplace(SR) − Laplace(HR))² over all elements of (N, H, W, C), a scalar.
fn detail_loss(tape: &mut Tape, sr: Value, hr: Value) -> Result<Value> {
    tape.scoped("detail_loss", |tape| {
        let shape = tape.shape(sr);
        // One filter 3×3 for each channel, O,kh,kw,I: constants have no gradient.
        let laplace = [0.0, 1.0, 0.0, 1.0, -4.0, 1.0, 0.0, 1.0, 0.0];
        let weight = tape.constant(Shape([shape.c(), 3, 3, 1]), laplace.repeat(shape.c()));
        let difference = tape.push(Add::DIFFERENCE, &[sr, hr])?;
        let filter = Conv2d(Geometry { depthwise: true, ..Geometry::same(3) });
        let detail = tape.push(filter, &[difference, weight])?;
        let sum = sum_product_to(tape, detail, detail, Shape::SCALAR)?;
        tape.push(Scale::by(1.0 / shape.len() as f32), &[sum])
    })
}

/// The loss of SR beside HR, and its gradient for SR.
fn evaluate(sr: &[f32], hr: &[f32]) -> Result<(f32, Vec<f32>)> {
    let mut tape = Tape::new();
    let images = ["sr", "hr"].map(|name| tape.input(name, IMAGES, DType::F32));
    let loss = detail_loss(&mut tape, images[0], images[1])?;
    let one = tape.scalar(1.0);
    let grad = tape.gradients(&[(loss, one)], &images[..1])?[0];
    let grad = grad.ok_or_else(|| Error::Internal("the loss does not depend on SR".into()))?;
    let outputs = vec![("loss".into(), loss), ("grad".into(), grad)];
    let program = Program { name: "example", tape, outputs, checks: vec![], commits: vec![] };

    let mut device = Cpu::new(1)?;
    let plan = device.load(Plan::compile(&program, PlanOptions::new(device.target()))?)?;
    device.upload(plan, "sr", bytemuck::cast_slice(sr))?;
    device.upload(plan, "hr", bytemuck::cast_slice(hr))?;
    let mut outputs = device.run(plan)?.outputs;
    let grad = outputs.pop().unwrap_or_default();
    Ok((outputs[0][0], grad))
}

fn main() -> Result<()> {
    let image = |frequency: f32| -> Vec<f32> { (0..IMAGES.len()).map(|i| (frequency * i as f32).sin()).collect() };
    let (sr, hr) = (image(0.3), image(0.4));
    let (loss, grad) = evaluate(&sr, &hr)?;
    println!("loss {loss:.5}; of equal images {}", evaluate(&hr, &hr)?.0);

    // Along the gradient the loss grows by its squared norm.
    let step = 1e-3;
    let moved: Vec<f32> = sr.iter().zip(&grad).map(|(v, g)| v + step * g).collect();
    let back: Vec<f32> = sr.iter().zip(&grad).map(|(v, g)| v - step * g).collect();
    let measured = (evaluate(&moved, &hr)?.0 - evaluate(&back, &hr)?.0) / (2.0 * step);
    let expected: f32 = grad.iter().map(|g| g * g).sum();
    println!("growth along the gradient: {measured:.5}, by the derivative {expected:.5}");
    if (measured - expected).abs() <= 0.02 * expected {
        Ok(())
    } else {
        Err(Error::Internal("the derivative is not that of the loss".into()))
    }
}
