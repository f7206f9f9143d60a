//! What a run trains, as states on the device: their names there and in checkpoints, and how they start.

use crate::nn::{Layout, Network, Tensor};
use crate::train::programs::Programs;
use crate::types::Shape;

/// Updates of the average so far.
pub const EMA_UPDATES: &str = "ema.updates";

/// Prefix of averaged states.
pub const EMA: &str = "ema.";

/// Prefix of states that hold a step's changes until it is certain that the step counts.
pub const STAGED: &str = "staged.";

/// States of a network's Adam.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// First moments.
    pub exp_avg: &'static str,
    /// Second moments.
    pub exp_avg_sq: &'static str,
    /// Updates so far.
    pub updates: &'static str,
}

/// The states of `network`'s Adam.
pub const fn moments(network: Network) -> Moments {
    match network {
        Network::Generator => {
            Moments { exp_avg: "optim_g.exp_avg", exp_avg_sq: "optim_g.exp_avg_sq", updates: "optim_g.updates" }
        }
        Network::Discriminator => {
            Moments { exp_avg: "optim_d.exp_avg", exp_avg_sq: "optim_d.exp_avg_sq", updates: "optim_d.updates" }
        }
    }
}

/// The counters: updates of the generator, of the discriminator and of the average.
pub const COUNTERS: [&str; 3] =
    [moments(Network::Generator).updates, moments(Network::Discriminator).updates, EMA_UPDATES];

/// What a flat state starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The network's initial weights.
    Weights,
    /// Zeros.
    Zeros,
}

/// A state with one value for each parameter of a network.
#[derive(Clone, Debug)]
pub struct FlatState {
    /// Whose parameters.
    pub network: Network,
    /// What the names of its tensors in checkpoints begin with.
    pub prefix: &'static str,
    /// Its name.
    pub name: String,
    /// What it starts with.
    pub start: Start,
}

/// The flat states in the order of checkpoints; with that of the average if there is one.
pub fn flat_states(programs: &Programs, averaged: bool) -> Vec<FlatState> {
    let params = |network| programs.layout(network).params_state();
    let weights = |network, prefix, name| FlatState { network, prefix, name, start: Start::Weights };
    let mut states: Vec<FlatState> = Network::ALL.map(|n| weights(n, n.name(), params(n))).into();
    for network in Network::ALL {
        let Moments { exp_avg, exp_avg_sq, .. } = moments(network);
        let zeros = |prefix: &'static str| FlatState { network, prefix, name: prefix.to_owned(), start: Start::Zeros };
        states.extend([exp_avg, exp_avg_sq].map(zeros));
    }
    if averaged {
        let generator = Network::Generator;
        states.push(weights(generator, EMA.trim_end_matches('.'), format!("{EMA}{}", params(generator))));
    }
    states
}

/// All buffers by state name: both networks', and the averaged generator's.
pub fn buffers(programs: &Programs, averaged: bool) -> Vec<(String, Tensor)> {
    let of = |network| programs.layout(network).buffers.iter();
    let mut all: Vec<_> = Network::ALL.into_iter().flat_map(of).map(|b| (b.name.clone(), b.clone())).collect();
    if averaged {
        all.extend(of(Network::Generator).map(|b| (format!("{EMA}{}", b.name), b.clone())));
    }
    all
}

/// The extent of a network's gradient bucket: its gradients, then the step's verdict on its loss (0, or NaN if the loss
/// is not finite).
pub fn bucket_shape(layout: &Layout) -> Shape {
    Shape::vector(layout.len + 1)
}

/// Name of the state in which a network's buckets are summed over micro-batches.
pub fn bucket_state(layout: &Layout) -> String {
    format!("{STAGED}{}.grad", layout.prefix)
}

/// The states between the segments of a step that runs them apart: name and extent.
pub fn staged_states(programs: &Programs) -> Vec<(String, Shape)> {
    let mut states = Vec::new();
    for layout in Network::ALL.map(|network| programs.layout(network)) {
        states.push((bucket_state(layout), bucket_shape(layout)));
        states.extend(layout.buffers.iter().map(|b| (format!("{STAGED}{}", b.name), b.shape)));
    }
    let discriminator = programs.layout(Network::Discriminator);
    states.push((format!("{STAGED}{}", discriminator.params_state()), Shape::vector(discriminator.len)));
    states
}
