//! Names of metrics and states, spelt once. Metric names are exactly those of opensr-srgan; the gradient norms
//! are ours.

/// Slots of the vector of numbers that the host uploads for each step.
pub mod scalars {
    /// Name of the input slot.
    pub const SLOT: &str = "scalars";
    /// The generator's learning rate.
    pub const LR_G: usize = 0;
    /// The discriminator's learning rate.
    pub const LR_D: usize = 1;
    /// Weight of the adversarial loss.
    pub const ADV_WEIGHT: usize = 2;
    /// 1 if the step updates the EMA, else 0.
    pub const EMA_ON: usize = 3;
    /// Must be finite for the step to count: the host's verdict on a step's micro-batches.
    pub const GUARD: usize = 4;
    /// Number of slots.
    pub const COUNT: usize = 5;
}

/// First moments of the generator.
pub const G_EXP_AVG: &str = "optim_g.exp_avg";
/// Second moments of the generator.
pub const G_EXP_AVG_SQ: &str = "optim_g.exp_avg_sq";
/// Updates of the generator so far.
pub const G_UPDATES: &str = "optim_g.updates";
/// First moments of the discriminator.
pub const D_EXP_AVG: &str = "optim_d.exp_avg";
/// Second moments of the discriminator.
pub const D_EXP_AVG_SQ: &str = "optim_d.exp_avg_sq";
/// Updates of the discriminator so far.
pub const D_UPDATES: &str = "optim_d.updates";
/// Updates of the EMA so far.
pub const EMA_UPDATES: &str = "ema.updates";

/// The generator's content loss.
pub const CONTENT: &str = "generator/content_loss";
/// The generator's adversarial loss, unweighted.
pub const GENERATOR_ADVERSARIAL: &str = "generator/adversarial_loss";
/// What the generator minimises.
pub const GENERATOR_TOTAL: &str = "generator/total_loss";
/// Gradient norm of the generator before clipping.
pub const GENERATOR_GRAD_NORM: &str = "generator/grad_norm";
/// The discriminator's loss with R1.
pub const D_ADVERSARIAL: &str = "discriminator/adversarial_loss";
/// The R1 penalty.
pub const R1_PENALTY: &str = "discriminator/r1_penalty";
/// Gradient norm of the discriminator before clipping.
pub const DISCRIMINATOR_GRAD_NORM: &str = "discriminator/grad_norm";
/// Mean sigmoid of D(HR).
pub const D_REAL: &str = "discriminator/D(y)_prob";
/// Mean sigmoid of D(SR).
pub const D_FAKE: &str = "discriminator/D(G(x))_prob";
/// Mean sigmoid of D(HR) − mean D(SR).
pub const D_REAL_RELATIVISTIC: &str = "train_metrics/discriminator/D(y)_prob_relativistic";
/// Mean sigmoid of D(SR) − mean D(HR).
pub const D_FAKE_RELATIVISTIC: &str = "train_metrics/discriminator/D(G(x))_prob_relativistic";
/// Decay of this step's EMA update; 0 without one.
pub const EMA_LAST_DECAY: &str = "EMA/last_decay";

/// Updates of the EMA so far, this step's included. Programs report the number before it.
pub const EMA_NUM_UPDATES: &str = "EMA/num_updates";

/// Components in the order in which programs report them.
pub const COMPONENTS: [&str; 5] = ["l1", "sam", "tv", "psnr", "ssim"];
/// The same as metrics of training steps.
pub const TRAIN_COMPONENTS: [&str; 5] =
    ["train_metrics/l1", "train_metrics/sam", "train_metrics/tv", "train_metrics/psnr", "train_metrics/ssim"];
/// The same as metrics of validations.
pub const VAL_COMPONENTS: [&str; 5] =
    ["val_metrics/l1", "val_metrics/sam", "val_metrics/tv", "val_metrics/psnr", "val_metrics/ssim"];
/// The mean perceptual distance of a training step; 0 without the term.
pub const TRAIN_PERCEPTUAL: &str = "train_metrics/perceptual";
/// The mean perceptual distance of a validation; 0 without the term.
pub const VAL_PERCEPTUAL: &str = "val_metrics/perceptual";
