//! Networks: code that writes ops on a tape, and the table of their parameters and buffers.
//!
//! A network is a function of a [`Net`], run once to declare its table ([`Layout`]) and again for every
//! program with the table's values bound. Parameters of one network live in one flat state; the names are
//! those of opensr-srgan's state dict.

pub mod blocks;
mod bound;
mod discriminator;
mod esrgan;
mod flexible;
mod generator;
mod layers;
mod layout;
mod network;
mod perceptual;
mod srresnet;
mod stochastic;

pub use bound::Bound;
pub use discriminator::{discriminator, discriminator_layout};
pub use flexible::trunk;
pub use generator::{generator, generator_layout, is_stochastic};
pub use layers::{ConvSpec, Net, Vars};
pub use layout::{FileLayout, Init, Layout, Tensor};
pub use network::Network;
pub use perceptual::{BANDS as PERCEPTUAL_BANDS, perceptual_distance, perceptual_layout};
