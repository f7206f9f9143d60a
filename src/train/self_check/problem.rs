//! The training that devices are compared by: two steps of two small networks, and how far what is computed may differ.

use std::collections::HashMap;
use std::fmt;

use crate::config::Config;
use crate::rng::{Rng, Stream};
use crate::runtime::choices::is_of_library;
use crate::runtime::{Choice, Choices, Device};
use crate::train::programs::{BatchShape, Phase};
use crate::train::scalars;
use crate::train::session::{Key, Session};
use crate::types::DType;
use crate::{Result, config};

/// Channels in multiples of 16, so that tensor cores take part; every kind of state that a network has.
const PROBLEM: &str = "\
Model: {in_bands: 4}
Data: {dataset_type: LRHRFolderDataset, root_dir: none, normalization: sen2_stretch, train_batch_size: 2, hr_size: 32}
Generator: {model_type: SRResNet, block_type: rcab, n_channels: 16, n_blocks: 2, scaling_factor: 2, \
            large_kernel_size: 9, small_kernel_size: 3}
Discriminator: {model_type: standard, n_blocks: 3, use_spectral_norm: true}
Training: {seed: 1, EMA: {enabled: true, decay: 0.9}, \
           Losses: {l1_weight: 1.0, sam_weight: 0.05, perceptual_weight: 0.0, adv_loss_beta: 0.01}}
Optimizers: {optim_g_lr: 1.0e-4, optim_d_lr: 1.0e-4, betas: [0.0, 0.99], gradient_clip_val: 1.0}
";
const BATCH: usize = 2;
const BANDS: usize = 4;
const HR: usize = 32;
const LR: usize = 16;

/// Numbers that are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A loss or another metric.
    Metric,
    /// A tensor of a first moment, which is the gradient: its decay is 0.
    Gradient,
    /// A tensor of a second moment: sums of squared gradients.
    Squares,
    /// A running statistic or a power iteration.
    Statistic,
    /// What a network's weights have moved by.
    Update,
}

/// Numbers after a step.
#[derive(Clone, Debug)]
struct Quantity {
    step: &'static str,
    kind: Kind,
    /// What it is one of: quantities of a group are of one size.
    group: String,
    name: String,
    values: Vec<f32>,
}

/// Quantities of a step that are of one size.
type Group<'q> = (&'static str, Kind, &'q str);

impl Quantity {
    fn key(&self) -> Group<'_> {
        (self.step, self.kind, &self.group)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Metric => "the metric",
            Kind::Gradient => "the gradient",
            Kind::Squares => "the second moment",
            Kind::Statistic => "the statistic",
            Kind::Update => "the update of",
        };
        write!(f, "{what} {} of the {} step", self.name, self.step)
    }
}

/// What a device computed.
#[derive(Clone, Debug)]
pub struct Trace {
    quantities: Vec<Quantity>,
    /// Own kernels whose results were wrong when they were timed.
    rejected: Vec<String>,
}

/// Trains on a device: one step of the generator alone, one adversarial step.
///
/// # Errors
/// Fails if the device fails.
pub fn trace(device: Box<dyn Device>, precision: config::Precision) -> Result<Trace> {
    let (mut cfg, _) = Config::from_yaml(PROBLEM, None, &[])?;
    cfg.training.precision = precision;
    let mut session = Session::new(cfg, device)?;
    let cfg = session.config().clone();
    let shape = BatchShape { batch: BATCH, hr: (HR, HR), hr_type: DType::F32, lr_type: Some(DType::F32) };
    let mut numbers = [0.0; scalars::COUNT];
    numbers[scalars::LR_G] = cfg.optimizers.optim_g_lr as f32;
    numbers[scalars::LR_D] = cfg.optimizers.optim_d_lr as f32;
    numbers[scalars::ADV_WEIGHT] = cfg.training.losses.adv_loss_beta as f32;
    numbers[scalars::EMA_ON] = 1.0;
    let mut quantities = Vec::new();
    for key in [Phase::Pretrain, Phase::Adversarial].map(|phase| Key::Step(phase, shape)) {
        let before = session.tensors()?;
        let plan = session.plan(key)?;
        for (slot, side, sample) in [("hr", HR, 0), ("lr", LR, 1)] {
            let mut rng = Rng::new(1, Stream::Noise, 0, sample);
            let pixels: Vec<f32> = (0..BATCH * side * side * BANDS).map(|_| rng.uniform()).collect();
            session.upload(plan, slot, bytemuck::cast_slice(&pixels))?;
        }
        session.upload(plan, "codes", &[0; BATCH])?;
        let outcome = session.run(plan, numbers)?;
        let step = session.device().plan(plan).name;
        let quantity = |kind, group: &str, name: &str, values| {
            let (group, name) = (group.to_owned(), name.to_owned());
            Quantity { step, kind, group, name, values }
        };
        let measured = session.metrics(plan).iter().zip(outcome.outputs.iter().flatten());
        quantities.extend(measured.map(|(metric, v)| quantity(Kind::Metric, metric.name(), metric.name(), vec![*v])));
        let mut moved: Vec<Quantity> = Vec::new();
        for (tensor, before) in session.tensors()?.iter().zip(&before) {
            let (group, rest) = group_of(&tensor.name);
            match kind_of(group, rest) {
                Kind::Update => {
                    let update = tensor.data.iter().zip(&before.data).map(|(now, before)| now - before);
                    match moved.iter_mut().find(|quantity| quantity.group == group) {
                        Some(quantity) => quantity.values.extend(update),
                        None => moved.push(quantity(Kind::Update, group, group, update.collect())),
                    }
                }
                kind => quantities.push(quantity(kind, group, &tensor.name, tensor.data.clone())),
            }
        }
        quantities.extend(moved);
    }
    let rejected = session.device().choices().map_or(Vec::new(), rejected_kernels);
    Ok(Trace { quantities, rejected })
}

/// Own kernels among the candidates that computed something else.
fn rejected_kernels(choices: &Choices) -> Vec<String> {
    let of_step = |choice: &Choice| choice.rejected.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let mut names: Vec<String> = choices.steps.values().flat_map(of_step).filter(|n| !is_of_library(n)).collect();
    names.sort();
    names.dedup();
    names
}

/// `optim_g.exp_avg` and `body.0.conv1.weight`, `discriminator` and `fc1.weight`.
fn group_of(name: &str) -> (&str, &str) {
    let parts = if name.starts_with("optim_") { 2 } else { 1 };
    let at = name.match_indices('.').nth(parts - 1).map_or(name.len(), |(at, _)| at);
    (&name[..at], name[at..].trim_start_matches('.'))
}

fn kind_of(group: &str, rest: &str) -> Kind {
    let last = rest.rsplit('.').next().unwrap_or_default();
    match group {
        _ if group.ends_with("exp_avg") => Kind::Gradient,
        _ if group.ends_with("exp_avg_sq") => Kind::Squares,
        _ if last.starts_with("running_") || last == "num_batches_tracked" => Kind::Statistic,
        _ if last == "weight_u" || last == "weight_v" => Kind::Statistic,
        _ => Kind::Update,
    }
}

/// The relative distance that rounding explains.
///
/// In f32 a chain of some ten layers is computed to 1e-5 by every order of sums and by Winograd's method. An activation
/// whose input is that close to 0 passes its gradient on another slope; one of the hundred thousand of a layer moves
/// the gradient behind it by 1/√100 000 = 3e-3 at most.
///
/// In tf32 factors are rounded by 2e-4 in the mean, an eighth of bf16's, and so many fewer masks differ: bounds lie
/// between, by the square root where masks decide.
///
/// In bf16 a value is rounded at every layer, by 1.5e-3 in the mean, and the gradient's mask of one in a few hundred
/// activations differs: √(1/300) = 6 % for a layer, which adds up over the layers behind it in squares.
///
/// A first step of Adam moves each weight by its rate in the direction of its gradient, whatever the size: where
/// rounding is larger than the gradient the direction is arbitrary. With a share s of such weights updates are 2√s
/// apart; updates that have nothing to do with each other √2.
fn bound(kind: Kind, precision: config::Precision) -> f64 {
    let [in_f32, in_tf32, in_bf16] = match kind {
        Kind::Metric | Kind::Statistic => [1e-3, 5e-3, 3e-2],
        Kind::Gradient => [5e-3, 0.1, 0.3],
        Kind::Squares => [1e-2, 0.2, 0.5],
        Kind::Update => [5e-2, 0.3, 0.6],
    };
    match precision {
        config::Precision::F32 => in_f32,
        config::Precision::Tf32 => in_tf32,
        config::Precision::Bf16 | config::Precision::Auto => in_bf16,
    }
}

/// A norm below this share of what is usual in the group counts as that: biases before a normalisation have gradients
/// that are nothing but rounding, in bf16 a twentieth of what is usual.
const LEAST_SHARE: f64 = 0.6;
/// The same for metrics, of which some are differences of others.
const LEAST_METRIC: f64 = 0.1;

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

impl Trace {
    /// What speaks against a device: a difference, or candidates of its own that were wrong.
    pub fn fault(&self, reference: &Trace, precision: config::Precision) -> Option<String> {
        self.difference(reference, precision).or_else(|| {
            let rejected = Some(self.rejected.join(", ")).filter(|names| !names.is_empty())?;
            Some(format!("wrong results of kernels: {rejected}"))
        })
    }

    /// What differs from a reference by more than rounding explains in `precision`; the worst of it.
    fn difference(&self, reference: &Trace, precision: config::Precision) -> Option<String> {
        let names = |trace: &Trace| trace.quantities.iter().map(Quantity::to_string).collect::<Vec<_>>();
        if names(self) != names(reference) {
            return Some("the steps report other quantities".to_owned());
        }
        let (least, mut worst) = (reference.least(), None::<(f64, String)>);
        for (got, want) in self.quantities.iter().zip(&reference.quantities) {
            let (distance, bound) = (distance(got, want, least[&want.key()]), bound(want.kind, precision));
            let excess = if distance.is_nan() { f64::INFINITY } else { distance / bound };
            if excess > 1.0 && worst.as_ref().is_none_or(|(most, _)| excess > *most) {
                let text = format!("{want} is {distance:.2e} away (relative), of which rounding explains {bound:.0e}");
                worst = Some((excess, text));
            }
        }
        worst.map(|(_, text)| text)
    }

    /// The least root mean square that a quantity's distance is measured by: of each group.
    fn least(&self) -> HashMap<Group<'_>, f64> {
        let mut sums: HashMap<Group, (f64, usize)> = HashMap::new();
        for quantity in &self.quantities {
            let (squares, count) = sums.entry(quantity.key()).or_default();
            *squares += norm(quantity.values.iter().map(|v| f64::from(*v))).powi(2);
            *count += quantity.values.len();
        }
        let least = |(key, (squares, count)): (Group<'_>, (f64, usize))| match key.1 {
            Kind::Metric => LEAST_METRIC,
            _ => LEAST_SHARE * (squares / count.max(1) as f64).sqrt(),
        };
        sums.into_iter().map(|sum| (sum.0, least(sum))).collect()
    }
}

/// The L2 distance of two quantities relative to the reference, whose root mean square counts as `least` at least.
fn distance(got: &Quantity, want: &Quantity, least: f64) -> f64 {
    let apart = norm(got.values.iter().zip(&want.values).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    if apart == 0.0 {
        return 0.0;
    }
    let size = norm(want.values.iter().map(|v| f64::from(*v)));
    apart / size.max(least * (want.values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::device::cuda::host::{HostDriver, HostOptions};
    use crate::runtime::{Cpu, Cuda};

    fn on_cpu() -> Trace {
        trace(Box::new(Cpu::new(2).unwrap()), Precision::F32).unwrap()
    }

    fn on_host(precision: Precision, warpgroups: bool) -> Trace {
        let cache = std::env::temp_dir().join("srgan_host_kernels");
        let driver = HostDriver::new(&cache, HostOptions { warpgroups, ..HostOptions::default() }).unwrap();
        trace(Box::new(Cuda::new(Box::new(driver))), precision).unwrap()
    }

    /// The kernels of the CUDA device train as the CPU does, with room for other orders of sums.
    #[test]
    #[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
    fn the_kernels_pass() {
        let cpu = on_cpu();
        let all = [Precision::F32, Precision::Tf32, Precision::Bf16].map(|precision| (precision, false));
        for (precision, warpgroups) in all.into_iter().chain([(Precision::Bf16, true)]) {
            let host = on_host(precision, warpgroups);
            let mut worst: Vec<(f64, String)> = Vec::new();
            let least = cpu.least();
            for (got, want) in host.quantities.iter().zip(&cpu.quantities) {
                let share = distance(got, want, least[&want.key()]) / bound(want.kind, precision);
                worst.push((share, format!("{want}: {share:.3}")));
            }
            worst.sort_by(|a, b| b.0.total_cmp(&a.0));
            worst.truncate(12);
            println!("{precision:?} {worst:#?}");
            assert_eq!(host.difference(&cpu, precision), None);
            assert!(host.rejected.is_empty());
        }
    }

    /// Whatever is wrong is named; nothing of a trace is left out.
    #[test]
    #[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
    fn every_quantity_counts() {
        let cpu = on_cpu();
        assert_eq!(cpu.difference(&cpu, Precision::F32), None);
        for step in ["pretrain", "adversarial"] {
            let of = |kind| cpu.quantities.iter().filter(|q| q.step == step && q.kind == kind).count();
            assert!(of(Kind::Metric) >= 7 && of(Kind::Gradient) > 20 && of(Kind::Squares) > 20, "{step}");
            assert_eq!((of(Kind::Statistic) > 4, of(Kind::Update)), (true, 3), "{step}");
        }
        let (least, mut wrong) = (cpu.least(), cpu.clone());
        for (i, quantity) in cpu.quantities.iter().enumerate() {
            let size = norm(quantity.values.iter().map(|v| f64::from(*v))) / (quantity.values.len() as f64).sqrt();
            // What is next to nothing, as gradients before a normalisation, is measured by what is usual.
            let by = (4.0 * size.max(least[&quantity.key()]).max(1e-3)) as f32;
            wrong.quantities[i].values.iter_mut().for_each(|v| *v += by);
            for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
                let found = wrong.difference(&cpu, precision).unwrap_or_else(|| panic!("{quantity} is not compared"));
                assert!(found.starts_with(&format!("{quantity} is ")), "{found}");
            }
            wrong.quantities[i] = quantity.clone();
        }
        let mut nan = cpu.clone();
        nan.quantities[0].values[0] = f32::NAN;
        assert!(nan.difference(&cpu, Precision::Bf16).is_some_and(|text| text.contains("NaN")));
    }

    #[test]
    fn a_tensor_belongs_to_its_network_or_optimiser() {
        assert_eq!(group_of("optim_g.exp_avg.body.0.weight"), ("optim_g.exp_avg", "body.0.weight"));
        assert_eq!(group_of("discriminator.fc1.weight"), ("discriminator", "fc1.weight"));
    }
}
