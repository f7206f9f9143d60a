//! The table of what a run measures: one row is one metric, and its name stands nowhere else.
//!
//! Training programs report [`Source::Program`] metrics, validation [`Source::Validation`] metrics; those of
//! [`Source::Schedule`] follow from the config and the step's number. The order of the rows is that of the columns of
//! `metrics.csv`. Names are those of opensr-srgan; the gradient norms are ours.

/// Where a metric comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A training program, once a step.
    Program,
    /// The config and the number of the step, once a step.
    Schedule,
    /// A validation: the mean over its images.
    Validation,
}

/// When a metric is measured. A run has a column for it if that can happen; in other steps it is logged as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// In the adversarial phase.
    Adversarial,
    /// In the adversarial phase of a run with the relativistic loss; other runs have no column.
    Relativistic,
    /// In runs with averaged weights; other runs have no column.
    Averaged,
}

/// Which direction of a metric is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Lower is better.
    Lower,
    /// Higher is better.
    Higher,
}

impl Direction {
    /// Whether `a` is strictly better than `b`; an unordered pair never is.
    pub fn better(self, a: f64, b: f64) -> bool {
        match self {
            Direction::Lower => a < b,
            Direction::Higher => a > b,
        }
    }
}

struct Row {
    name: &'static str,
    unit: &'static str,
    source: Source,
    when: When,
    direction: Option<Direction>,
}

/// `Id = "name" "unit", source, when, direction;` for each metric. One without a direction is for information:
/// schedules cannot watch it.
macro_rules! table {
    ($( $(#[$doc:meta])* $id:ident = $name:literal $unit:literal, $source:ident, $when:ident $(, $direction:ident)?; )*) => {
        /// A metric of a run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Metric { $( $(#[$doc])* $id, )* }

        impl Metric {
            /// All metrics, in the order of their columns.
            pub const ALL: &[Metric] = &[$( Metric::$id, )*];

            const ROWS: &[Row] = &[$( Row {
                name: $name,
                unit: $unit,
                source: Source::$source,
                when: When::$when,
                direction: [$( Some(Direction::$direction), )? None][0],
            }, )*];
        }
    };
}

table! {
    /// Mean absolute error of SR.
    TrainL1 = "train_metrics/l1" "", Program, Always, Lower;
    /// Mean spectral angle.
    TrainSam = "train_metrics/sam" "rad", Program, Always, Lower;
    /// Mean perceptual distance; 0 without the term.
    TrainPerceptual = "train_metrics/perceptual" "", Program, Always, Lower;
    /// Total variation of SR.
    TrainTv = "train_metrics/tv" "", Program, Always, Lower;
    /// Peak signal-to-noise ratio over the batch.
    TrainPsnr = "train_metrics/psnr" "dB", Program, Always, Higher;
    /// Mean structural similarity.
    TrainSsim = "train_metrics/ssim" "", Program, Always, Higher;
    /// The generator's content loss.
    Content = "generator/content_loss" "", Program, Always, Lower;
    /// The generator's adversarial loss, unweighted.
    GeneratorAdversarial = "generator/adversarial_loss" "", Program, Adversarial, Lower;
    /// What the generator minimises.
    GeneratorTotal = "generator/total_loss" "", Program, Always, Lower;
    /// Gradient norm of the generator before clipping.
    GeneratorGradNorm = "generator/grad_norm" "", Program, Always;
    /// The discriminator's loss with the R1 penalty.
    DiscriminatorLoss = "discriminator/adversarial_loss" "", Program, Adversarial, Lower;
    /// The R1 penalty; 0 without it.
    R1Penalty = "discriminator/r1_penalty" "", Program, Adversarial, Lower;
    /// Mean sigmoid of D(HR).
    RealProbability = "discriminator/D(y)_prob" "", Program, Adversarial;
    /// Mean sigmoid of D(SR).
    FakeProbability = "discriminator/D(G(x))_prob" "", Program, Adversarial;
    /// Gradient norm of the discriminator before clipping.
    DiscriminatorGradNorm = "discriminator/grad_norm" "", Program, Adversarial;
    /// Mean sigmoid of D(HR) − mean D(SR).
    RealRelativistic = "train_metrics/discriminator/D(y)_prob_relativistic" "", Program, Relativistic;
    /// Mean sigmoid of D(SR) − mean D(HR).
    FakeRelativistic = "train_metrics/discriminator/D(G(x))_prob_relativistic" "", Program, Relativistic;
    /// 1 in pretraining, else 0.
    PretrainPhase = "training/pretrain_phase" "", Schedule, Always;
    /// Weight of the adversarial loss.
    AdversarialWeight = "training/adv_loss_weight" "", Schedule, Always;
    /// The generator's learning rate.
    GeneratorRate = "lr_generator" "", Schedule, Always;
    /// The discriminator's learning rate.
    DiscriminatorRate = "lr_discriminator" "", Schedule, Always;
    /// 1 if weights are averaged.
    EmaEnabled = "EMA/enabled" "", Schedule, Always;
    /// The largest decay of the average.
    EmaDecay = "EMA/decay" "", Schedule, Averaged;
    /// The step before which the average is not updated.
    EmaUpdateAfter = "EMA/update_after_step" "steps", Schedule, Averaged;
    /// 1 if the decay grows with the number of updates.
    EmaUsesUpdates = "EMA/use_num_updates" "", Schedule, Averaged;
    /// 1 if the step updates the average.
    EmaActive = "EMA/is_active" "", Schedule, Averaged;
    /// Steps until the average is updated.
    EmaStepsUntilActive = "EMA/steps_until_activation" "steps", Schedule, Averaged;
    /// Decay of the step's update of the average; 0 without one.
    EmaLastDecay = "EMA/last_decay" "", Program, Averaged;
    /// Updates of the average so far, the step's included. Programs report the number before it.
    EmaUpdates = "EMA/num_updates" "updates", Program, Averaged;
    /// Mean perceptual distance; 0 without the term.
    ValPerceptual = "val_metrics/perceptual" "", Validation, Always, Lower;
    /// ½[BCE(D(SR), 0) + BCE(D(HR), 1)], or mean D(SR) − mean D(HR) for Wasserstein.
    ValDiscriminator = "validation/DISC_adversarial_loss" "", Validation, Adversarial, Lower;
    /// Mean absolute error of SR.
    ValL1 = "val_metrics/l1" "", Validation, Always, Lower;
    /// Mean spectral angle.
    ValSam = "val_metrics/sam" "rad", Validation, Always, Lower;
    /// Total variation of SR.
    ValTv = "val_metrics/tv" "", Validation, Always, Lower;
    /// Mean peak signal-to-noise ratio of an image.
    ValPsnr = "val_metrics/psnr" "dB", Validation, Always, Higher;
    /// Mean structural similarity.
    ValSsim = "val_metrics/ssim" "", Validation, Always, Higher;
    /// Mean relative error over all bands, see [`ergas`].
    ValErgas = "val_metrics/ergas" "", Validation, Always, Lower;
}

/// ERGAS, the relative dimensionless global error (Wald, "Quality of high resolution synthesised images", 2000):
/// `100 / scale · √(mean over bands of MSE / mean²)`, 0 for equal images. `bands` are each band's mean squared error and
/// the mean of its reference.
///
/// A band whose reference has the mean 0 has no relative error and is left out; `None` if no other is left.
pub fn ergas(bands: impl IntoIterator<Item = (f64, f64)>, scale: usize) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (error, mean) in bands.into_iter().filter(|(_, mean)| *mean != 0.0) {
        sum += error / (mean * mean);
        count += 1.0;
    }
    (count > 0.0).then(|| 100.0 / scale as f64 * (sum / count).sqrt())
}

impl Metric {
    fn row(self) -> &'static Row {
        &Self::ROWS[self as usize]
    }

    /// The name in logs, checkpoints and configurations.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The unit of its values; empty for a plain number.
    pub fn unit(self) -> &'static str {
        self.row().unit
    }

    /// Where it comes from.
    pub fn source(self) -> Source {
        self.row().source
    }

    /// When it is measured.
    pub fn when(self) -> When {
        self.row().when
    }

    /// Which direction is an improvement; `None` if neither is.
    pub fn direction(self) -> Option<Direction> {
        self.row().direction
    }

    /// Whether it is measured in a step or validation of this phase.
    pub fn is_measured(self, adversarial: bool) -> bool {
        adversarial || matches!(self.when(), When::Always | When::Averaged)
    }

    /// The metric of this name.
    pub fn named(name: &str) -> Option<Metric> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }

    /// The metrics that schedules can watch, validation's first.
    pub fn watchable() -> impl Iterator<Item = Metric> {
        let of = |validation: bool| move |m: &Metric| (m.source() == Source::Validation) == validation;
        let all = || Self::ALL.iter().copied().filter(|metric| metric.direction().is_some());
        all().filter(of(true)).chain(all().filter(of(false)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let names: HashSet<&str> = Metric::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert!(Metric::ALL.iter().all(|m| Metric::named(m.name()) == Some(*m)));
        assert_eq!(Metric::named("val_metrics/l2"), None);
    }

    #[test]
    fn psnr_and_ssim_are_better_if_higher() {
        for metric in Metric::watchable() {
            let higher = metric.name().ends_with("/psnr") || metric.name().ends_with("/ssim");
            assert_eq!(
                metric.direction(),
                Some(if higher { Direction::Higher } else { Direction::Lower }),
                "{metric:?}"
            );
        }
        assert!(Direction::Higher.better(2.0, 1.0) && !Direction::Lower.better(f64::NAN, 1.0));
    }

    #[test]
    fn ergas_is_the_root_of_the_mean_relative_squared_error() {
        // Relative errors of 10 % and 20 %: √((0.01 + 0.04) / 2) = 0.158…
        let bands = [(0.0025, 0.5), (0.01, 0.5)];
        assert!((ergas(bands, 4).unwrap() - 25.0 * 0.025f64.sqrt()).abs() < 1e-12);
        assert_eq!(ergas([(0.0, 0.3)], 2), Some(0.0), "equal images");
        assert_eq!(ergas([(0.0025, 0.5), (0.1, 0.0)], 1), ergas([(0.0025, 0.5)], 1), "a band without a mean");
        assert_eq!(ergas([(0.1, 0.0)], 4), None);
        assert!(ergas([(f64::NAN, 0.5)], 4).unwrap().is_nan());
    }

    #[test]
    fn schedules_watch_what_has_a_direction() {
        let watched: Vec<&str> = Metric::watchable().map(Metric::name).collect();
        let of_validation = watched.iter().position(|name| !name.starts_with("val")).unwrap();
        assert!(
            of_validation > 1 && watched[of_validation..].iter().all(|name| !name.starts_with("val")),
            "{watched:?}"
        );
        assert!(watched.contains(&"discriminator/adversarial_loss") && watched.contains(&"train_metrics/sam"));
        assert!(!watched.iter().any(|name| name.contains("norm") || name.starts_with("EMA") || name.starts_with("lr")));
    }
}
