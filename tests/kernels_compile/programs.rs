//! The modules of real programs: those of `configs/`, as training compiles them, and what these do not reach.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use srgan::config::Config;
use srgan::device::cuda::driver::ModuleSource;
use srgan::graph::Tape;
use srgan::ops::pixel_shuffle::PixelShuffle;
use srgan::ops::sum_to::sum_to;
use srgan::plan::{Plan, PlanOptions, Program, Target};
use srgan::runtime::cuda::{CudaTarget, fill_module, modules, peak_modules};
use srgan::train::programs::{BatchShape, EvaluateOptions, Phase, Programs};
use srgan::types::{DType, Precision, Shape};

/// Side of the images of the plans; a kernel's code hardly depends on it.
const HR: usize = 64;

/// The modules of every program of every config in every precision, and of the device's measurements and checks, each
/// once.
pub fn all_modules() -> Vec<ModuleSource> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = fs::read_dir(root.join("configs")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    let mut seen = HashSet::new();
    let mut all = peak_modules();
    all.push(fill_module());
    let mut configs: Vec<Config> = files.iter().map(|path| Config::load(path, &[]).unwrap().0).collect();
    let lpips = ["Training.Losses.perceptual_metric=lpips".to_owned()];
    configs.push(Config::load(&root.join("configs/perceptual.yaml"), &lpips).unwrap().0);
    let synced = ["Training.sync_batchnorm=true".to_owned()];
    configs.push(Config::load(&root.join("configs/srresnet.yaml"), &synced).unwrap().0);
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        for program in configs.iter().flat_map(|cfg| programs(cfg, precision)).chain([uncommon()]) {
            let options = PlanOptions { precision, ..PlanOptions::new(&CudaTarget) };
            let plan = Plan::compile(&program, options).unwrap();
            all.extend(modules(&plan, true).unwrap().into_iter().filter(|m| seen.insert(m.clone())));
        }
    }
    all
}

fn programs(config: &Config, precision: Precision) -> Vec<Program> {
    let programs = Programs::new(config.clone()).unwrap().among(2);
    let programs = programs.aligned_to(CudaTarget.channel_alignment(precision));
    let pairs = BatchShape { batch: 2, hr: (HR, HR), hr_type: DType::F32, lr_type: Some(DType::F32) };
    let scenes = BatchShape { hr_type: DType::U16, lr_type: None, ..pairs };
    let every =
        EvaluateOptions { ema: false, discriminator: true, images: true, bicubic: true, bands: true, perceptual: true };
    let mut all = vec![
        programs.step(Phase::Pretrain, scenes),
        programs.step(Phase::Adversarial, scenes),
        programs.step(Phase::Adversarial, pairs),
        programs.evaluate(pairs, every),
        programs.begin(Phase::Adversarial, pairs),
    ];
    let segments = [Phase::Pretrain, Phase::Adversarial]
        .into_iter()
        .flat_map(|phase| phase.segments().iter().map(move |segment| (phase, *segment)));
    all.extend(segments.map(|(phase, segment)| programs.segment(phase, segment, pairs)));
    all.into_iter().map(|recorded| recorded.unwrap().program).collect()
}

/// What no network has: a sum that keeps pixels, the derivative of a value that is repeated for every image, and a
/// shuffle of pixels that no kernel has computed.
fn uncommon() -> Program {
    let mut tape = Tape::new();
    let x = tape.input("x", Shape([2, HR, HR, 8]), DType::F32);
    let sum = sum_to(&mut tape, x, Shape([1, HR, HR, 8])).unwrap();
    let large = tape.push(PixelShuffle { factor: 2 }, &[x]).unwrap();
    let outputs = vec![("sum".into(), sum), ("large".into(), large)];
    Program { name: "uncommon", tape, outputs, checks: vec![], commits: vec![] }
}

/// Names of the kernels in `kernels/`: function templates over their argument struct.
pub fn kernel_names() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut names = Vec::new();
    for path in files.filter(|p| p.extension().is_some_and(|e| e == "cu")) {
        let text = fs::read_to_string(path).unwrap();
        let kernel =
            |line: &str| Some(line.strip_prefix("__device__ void ")?.strip_suffix("(const Args& a) {")?.to_owned());
        names.extend(text.lines().filter_map(kernel));
    }
    names.sort();
    names
}
