//! Schedules: pure functions of the step, and state that moves at validations. Steps are training batches,
//! counted from 0, the same in every phase.

use std::f64::consts::PI;

use crate::checkpoint::{EarlyStopping, PlateauState};
use crate::config::{Ramp, Schedulers, Training, Warmup};
use crate::metrics::{Direction, Metric};
use crate::nn::Network;
use crate::train::programs::Phase;

/// Steps of generator-only pretraining; `None` never leaves it.
fn pretraining_steps(training: &Training) -> Option<u64> {
    if training.pretrain_g_only { u64::try_from(training.g_pretrain_steps).ok() } else { Some(0) }
}

/// What step `step` trains.
pub fn phase(training: &Training, step: u64) -> Phase {
    match pretraining_steps(training) {
        Some(steps) if step >= steps => Phase::Adversarial,
        _ => Phase::Pretrain,
    }
}

/// The phases that a run without end has, in order.
pub fn phases(training: &Training) -> Vec<Phase> {
    match pretraining_steps(training) {
        None => vec![Phase::Pretrain],
        Some(0) => vec![Phase::Adversarial],
        Some(_) => vec![Phase::Pretrain, Phase::Adversarial],
    }
}

/// Weight of the adversarial loss: 0 in pretraining, then a ramp to `adv_loss_beta` over `adv_loss_ramp_steps`.
pub fn adversarial_weight(training: &Training, step: u64) -> f64 {
    let Some(start) = pretraining_steps(training).filter(|steps| step >= *steps) else { return 0.0 };
    let (beta, ramp) = (training.losses.adv_loss_beta, training.adv_loss_ramp_steps);
    if step - start >= ramp {
        return beta;
    }
    let p = (step - start) as f64 / ramp as f64;
    beta * match training.losses.adv_loss_schedule {
        Ramp::Linear => p,
        Ramp::Cosine => 0.5 * (1.0 - (PI * p).cos()),
    }
}

/// Factor on the generator's learning rate during warm-up, never under 0.05; then 1.
pub fn warmup_factor(schedulers: &Schedulers, step: u64) -> f64 {
    if step >= schedulers.g_warmup_steps {
        return 1.0;
    }
    let t = (step + 1) as f64 / schedulers.g_warmup_steps as f64;
    match schedulers.g_warmup_type {
        Warmup::Linear => t.max(0.05),
        Warmup::Cosine => (0.5 * (1.0 - (PI * t).cos())).max(0.05),
        Warmup::None => 1.0,
    }
}

/// One validation of a plateau scheduler (PyTorch's `ReduceLROnPlateau`, mode min, relative threshold; PSNR and
/// SSIM, where higher is better, count with their sign turned). A metric that is not finite is never an
/// improvement. `base` is the network's base learning rate; the rate does not fall below `min_lr`.
pub fn plateau_step(state: &mut PlateauState, schedulers: &Schedulers, network: Network, base: f64, metric: f64) {
    let (patience, factor, watched) = match network {
        Network::Generator => (schedulers.patience_g, schedulers.factor_g, schedulers.metric_g),
        Network::Discriminator => (schedulers.patience_d, schedulers.factor_d, schedulers.metric_d),
    };
    let metric = if direction(watched) == Direction::Higher { -metric } else { metric };
    let better = metric.is_finite() && state.best.is_none_or(|best| metric < best - schedulers.threshold * best.abs());
    if better {
        state.best = Some(metric);
        state.bad = 0;
    } else {
        state.bad += 1;
    }
    if state.cooldown > 0 {
        state.cooldown -= 1;
        state.bad = 0;
    }
    if state.bad > patience {
        let lowest = (schedulers.min_lr / base).min(state.factor);
        state.factor = (state.factor * factor).max(lowest);
        state.cooldown = schedulers.cooldown;
        state.bad = 0;
    }
}

/// Which direction of a watched metric is an improvement; a config names none without one.
pub fn direction(watched: Metric) -> Direction {
    watched.direction().unwrap_or(Direction::Lower)
}

/// One validation of early stopping; true if the metric is the best so far.
pub fn early_stopping_step(state: &mut EarlyStopping, direction: Direction, metric: f64) -> bool {
    let better = metric.is_finite() && state.best.is_none_or(|best| direction.better(metric, best));
    if better {
        *state = EarlyStopping { best: Some(metric), bad: 0 };
    } else {
        state.bad += 1;
    }
    better
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(changes: &[&str]) -> Config {
        let overrides: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        Config::from_yaml("Model: {in_bands: 4}\nTraining: {Losses: {adv_loss_beta: 0.05}}", None, &overrides)
            .unwrap()
            .0
    }

    #[test]
    fn the_ramp_starts_after_pretraining_and_counts_batches() {
        let cfg =
            config(&["Training.pretrain_g_only=true", "Training.g_pretrain_steps=4", "Training.adv_loss_ramp_steps=4"]);
        let t = &cfg.training;
        let weights: Vec<f64> = (0..10).map(|s| adversarial_weight(t, s)).collect();
        assert_eq!(weights[..5], [0.0; 5]);
        assert!((weights[6] - 0.025).abs() < 1e-12 && weights[8] == 0.05 && weights[9] == 0.05, "{weights:?}");
        let pretraining = |s| phase(t, s) == Phase::Pretrain;
        assert_eq!([0, 3, 4, 5].map(pretraining), [true, true, false, false]);
        assert_eq!(phases(t), [Phase::Pretrain, Phase::Adversarial]);
        let linear = config(&["Training.adv_loss_ramp_steps=4", "Training.Losses.adv_loss_schedule=linear"]);
        assert!((adversarial_weight(&linear.training, 1) - 0.0125).abs() < 1e-12);
        let forever = config(&["Training.pretrain_g_only=true", "Training.g_pretrain_steps=-1"]);
        assert_eq!(phase(&forever.training, u64::MAX), Phase::Pretrain);
        assert_eq!((phases(&forever.training), adversarial_weight(&forever.training, 9)), (vec![Phase::Pretrain], 0.0));
        assert_eq!(phases(&linear.training), [Phase::Adversarial]);
    }

    #[test]
    fn warmup_never_falls_under_a_twentieth() {
        let cfg = config(&["Schedulers.g_warmup_steps=100", "Schedulers.g_warmup_type=cosine"]);
        assert_eq!(warmup_factor(&cfg.schedulers, 0), 0.05);
        assert!((warmup_factor(&cfg.schedulers, 49) - 0.5).abs() < 1e-12);
        assert_eq!(warmup_factor(&cfg.schedulers, 99), 1.0);
        assert_eq!(warmup_factor(&cfg.schedulers, 100), 1.0);
    }

    /// Learning rates of torch.optim.lr_scheduler.ReduceLROnPlateau(patience=1, factor=0.5, threshold=1e-3,
    /// cooldown=1, min_lr=2e-4) on a base rate of 1e-3, for the same metrics.
    #[test]
    fn plateau_moves_as_pytorch() {
        let cfg = config(&[
            "Schedulers.patience_g=1",
            "Schedulers.cooldown=1",
            "Schedulers.min_lr=2e-4",
            "Optimizers.optim_g_lr=1e-3",
        ]);
        let metrics = [1.0, 0.9, 0.8995, 0.95, 0.91, 0.92, 0.93, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6];
        let want = [1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 2.5e-4, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4];
        let mut state = PlateauState::default();
        for (i, (metric, lr)) in metrics.into_iter().zip(want).enumerate() {
            plateau_step(&mut state, &cfg.schedulers, Network::Generator, 1e-3, metric);
            assert!((1e-3 * state.factor - lr).abs() < 1e-12, "validation {i}: {} want {lr}", 1e-3 * state.factor);
        }
    }

    #[test]
    fn a_rising_psnr_is_no_plateau() {
        let cfg = config(&["Schedulers.metric_g=val_metrics/psnr", "Schedulers.patience_g=0"]);
        let mut state = PlateauState::default();
        for psnr in [30.0, 31.0, 32.0] {
            plateau_step(&mut state, &cfg.schedulers, Network::Generator, 1e-3, psnr);
            assert_eq!((state.factor, state.bad), (1.0, 0));
        }
        plateau_step(&mut state, &cfg.schedulers, Network::Generator, 1e-3, 31.9);
        assert_eq!(state.factor, 0.5);
    }

    #[test]
    fn nan_is_never_an_improvement() {
        let cfg = config(&[]);
        let (mut plateau, mut early) = (PlateauState::default(), EarlyStopping::default());
        plateau_step(&mut plateau, &cfg.schedulers, Network::Discriminator, 1e-3, f64::NAN);
        assert!(plateau.best.is_none() && plateau.bad == 1);
        assert!(!early_stopping_step(&mut early, Direction::Lower, f64::NAN) && early.best.is_none());
        assert!(
            early_stopping_step(&mut early, Direction::Higher, 30.0)
                && early_stopping_step(&mut early, Direction::Higher, 31.0)
        );
        assert!(!early_stopping_step(&mut early, Direction::Higher, 30.5) && early.bad == 1);
    }
}
