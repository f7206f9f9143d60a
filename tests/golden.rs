//! Every golden case in the folder `SRGAN_GOLDEN_DIR` (default `tests/golden`) on the device
//! `SRGAN_GOLDEN_DEVICE` (default `cpu`): numbers that PyTorch computed in float64 (`make_golden.py` beside
//! them), each tensor within its own tolerance. One line per case; a failure names its tensors. One case runs on
//! every instruction set of the CPU; a line says which sets it lacks.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use srgan::checkpoint::{PlateauState, TensorFile};
use srgan::config::Config;
use srgan::device::cpu::{Cpu, Isa, IsaKind};
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::device::cuda::{Cuda, GpuDriver, GpuOptions};
use srgan::device::{Device, bytes_of};
use srgan::loss::{self, ContentWeights};
use srgan::nn::{self, Layout, Net, Vars};
use srgan::ops::assign::Assign;
use srgan::plan::{Commit, Plan, PlanOptions, Program};
use srgan::tape::{DType, Shape, Tape, Value};
use srgan::train::names;
use srgan::train::programs::BatchShape;
use srgan::train::session::Session;
use srgan::train::step::{RawBatch, StepNumbers, run_step};
use srgan::{Error, Result};

/// The case that runs on every instruction set.
const EVERY_SET: &str = "training_bce";

struct Case {
    name: String,
    isa: Isa,
    kind: String,
    cfg: Config,
    tol: BTreeMap<String, f64>,
    extra: serde_json::Value,
    file: TensorFile,
    shapes: HashMap<String, Vec<usize>>,
}

/// Distances found so far, as (tensor, distance, tolerance).
#[derive(Default)]
struct Findings(Vec<(String, f64, f64)>);

impl Case {
    fn open(path: &Path, isa: Isa) -> Result<Case> {
        let file = TensorFile::open(path)?;
        let text = file.metadata().get("case").ok_or_else(|| Error::data(path, "no metadata key \"case\""))?;
        let case: serde_json::Value = serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))?;
        let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let (cfg, _) = Config::from_yaml(&text("config"), Some(path), &[])?;
        let tol = case["l2_tol"].as_object().into_iter().flatten();
        let tol = tol.map(|(k, v)| (k.clone(), v.as_f64().unwrap_or(0.0))).collect();
        let shapes = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        Ok(Case { name: text("name"), isa, kind: text("kind"), cfg, tol, extra: case, file, shapes })
    }

    /// An image tensor (N,C,H,W in the file) in NHWC, with its extent.
    fn image(&mut self, name: &str) -> Result<(Shape, Vec<f32>)> {
        let dims = self.shapes.get(name).cloned().unwrap_or_default();
        let [n, c, h, w] = dims[..] else {
            return Err(Error::Internal(format!("{}: {name} is not an image", self.name)));
        };
        let nchw = self.file.read(name)?;
        Ok((Shape([n, h, w, c]), to_nhwc(&nchw, [n, h, w, c])))
    }

    /// Compares a tensor in the file's order.
    fn compare(&mut self, findings: &mut Findings, name: &str, got: &[f32]) -> Result<()> {
        let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
        self.compare_f64(findings, name, &got)
    }

    fn compare_f64(&mut self, findings: &mut Findings, name: &str, got: &[f64]) -> Result<()> {
        let Some(tol) = self.tol.remove(name) else { return Ok(()) };
        let want = self.file.read(name)?;
        let distance = if want.len() == got.len() {
            want.iter().zip(got).map(|(w, g)| (f64::from(*w) - g).powi(2)).sum::<f64>().sqrt()
        } else {
            f64::NAN
        };
        findings.0.push((name.to_owned(), distance, tol));
        Ok(())
    }

    /// Compares an image given in NHWC.
    fn compare_image(&mut self, findings: &mut Findings, name: &str, got: &[f32], shape: Shape) -> Result<()> {
        let is_matrix = self.shapes.get(name).is_some_and(|s| s.len() == 2);
        if is_matrix { self.compare(findings, name, got) } else { self.compare(findings, name, &to_nchw(got, shape)) }
    }
}

fn to_nhwc(nchw: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(nchw.len());
    for i in 0..n {
        for p in 0..h * w {
            out.extend((0..c).map(|k| nchw[(i * c + k) * h * w + p]));
        }
    }
    out
}

fn to_nchw(nhwc: &[f32], shape: Shape) -> Vec<f32> {
    let [n, h, w, c] = shape.0;
    let mut out = Vec::with_capacity(nhwc.len());
    for i in 0..n {
        for k in 0..c {
            out.extend((0..h * w).map(|p| nhwc[(i * h * w + p) * c + k]));
        }
    }
    out
}

fn device(isa: Isa) -> Result<Box<dyn Device>> {
    match device_name().as_str() {
        "cpu" => Ok(Box::new(Cpu::new(2)?.with_isa(isa))),
        "host" => {
            let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
            let driver = HostDriver::new(&cache, HostOptions::default())?;
            Ok(Box::new(Cuda::new(Box::new(driver))))
        }
        "cuda" => {
            let driver = GpuDriver::new(GpuOptions::new(&|name| std::env::var_os(name)))?;
            Ok(Box::new(Cuda::new(Box::new(driver))))
        }
        other => Err(Error::usage(format!("SRGAN_GOLDEN_DEVICE={other}: it is cpu, cuda or host"))),
    }
}

/// A network alone on a device, with the case's weights.
struct Bench {
    device: Box<dyn Device>,
    layout: Layout,
}

impl Bench {
    fn new(case: &mut Case, layout: Layout) -> Result<Bench> {
        let mut device = device(case.isa)?;
        let mut flat = vec![0.0; layout.len];
        for p in &layout.params {
            let values = p.from_file(&case.file.read(&p.name)?);
            flat[p.offset..p.offset + values.len()].copy_from_slice(&values);
        }
        device.set_state(&layout.params_state(), Shape::vector(layout.len), &flat)?;
        for b in &layout.buffers {
            let values = b.from_file(&case.file.read(&b.name)?);
            device.set_state(&b.name, b.shape, &values)?;
        }
        Ok(Bench { device, layout })
    }

    fn run(&mut self, program: &Program, uploads: &[(&str, &[f32])]) -> Result<HashMap<String, Vec<f32>>> {
        let target = self.device.target();
        let plan = Plan::compile(program, PlanOptions::new(target))?;
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

fn network_case(case: &mut Case, findings: &mut Findings, generator: bool) -> Result<()> {
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

fn loss_case(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let l = &case.cfg.training.losses;
    let weights = ContentWeights {
        l1: l.l1_weight as f32,
        sam: l.sam_weight as f32,
        tv: l.tv_weight as f32,
        max_val: l.max_val as f32,
        ssim_win: l.ssim_win,
    };
    let (shape, sr) = case.image("sr")?;
    let (_, hr) = case.image("hr")?;
    let mut tape = Tape::new();
    let (x, y) = (tape.input("sr", shape, DType::F32), tape.input("hr", shape, DType::F32));
    let terms = loss::content(&mut tape, x, y, &weights)?;
    let one = tape.scalar(1.0);
    let grads = tape.gradients(&[(terms.total, one)], &[x])?;
    let mut outputs = vec![("total".to_owned(), terms.total)];
    let components = [terms.l1, terms.sam, terms.tv, terms.psnr, terms.ssim];
    outputs.extend(names::COMPONENTS.iter().zip(components).map(|(n, v)| (format!("metric.{n}"), v)));
    outputs.extend(grads[0].map(|g| ("grad.sr".to_owned(), g)));
    let zero = tape.scalar(0.0);
    outputs.push(("metric.perceptual".to_owned(), zero));
    let program = Program { name: "golden", tape, outputs, checks: vec![], commits: vec![] };
    let mut bench = Bench { device: device(case.isa)?, layout: Layout::default() };
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

fn training_case(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let cfg = case.cfg.clone();
    let mut session = Session::new(&cfg, device(case.isa)?)?;
    session.set_tensors(|name| match name.split_once('.') {
        Some(("generator" | "discriminator", _)) => case.file.read(&format!("init.{name}")),
        Some(("ema", rest)) => case.file.read(&format!("init.generator.{rest}")),
        // Moments start at zero, in the extent of their parameter.
        _ => {
            let (network, rest) = if name.starts_with("optim_g") { ("generator", 3) } else { ("discriminator", 3) };
            let parameter = name.splitn(rest, '.').nth(2).unwrap_or_default();
            let shape = &case.shapes[&format!("init.{network}.{parameter}")];
            Ok(vec![0.0; shape.iter().product()])
        }
    })?;
    let mut log: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let none = PlateauState::default();
    for step in 0..case.extra["steps"].as_u64().unwrap_or(0) {
        let (_, lr) = case.image(&format!("batch.{step}.lr"))?;
        let (shape, hr) = case.image(&format!("batch.{step}.hr"))?;
        let batch =
            BatchShape { batch: shape.n(), hr: (shape.h(), shape.w()), hr_type: DType::F32, lr_type: Some(DType::F32) };
        let codes = vec![0; shape.n()];
        let noise = format!("batch.{step}.noise");
        let noise = if case.shapes.contains_key(&noise) { Some(case.file.read(&noise)?) } else { None };
        let raw = RawBatch { hr: bytes_of(&hr), lr: Some(bytes_of(&lr)), codes: &codes, noise: noise.as_deref() };
        let numbers = StepNumbers::at(&cfg, step, &none, &none);
        let report = run_step(&mut session, &cfg, batch, &[raw], (step, numbers))?;
        if !report.committed {
            return Err(Error::Internal(format!("{}: step {step} was not finite", case.name)));
        }
        for (name, value) in report.values {
            log.entry(format!("log.{name}")).or_default().push(value);
        }
    }
    for (name, values) in log {
        // The file holds float32.
        let rounded: Vec<f64> = values.iter().map(|v| f64::from(*v as f32)).collect();
        case.compare_f64(findings, &name, &rounded)?;
    }
    for t in session.tensors()? {
        case.compare(findings, &format!("final.{}", t.name), &t.data)?;
    }
    if !cfg.training.ema.enabled {
        without_average(case, findings)?;
    }
    Ok(())
}

/// The cases also hold an average that was switched off: it never left the initial weights, and no step had a
/// decay. A run without average stores neither, so what is shown is that the case says the same.
fn without_average(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let averaged: Vec<String> = case.tol.keys().filter(|k| k.starts_with("final.ema.")).cloned().collect();
    for name in averaged {
        let initial = case.file.read(&name.replacen("final.ema.", "init.generator.", 1))?;
        case.compare(findings, &name, &initial)?;
    }
    let steps = case.extra["steps"].as_u64().unwrap_or(0) as usize;
    case.compare_f64(findings, "log.EMA/last_decay", &vec![0.0; steps])
}

fn run_case(path: &Path, isa: Isa) -> Result<(String, Findings)> {
    let mut case = Case::open(path, isa)?;
    let mut findings = Findings::default();
    match case.kind.as_str() {
        "generator" => network_case(&mut case, &mut findings, true)?,
        "discriminator" => network_case(&mut case, &mut findings, false)?,
        "content_loss" => loss_case(&mut case, &mut findings)?,
        "training" => training_case(&mut case, &mut findings)?,
        other => return Err(Error::data(path, format!("a case of unknown kind {other}"))),
    }
    // A tensor that nobody computed is a failure, not a pass.
    for (name, tol) in std::mem::take(&mut case.tol) {
        findings.0.push((format!("{name} (not computed)"), f64::NAN, tol));
    }
    let on = device_name();
    Ok((format!("{} ({})", case.name, if on == "cpu" { isa.kind().name() } else { &on }), findings))
}

/// `SRGAN_GOLDEN_DEVICE`.
fn device_name() -> String {
    std::env::var("SRGAN_GOLDEN_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// What runs: every case on the widest set of a CPU, and [`EVERY_SET`] on the others, which are named where they are
/// missing; on other devices every case once.
fn cases(paths: &[PathBuf]) -> Vec<(&PathBuf, Isa)> {
    let mut cases: Vec<_> = paths.iter().map(|p| (p, Isa::detect())).collect();
    let every_set = paths.iter().find(|p| device_name() == "cpu" && p.file_stem().is_some_and(|s| s == EVERY_SET));
    let Some(path) = every_set else { return cases };
    for kind in IsaKind::ALL.iter().filter(|kind| **kind != Isa::detect().kind()) {
        match Isa::of(*kind) {
            Some(isa) => cases.push((path, isa)),
            None => println!("{EVERY_SET} ({}): SKIPPED, the processor lacks this instruction set", kind.name()),
        }
    }
    cases
}

fn main() -> ExitCode {
    let dir = std::env::var("SRGAN_GOLDEN_DIR").unwrap_or_else(|_| "tests/golden".into());
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(e) => {
            eprintln!("cannot read {dir}: {e}");
            return ExitCode::FAILURE;
        }
    };
    paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    let (mut passed, mut failed) = (0, 0);
    for (path, isa) in cases(&paths) {
        let verdict = match run_case(path, isa) {
            Err(e) => Err(format!("{}: {e}", path.display())),
            Ok((name, findings)) => report(&name, &findings),
        };
        match verdict {
            Ok(line) => {
                println!("{line}");
                passed += 1;
            }
            Err(text) => {
                println!("{text}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line with the worst ratio of distance to tolerance; an error lists every tensor beyond its tolerance.
fn report(name: &str, findings: &Findings) -> std::result::Result<String, String> {
    let ratio = |f: &&(String, f64, f64)| if f.1.is_finite() { f.1 / f.2 } else { f64::INFINITY };
    let worst = findings.0.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let Some(worst) = worst else { return Err(format!("{name}: nothing was compared")) };
    let line = format!("{name}: {} tensors, worst ratio {:.3} ({})", findings.0.len(), ratio(&worst), worst.0);
    // `!(…)` so that NaN fails.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    let beyond: Vec<_> = findings.0.iter().filter(|f| !(f.1 <= f.2)).collect();
    if beyond.is_empty() {
        return Ok(line);
    }
    let mut text = format!("{line}\n  FAILED:");
    for f in beyond.iter().take(12) {
        text += &format!("\n    {}: distance {:.3e}, tolerance {:.3e}", f.0, f.1, f.2);
    }
    if beyond.len() > 12 {
        text += &format!("\n    … and {} more", beyond.len() - 12);
    }
    Err(text)
}
