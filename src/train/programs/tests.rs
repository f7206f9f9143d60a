//! Segments of a step and their borders, as plans have them.

use super::*;
use crate::plan::{Plan, PlanOptions, PlannedSegment, Root, Target};
use crate::runtime::{CpuTarget, CudaTarget};
use crate::train::states;
use crate::types::Precision;

/// Batch norm and spectral norm in both networks' ways, a padded dense block, R1, relativistic losses, clipping.
const NETWORKS: [&str; 2] = [
    "Generator: {block_type: standard, large_kernel_size: 3, n_channels: 8, n_blocks: 1, scaling_factor: 2}\n\
     Discriminator: {model_type: standard, n_blocks: 2, use_spectral_norm: true}\n\
     Training: {EMA: {enabled: true}, Losses: {r1_gamma: 1, relativistic_average_d: true}}\n\
     Optimizers: {gradient_clip_val: 1}\n",
    "Generator: {model_type: esrgan, n_channels: 16, n_blocks: 1, growth_channels: 5, scaling_factor: 2}\n\
     Discriminator: {model_type: patchgan, n_blocks: 1}\n",
];
const SHAPE: BatchShape = BatchShape { batch: 2, hr: (32, 32), hr_type: DType::U16, lr_type: None };

const CPU: CpuTarget = CpuTarget { threads: 2 };

fn programs(networks: &str, micro_batches: usize, alignment: usize) -> Programs {
    let changes = [format!("Training.accumulate_grad_batches={micro_batches}")];
    let (cfg, _) = Config::from_yaml(&format!("Model: {{in_bands: 3}}\n{networks}"), None, &changes).unwrap();
    Programs::new(cfg).unwrap().aligned_to(alignment)
}

fn compile(recorded: &Recorded, target: &dyn Target, precision: Precision) -> Plan {
    Plan::compile(&recorded.program, PlanOptions { precision, ..PlanOptions::new(target) }).unwrap()
}

/// Asserts that what lies in the bucket was written before the border and is read behind it alone.
fn check_border(plan: &Plan, segment: &PlannedSegment) {
    let bucket = segment.bucket.unwrap();
    assert!(bucket.contiguous());
    let border = segment.steps.start;
    let touches = |locs: Vec<crate::plan::Loc>| locs.iter().any(|loc| loc.overlaps(&bucket));
    let first_read =
        plan.steps.iter().position(|step| step.label().starts_with("grad_norm") && touches(step.reads())).unwrap();
    assert!(segment.steps.contains(&first_read), "{}: the norm is that of the changed gradients", segment.name);
    let since = plan.steps[..border].iter().rposition(|step| touches(step.writes())).unwrap();
    assert!(!plan.steps[since + 1..border].iter().any(|step| touches(step.reads())), "{}", segment.name);
    assert!(!plan.steps[border..=first_read].iter().any(|step| touches(step.writes())), "{}", segment.name);
}

#[test]
fn a_step_is_one_plan_of_segments_with_a_bucket_before_each_update() {
    for (networks, target, precision) in [
        (NETWORKS[0], &CPU as &dyn Target, Precision::F32),
        (NETWORKS[0], &CudaTarget, Precision::Bf16),
        (NETWORKS[1], &CPU, Precision::F32),
        (NETWORKS[1], &CudaTarget, Precision::Bf16),
    ] {
        let programs = programs(networks, 1, target.channel_alignment(precision));
        for phase in [Phase::Pretrain, Phase::Adversarial] {
            let plan = compile(&programs.step(phase, SHAPE).unwrap(), target, precision);
            let names: Vec<&str> = plan.segments.iter().map(|s| s.name).collect();
            assert_eq!(names, phase.segments().iter().map(|s| s.name()).collect::<Vec<_>>());
            let ends: Vec<usize> = plan.segments.iter().map(|s| s.steps.end).collect();
            let starts: Vec<usize> = plan.segments.iter().skip(1).map(|s| s.steps.start).collect();
            assert_eq!((plan.segments[0].steps.start, &starts[..]), (0, &ends[..ends.len() - 1]));
            assert_eq!(ends.last(), Some(&plan.steps.len()));
            let of_network = phase.networks();
            let updates: Vec<&PlannedSegment> = plan.segments.iter().filter(|s| s.bucket.is_some()).collect();
            for (network, segment) in of_network.iter().zip(&updates) {
                assert_eq!(segment.bucket.unwrap().shape, states::bucket_shape(programs.layout(*network)));
                check_border(&plan, segment);
            }
            assert_eq!(updates.len(), of_network.len());
            // Of each network the verdict in its bucket, and the clipped norm.
            assert_eq!(plan.checks.len(), 2 * updates.len());
            let verdicts = plan.checks.iter().step_by(2).zip(&updates);
            assert!(verdicts.into_iter().all(|(check, segment)| check.overlaps(&segment.bucket.unwrap())));
        }
    }
}

#[test]
fn segments_apart_sum_buckets_in_the_state_that_the_update_reads() {
    let programs = programs(NETWORKS[0], 3, 1);
    for (gradients, update, network) in [
        (Segment::DiscriminatorGradients, Segment::DiscriminatorUpdate, Network::Discriminator),
        (Segment::GeneratorGradients, Segment::GeneratorUpdate, Network::Generator),
    ] {
        let layout = programs.layout(network);
        let state = (states::bucket_state(layout), states::bucket_shape(layout));
        let plan = |segment| {
            let recorded = programs.segment(Phase::Adversarial, segment, SHAPE).unwrap();
            (compile(&recorded, &CPU, Precision::F32), recorded)
        };
        let (_, summed) = plan(gradients);
        let sums: Vec<_> = summed.program.commits.iter().filter(|c| c.op.name() == "add_to").collect();
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[0].states, std::slice::from_ref(&state));
        let (plan, recorded) = plan(update);
        let segment = &plan.segments[0];
        let Root::State(i) = segment.bucket.unwrap().root else { panic!("a bucket in planned memory") };
        assert_eq!((&*plan.states[i].0, plan.states[i].1), (state.0.as_str(), state.1));
        assert_eq!(segment.steps, 0..plan.steps.len());
        assert_eq!(recorded.program.checks.is_empty(), update == Segment::DiscriminatorUpdate);
    }
}

#[test]
fn an_evaluation_measures_bicubic_as_it_measures_sr() {
    let lpips = "Model: {in_bands: 4}\nGenerator: {n_channels: 8, n_blocks: 1, scaling_factor: 2}\n\
                 Training: {Losses: {perceptual_weight: 1, perceptual_metric: lpips}}\n";
    let (cfg, _) = Config::from_yaml(lpips, None, &[]).unwrap();
    let programs = Programs::new(cfg).unwrap();
    let options =
        EvaluateOptions { images: true, bicubic: true, bands: true, perceptual: true, ..EvaluateOptions::default() };
    let shape = BatchShape { hr: (64, 64), ..SHAPE };
    let recorded = programs.evaluate(shape, options).unwrap();
    let plan = compile(&recorded, &CPU, Precision::F32);
    let extent = |name: &str| {
        let (_, value) = recorded.program.outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}"));
        recorded.program.tape.shape(*value)
    };
    assert_eq!(recorded.metrics.last(), Some(&Metric::ValPerceptual));
    for (name, channels) in [("metrics", recorded.metrics.len()), (BAND_SUMS, 2 * 4), (BAND_METRICS, 5 * 4)] {
        assert_eq!(extent(name).0, [2, 1, 1, channels], "{name}");
        assert_eq!(extent(&format!("{BICUBIC}{name}")), extent(name), "{name}");
    }
    assert_eq!((extent("lr").h(), extent("bicubic"), extent("sr")), (32, extent("hr"), extent("hr")));
    // Both are seen in the same bands.
    assert!(plan.has_input(crate::train::perceptual::BANDS_SLOT));
    let slots = recorded.program.tape.nodes().iter().filter(|node| &*node.path == crate::train::perceptual::BANDS_SLOT);
    assert_eq!(slots.count(), 1);
}
