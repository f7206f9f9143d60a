//! What is chosen, kept, reused and chosen again, on the host driver, whose candidates take fixed times.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::Error;
use crate::config::Config;
use crate::device::cuda::host::{HostDriver, HostOptions, Libraries};
use crate::graph::{Tape, Tensor64};
use crate::ops::add::Add;
use crate::ops::conv2d::{Conv2d, Geometry};
use crate::ops::leaky_relu::LeakyRelu;
use crate::plan::{Plan, PlanOptions, Program, Target};
use crate::rng::{Rng, Stream};
use crate::runtime::choices::{Choice, Choices, OWN};
use crate::runtime::cuda::resolve::macs_with_choice;
use crate::runtime::{Cuda, CudaTarget, Device};
use crate::train::programs::{BatchShape, Phase, Programs};
use crate::types::{DType, Precision, Shape};

const X: Shape = Shape([2, 5, 6, 4]);
const W: Shape = Shape([4, 3, 3, 4]);
const BIAS: Shape = Shape([1, 1, 1, 4]);

fn random(shape: Shape, seed: u64) -> Tensor64 {
    let mut rng = Rng::new(seed, Stream::Noise, 0, 0);
    Tensor64::from_fn(shape, |_| f64::from(rng.uniform() - 0.5))
}

/// Two convolutions of one kind, each with a bias and an activation; with a residual behind the first if asked for.
fn program(residual: bool) -> Program {
    let mut tape = Tape::new();
    let [x, w] = [("x", X), ("w", W)].map(|(name, shape)| tape.input(name, shape, DType::F32));
    let bias = tape.input("bias", BIAS, DType::F32);
    let aside = tape.push(LeakyRelu { slope: 0.3 }, &[x]).unwrap();
    let mut y = tape.push(LeakyRelu { slope: 0.5 }, &[x]).unwrap();
    for i in 0..2 {
        let conv = tape.push(Conv2d(Geometry::same(3)), &[y, w]).unwrap();
        let biased = tape.push(Add::SUM, &[conv, bias]).unwrap();
        let next = tape.push(LeakyRelu { slope: 0.2 }, &[biased]).unwrap();
        y = if residual && i == 0 { tape.push(Add::SUM, &[next, aside]).unwrap() } else { next };
    }
    Program { name: "case", tape, outputs: vec![("y".into(), y)], checks: vec![], commits: vec![] }
}

fn device(cache: &Path, libraries: Libraries) -> Cuda {
    let options = HostOptions { libraries, os_threads: 1, ..HostOptions::default() };
    Cuda::new(Box::new(HostDriver::new(cache, options).unwrap()))
}

/// The same device, and the warnings that it gives.
fn telling(device: Cuda) -> (Cuda, Rc<RefCell<Vec<String>>>) {
    let told = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&told);
    (device.with_warnings(Some(Box::new(move |text: &str| heard.borrow_mut().push(text.to_owned())))), told)
}

fn run(device: &mut Cuda, program: &Program) -> Vec<f32> {
    run_in(Precision::F32, device, program)
}

fn run_in(precision: Precision, device: &mut Cuda, program: &Program) -> Vec<f32> {
    let options = PlanOptions { precision, ..PlanOptions::new(&CudaTarget) };
    let id = device.load(Plan::compile(program, options).unwrap()).unwrap();
    for (name, shape, seed) in [("x", X, 1), ("w", W, 2), ("bias", BIAS, 3)] {
        let values: Vec<f32> = random(shape, seed).data.iter().map(|v| *v as f32).collect();
        device.upload(id, name, bytemuck::cast_slice(&values)).unwrap();
    }
    device.poison().unwrap();
    device.run(id).unwrap().outputs.remove(0)
}

fn reference(program: &Program) -> Vec<f64> {
    let given = [("x", X, 1), ("w", W, 2), ("bias", BIAS, 3)].map(|(n, s, seed)| (n.to_owned(), random(s, seed)));
    let values = program.tape.evaluate_f64(&given.into_iter().collect()).unwrap();
    program.tape.value_of(&values, program.outputs[0].1).data.clone()
}

fn assert_right(got: &[f32], program: &Program) {
    let want = reference(program);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= 1e-5, "{got} instead of {want}");
    }
}

/// What was chosen for the only kind of step that has a choice.
fn choice(device: &Cuda) -> Choice {
    let steps = &device.choices().unwrap().steps;
    assert_eq!(steps.len(), 1, "{steps:?}");
    steps.values().next().unwrap().clone()
}

fn names(choice: &Choice) -> Vec<&str> {
    choice.times.iter().map(|(name, _)| &**name).collect()
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn the_fastest_way_is_taken_and_one_that_fails_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let mut faster = device(dir.path(), Libraries::Faster);
    let by_library = run(&mut faster, &program);
    assert_right(&by_library, &program);
    assert_eq!(choice(&faster).algorithm, "host:plain");
    assert_eq!(names(&choice(&faster)), ["host:plain", OWN, "host:slow"]);

    let mut slower = device(dir.path(), Libraries::Slower);
    let by_kernels = run(&mut slower, &program);
    assert_right(&by_kernels, &program);
    assert_eq!(choice(&slower).algorithm, OWN);
    assert_eq!(names(&choice(&slower)), [OWN, "host:plain", "host:slow"]);

    // Without libraries there is no choice, and nothing to remember.
    let mut none = device(dir.path(), Libraries::None);
    assert_eq!(run(&mut none, &program), by_kernels);
    assert!(none.choices().is_none());
}

/// The library's result would overwrite the residual that the step still adds: it goes aside first.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn memory_that_is_still_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(true);
    let plan = Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap();
    let in_place = |step: &&crate::plan::Step| step.reads().iter().any(|read| step.writes().contains(read));
    assert!(plan.steps.iter().filter(|s| s.label().starts_with("conv2d")).any(|s| in_place(&s)), "no step in place");
    let mut faster = device(dir.path(), Libraries::Faster);
    assert_right(&run(&mut faster, &program), &program);
    let chosen = faster.choices().unwrap().algorithms();
    assert_eq!(chosen.values().collect::<Vec<_>>(), ["host:plain"; 2], "{chosen:?}");
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn a_choice_is_kept_for_later_runs_and_made_again_where_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("algorithms.json");
    let program = program(false);
    run(&mut device(dir.path(), Libraries::Faster), &program);
    let text = std::fs::read_to_string(&file).unwrap();
    let kept = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut again = device(dir.path(), Libraries::Faster);
        assert_right(&run(&mut again, &program), &program);
        choice(&again).algorithm
    };
    // What the file says is done, though it is not the fastest.
    let first = "\"algorithm\": \"host:plain\"";
    assert!(text.contains(first), "{text}");
    assert_eq!(kept(&text.replace(first, "\"algorithm\": \"host:slow\"")), "host:slow");
    assert_eq!(kept(&text.replace(first, "\"algorithm\": \"own\"")), OWN);
    // Damaged, of a library that is gone, of another device.
    assert_eq!(kept(&text[..text.len() / 2]), "host:plain");
    assert_eq!(kept(&text.replace(first, "\"algorithm\": \"host:gone\"")), "host:plain");
    let slow = text.replace(first, "\"algorithm\": \"host:slow\"");
    assert_eq!(kept(&slow.replace("libraries Faster", "libraries of another kind")), "host:plain");
}

/// Also steps that compute in place, which would find another operand at every run.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn wrong_candidates_lose_however_fast_they_are() {
    // In bf16 the first convolution's operands are of two types, which no library multiplies.
    for (precision, count) in [(Precision::F32, 2), (Precision::Bf16, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let program = program(true);
        let told = Rc::new(RefCell::new(Vec::new()));
        let faulty = || {
            let told = Rc::clone(&told);
            device(dir.path(), Libraries::Faulty)
                .with_warnings(Some(Box::new(move |text: &str| told.borrow_mut().push(text.to_owned()))))
        };
        let mut first = faulty();
        let result = run_in(precision, &mut first, &program);
        let steps = first.choices().unwrap().steps.clone();
        assert_eq!(steps.len(), count, "{steps:?}");
        for (signature, choice) in &steps {
            assert_eq!((&*choice.algorithm, &names(choice)[..]), ("host:plain", &["host:plain", OWN][..]));
            let rejected: Vec<_> = choice.rejected.iter().map(|(name, _)| &**name).collect();
            assert_eq!(rejected, ["host:scaled", "host:hole", "host:nan"]);
            assert!(choice.rejected[0].1.is_some_and(|d| (d - 0.03).abs() < 0.01), "{choice:?}");
            assert_eq!(choice.rejected[2].1, None);
            let of_step = told.borrow().iter().filter(|text| text.contains(&format!("({signature})"))).count();
            assert_eq!(of_step, 3, "{told:?}");
        }
        let scaled = told.borrow().iter().filter(|t| t.starts_with("host:scaled is not used for")).count();
        assert_eq!((scaled, told.borrow().len()), (count, 3 * count), "{told:?}");

        // It is known from then on, and told once.
        let mut again = faulty();
        assert_eq!(run_in(precision, &mut again, &program), result);
        assert_eq!((again.choices().unwrap().steps.clone(), told.borrow().len()), (steps, 3 * count));
        if precision == Precision::F32 {
            assert_right(&result, &program);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn a_candidate_whose_bits_differ_from_call_to_call_is_out() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let (mut device, told) = telling(device(dir.path(), Libraries::Unsteady));
    assert_right(&run(&mut device, &program), &program);
    let choice = choice(&device);
    assert_eq!(choice.rejected, [("host:unsteady".to_owned(), None)]);
    assert!(!names(&choice).contains(&"host:unsteady"), "{choice:?}");
    assert!(told.borrow()[0].contains("its bits differ from call to call"), "{told:?}");
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn what_comes_after_the_time_for_comparing_takes_own_kernels_in_this_run() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let hurried = device(dir.path(), Libraries::Faster).with_tuning_time(Duration::ZERO);
    let (mut hurried, told) = telling(hurried);
    assert_right(&run(&mut hurried, &program), &program);
    assert_eq!((choice(&hurried).algorithm.as_str(), choice(&hurried).times.len()), (OWN, 0));
    assert!(told.borrow()[0].contains("one kind of steps takes") && told.borrow().len() == 1, "{told:?}");
    let of_run = hurried.choices().unwrap().clone();

    // Nothing of it is kept for others; the run that continues keeps it.
    let mut other = device(dir.path(), Libraries::Faster);
    run(&mut other, &program);
    assert_eq!(choice(&other).algorithm, "host:plain");
    let mut continued = device(dir.path(), Libraries::Faster);
    continued.reuse(of_run);
    run(&mut continued, &program);
    assert_eq!(choice(&continued).algorithm, OWN);
}

/// The run that meets it ends; the next one does not meet it.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn a_candidate_that_loses_the_device_is_tried_once() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let plan = || Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap();
    let error = device(dir.path(), Libraries::Fatal).load(plan()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::DeviceLost { .. }), "{text}");
    assert!(text.contains("an illegal access, when host:fatal was tried for "), "{text}");
    assert!(text.contains("; it is not tried again: start the run again\n"), "{text}");

    let mut second = device(dir.path(), Libraries::Fatal);
    assert_right(&run(&mut second, &program), &program);
    let choice = choice(&second);
    assert_eq!((&*choice.algorithm, &choice.rejected[..]), (OWN, &[("host:fatal".to_owned(), None)][..]));

    // Where nothing can be kept, nothing is promised.
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("algorithms.json")).unwrap();
    let text = device(other.path(), Libraries::Fatal).load(plan()).unwrap_err().to_string();
    assert!(text.contains("host:fatal") && !text.contains("not tried again"), "{text}");
}

/// Weights are read where they are, and stay as they are.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn states_are_not_touched_by_the_check() {
    let mut tape = Tape::new();
    let x = tape.input("x", X, DType::F32);
    let w = tape.state("w", W);
    let y = tape.push(Conv2d(Geometry::same(3)), &[x, w]).unwrap();
    let program = Program { name: "case", tape, outputs: vec![("y".into(), y)], checks: vec![], commits: vec![] };
    let dir = tempfile::tempdir().unwrap();
    let mut faulty = device(dir.path(), Libraries::Faulty);
    let weights: Vec<f32> = random(W, 5).data.iter().map(|v| *v as f32).collect();
    faulty.set_state("w", W, &weights).unwrap();
    run(&mut faulty, &program);
    assert_eq!(choice(&faulty).rejected.len(), 3);
    assert_eq!(faulty.state("w").unwrap(), weights);
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn a_folder_that_cannot_be_written_costs_time_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("algorithms.json")).unwrap();
    let program = program(false);
    for _ in 0..2 {
        let mut faster = device(dir.path(), Libraries::Faster);
        assert_right(&run(&mut faster, &program), &program);
        assert_eq!(choice(&faster).algorithm, "host:plain");
    }
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn choices_of_an_earlier_run_go_before_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let mut first = device(dir.path(), Libraries::Faster);
    let bits = run(&mut first, &program);
    let mut of_run: Choices = first.choices().unwrap().clone();
    assert_eq!(choice(&first).algorithm, "host:plain");
    of_run.steps.values_mut().for_each(|choice| choice.algorithm = OWN.into());

    let mut continued = device(dir.path(), Libraries::Faster);
    continued.reuse(of_run.clone());
    assert_right(&run(&mut continued, &program), &program);
    assert_eq!(choice(&continued).algorithm, OWN);

    // Those of another device mean nothing here.
    of_run.timed_on = "another GPU".into();
    let mut other = device(dir.path(), Libraries::Faster);
    other.reuse(of_run);
    assert_eq!(run(&mut other, &program), bits);
    assert_eq!(choice(&other).algorithm, "host:plain");
}

/// A plan that is resolved again, because the arena has grown, keeps its ways; steps of one kind share a choice.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn a_choice_holds_while_the_device_lives() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(false);
    let mut faster = device(dir.path(), Libraries::Faster);
    let bits = run(&mut faster, &program);
    std::fs::remove_file(dir.path().join("algorithms.json")).unwrap();
    assert_eq!(run(&mut faster, &program), bits);
    assert!(!dir.path().join("algorithms.json").exists(), "nothing was timed again");
}

/// Libraries and Hopper's kernels multiply factors of one type, so in bf16 programs a few products of f32 maps are left.
#[test]
fn nearly_all_products_of_real_networks_have_a_choice() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for (name, least_for_hopper) in [("10m", 0.99), ("20m", 0.8), ("rrdb", 0.93), ("srresnet", 0.84), ("lka", 0.8)] {
        let cfg = Config::load(&folder.join(format!("{name}.yaml")), &[]).unwrap().0;
        let shape = BatchShape { batch: 2, hr: (64, 64), hr_type: DType::F32, lr_type: None };
        for (precision, least, least_for_hopper) in
            [(Precision::F32, 1.0, 0.0), (Precision::Bf16, 0.85, least_for_hopper)]
        {
            let programs = Programs::new(cfg.clone()).unwrap().aligned_to(CudaTarget.channel_alignment(precision));
            for phase in [Phase::Pretrain, Phase::Adversarial] {
                let program = programs.step(phase, shape).unwrap().program;
                let options = PlanOptions { precision, ..PlanOptions::new(&CudaTarget) };
                let [all, library, hopper] = macs_with_choice(&Plan::compile(&program, options).unwrap()).unwrap();
                let share = |part: u64| part as f64 / all as f64;
                let what = format!("{name} {} {precision}: {}, {}", program.name, share(library), share(hopper));
                assert!(share(library) >= least && share(hopper) >= least_for_hopper, "{what}");
                assert!(precision == Precision::Bf16 || hopper == 0, "{what}");
            }
        }
    }
}
