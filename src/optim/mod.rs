//! Optimisation: schedules of learning rates and of the adversarial weight. The updates themselves are ops
//! ([`crate::ops::adam`], [`crate::ops::ema`]).

pub mod schedule;
