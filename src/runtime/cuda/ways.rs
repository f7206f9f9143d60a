//! The ways in which a step can be done: by our kernels, or by a library.

use std::sync::Arc;

use crate::device::cuda::{KernelLaunch, LibraryCall};

/// One entry of a plan's work, before kernels are compiled.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Kernel(KernelLaunch),
    Library(LibraryCall, Arc<str>),
}

/// Other ways of a step than its own kernels.
#[derive(Clone, Debug)]
pub(super) struct Alternative {
    /// What decides how long the step takes, whichever way it goes.
    pub signature: String,
    /// Kernels of this program for GPUs that have more than the own ones need, by name.
    pub kernels: Vec<(String, Vec<KernelLaunch>)>,
    /// A library's call, and what is left to do on its result.
    pub call: LibraryCall,
    pub then: Option<KernelLaunch>,
}

impl Alternative {
    /// Whether an algorithm is this program's, which needs no library.
    pub fn has_kernel(&self, algorithm: &str) -> bool {
        self.kernels.iter().any(|(name, _)| name == algorithm)
    }

    /// The step's work by one of its kernels or one of the library's algorithms.
    pub fn items(&self, algorithm: &str) -> Vec<Item> {
        if let Some((_, launches)) = self.kernels.iter().find(|(name, _)| name == algorithm) {
            return launches.iter().cloned().map(Item::Kernel).collect();
        }
        let call = Item::Library(self.call, algorithm.into());
        [call].into_iter().chain(self.then.clone().map(Item::Kernel)).collect()
    }
}
