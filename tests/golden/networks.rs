//! Cases of one network, and of the content loss, alone.

use std::collections::HashMap;
use std::sync::Arc;

use srgan::graph::{Tape, Value};
use srgan::loss::Images;
use srgan::nn::{Layout, Net, Vars};
use srgan::ops::assign::Assign;
use srgan::plan::{Commit, Plan, PlanOptions, Program};
use srgan::runtime::{Device, bytes_of};
use srgan::train::perceptual;
use srgan::train::programs::Programs;
use srgan::types::{DType, Precision, Shape};
use srgan::{Result, loss, nn};

use crate::case::{Case, Findings, to_nhwc};

/// A network alone on a device, with the case's weights.
struct Bench {
    device: Box<dyn Device>,
    precision: Precision,
    layout: Layout,
}

impl Bench {
    fn new(case: &mut Case, layout: Layout) -> Result<Bench> {
        let mut device = case.setting.device()?;
        let flat = layout.filled(|name| case.file.read(&format!("{}.{name}", layout.prefix)))?;
        device.set_state(&layout.params_state(), Shape::vector(layout.len), &flat)?;
        for b in &layout.buffers {
            let values = b.from_file(&case.file.read(&b.name)?);
            device.set_state(&b.name, b.shape, &values)?;
        }
        Ok(Bench { device, precision: case.setting.precision, layout })
    }

    fn run(&mut self, program: &Program, uploads: &[(&str, &[f32])]) -> Result<HashMap<String, Vec<f32>>> {
        let options = PlanOptions { precision: self.precision, ..PlanOptions::new(self.device.target()) };
        let plan = Plan::compile(program, options)?;
        let id = self.device.load(plan)?;
        for (name, data) in uploads {
            self.device.upload(id, name, bytes_of(data))?;
        }
        let outcome = self.device.run(id)?;
        Ok(program.outputs.iter().map(|o| o.0.clone()).zip(outcome.outputs).collect())
    }
}

/// Which program of a network case is written.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Training mode, gradients of ⟨output, cotangent⟩, statistics moved.
    Train,
    /// The R1 penalty and its gradients.
    R1,
    /// Evaluation mode.
    Eval,
}

type Forward<'f> = &'f dyn Fn(&mut Net, Value) -> Result<Value>;

fn network_program(layout: &Layout, input: Shape, part: Part, gamma: f32, forward: Forward) -> Result<Program> {
    let mut tape = Tape::new();
    let x = tape.input("input", input, DType::F32);
    let flat = tape.state(&layout.params_state(), Shape::vector(layout.len));
    let (mut buffers, mut params) = (HashMap::new(), HashMap::new());
    let vars = Vars::Bound { layout, flat, buffers: &mut buffers, params: &mut params };
    let y = forward(&mut Net::new(&mut tape, vars, part != Part::Eval), x)?;
    let mut outputs = Vec::new();
    let mut commits = Vec::new();
    let mut wrt: Vec<Value> = layout.params.iter().map(|p| params[&p.name]).collect();
    match part {
        Part::Eval => outputs.push(("output_eval".to_owned(), y)),
        Part::Train => {
            let cotangent = tape.input("cotangent", tape.shape(y), DType::F32);
            wrt.push(x);
            let grads = tape.gradients(&[(y, cotangent)], &wrt)?;
            outputs.push(("output".to_owned(), y));
            let names = layout.params.iter().map(|p| p.name.as_str()).chain(["input"]);
            outputs.extend(names.zip(grads).filter_map(|(n, g)| Some((format!("grad.{n}"), g?))));
            for b in &layout.buffers {
                outputs.push((format!("after.{}", b.name), buffers[&b.name]));
                let states = vec![(b.name.clone(), b.shape)];
                commits.push(Commit { op: Arc::new(Assign), inputs: vec![buffers[&b.name]], states });
            }
        }
        Part::R1 => {
            let r1 = loss::r1_penalty(&mut tape, y, x, gamma)?;
            let one = tape.scalar(1.0);
            let grads = tape.gradients(&[(r1, one)], &wrt)?;
            outputs.push(("r1.value".to_owned(), r1));
            for (p, grad) in layout.params.iter().zip(grads) {
                // The last biases do not reach the penalty: their gradient is zero.
                let grad = grad.unwrap_or_else(|| tape.constant(p.shape, vec![0.0; p.shape.len()]));
                outputs.push((format!("r1.grad.{}", p.name), grad));
            }
        }
    }
    Ok(Program { name: "golden", tape, outputs, checks: vec![], commits })
}

pub fn network_case(case: &mut Case, findings: &mut Findings, generator: bool) -> Result<()> {
    let cfg = case.cfg.clone();
    let layout = if generator { nn::generator_layout(&cfg)? } else { nn::discriminator_layout(&cfg)? };
    let mut bench = Bench::new(case, layout)?;
    let (input_shape, input) = case.image("input")?;
    let noise = if nn::is_stochastic(&cfg) && generator { Some(case.file.read("noise")?) } else { None };
    let forward = |net: &mut Net, x: Value| {
        if !generator {
            return nn::discriminator(net, &cfg, x);
        }
        let shape = Shape([input_shape.n(), 1, 1, cfg.generator.noise_dim]);
        let noise = nn::is_stochastic(&cfg).then(|| net.tape.input("noise", shape, DType::F32));
        nn::generator(net, &cfg, x, noise)
    };
    let gamma = case.extra["r1_gamma"].as_f64().unwrap_or(0.0) as f32;
    let cotangent = case.file.read("cotangent")?;
    let dims = case.shapes["cotangent"].clone();
    let parts = if generator { vec![Part::Train, Part::Eval] } else { vec![Part::Train, Part::R1, Part::Eval] };
    for part in parts {
        let program = network_program(&bench.layout, input_shape, part, gamma, &forward)?;
        let cotangent = match dims[..] {
            [n, c, h, w] => to_nhwc(&cotangent, [n, h, w, c]),
            _ => cotangent.clone(),
        };
        let mut uploads = vec![("input", input.as_slice()), ("cotangent", &cotangent)];
        uploads.extend(noise.as_deref().map(|n| ("noise", n)));
        let outputs = bench.run(&program, &uploads)?;
        for (name, value) in &program.outputs {
            let got = &outputs[name];
            let bare = name.strip_prefix("r1.").unwrap_or(name);
            let bare = bare.strip_prefix("grad.").or(bare.strip_prefix("after.")).unwrap_or(bare);
            let all = bench.layout.params.iter().chain(&bench.layout.buffers);
            match all.into_iter().find(|t| t.name == bare) {
                Some(t) => case.compare(findings, name, &t.to_file(got))?,
                None if name == "r1.value" => case.compare(findings, name, got)?,
                None => case.compare_image(findings, name, got, program.tape.shape(*value))?,
            }
        }
    }
    Ok(())
}

/// A tensor of a case's perceptual network, in file order: LPIPS's own, and for the rest those of `formula` in
/// `make_golden.py`.
pub fn perceptual_weights(layout: &Layout, name: &str) -> Result<Vec<f32>> {
    if name.starts_with("lin") {
        return perceptual::linear(name);
    }
    let tensor = layout.params.iter().find(|p| layout.bare_name(p) == name);
    let shape = tensor.map(srgan::nn::Tensor::file_shape).unwrap_or_default();
    let bound = match shape[..] {
        [_] => 0.1,
        _ => (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt(),
    };
    let seed = srgan::rng::name_hash(name) as u32;
    let value = |i: u32| {
        let mut x = i.wrapping_add(seed);
        for (shift, factor) in [(16, 0x7FEB_352D), (15, 0x846C_A68B), (16, 1)] {
            x = (x ^ x >> shift).wrapping_mul(factor);
        }
        (bound * (2.0 * (f64::from(x) / 4_294_967_296.0) - 1.0)) as f32
    };
    Ok((0..shape.iter().product::<usize>() as u32).map(value).collect())
}

pub fn loss_case(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let (shape, sr) = case.image("sr")?;
    let (_, hr) = case.image("hr")?;
    let mut tape = Tape::new();
    let (x, y) = (tape.input("sr", shape, DType::F32), tape.input("hr", shape, DType::F32));
    let mut device = case.setting.device()?;
    let alignment = device.target().channel_alignment(case.setting.precision);
    let programs = Programs::new(case.cfg.clone())?.aligned_to(alignment);
    let perceptual = programs.perceptual_distances(&mut tape, x, y)?;
    let terms = loss::content(&mut tape, &Images { sr: x, hr: y, perceptual }, &case.cfg.training.losses)?;
    let one = tape.scalar(1.0);
    let grads = tape.gradients(&[(terms.total, one)], &[x])?;
    let mut outputs = vec![("total".to_owned(), terms.total)];
    for term in loss::TERMS {
        // What is not computed counts as 0.
        let value = terms.get(term.train).unwrap_or_else(|| tape.scalar(0.0));
        outputs.push((term.train.name().replace("train_metrics/", "metric."), value));
    }
    outputs.extend(grads[0].map(|g| ("grad.sr".to_owned(), g)));
    let program = Program { name: "golden", tape, outputs, checks: vec![], commits: vec![] };
    if let Some(layout) = programs.perceptual() {
        let flat = layout.filled(|name| perceptual_weights(layout, name))?;
        device.set_state(&layout.params_state(), Shape::vector(flat.len()), &flat)?;
    }
    let mut bench = Bench { device, precision: case.setting.precision, layout: Layout::default() };
    let got = bench.run(&program, &[("sr", &sr), ("hr", &hr)])?;
    for (name, values) in got {
        if name == "grad.sr" {
            case.compare_image(findings, &name, &values, shape)?;
        } else {
            case.compare(findings, &name, &values)?;
        }
    }
    Ok(())
}
