//! The vector of numbers that the host uploads for each step.

/// Name of its input slot.
pub const SLOT: &str = "scalars";
/// The generator's learning rate.
pub const LR_G: usize = 0;
/// The discriminator's learning rate.
pub const LR_D: usize = 1;
/// Weight of the adversarial loss.
pub const ADV_WEIGHT: usize = 2;
/// 1 if the step updates the EMA, else 0.
pub const EMA_ON: usize = 3;
/// Number of elements.
pub const COUNT: usize = 4;
