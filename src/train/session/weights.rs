//! Initial weights from a file: of this program, of opensr-srgan, or of another that has saved one of these networks.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::Session;
use crate::checkpoint::{TensorFile, compare_architecture};
use crate::nn::Network;
use crate::{Error, Result};

/// PyTorch counts the batches that a batch norm has seen, for averages that the networks here do not keep.
const BATCH_COUNT: &str = ".num_batches_tracked";
/// What wrappers put before or behind a network's name: `DataParallel` and DDP, `torch.compile`, Lightning modules.
const WRAPPERS: [&str; 3] = ["module", "_orig_mod", "model"];

/// Name and shape of a tensor.
type Named = (String, Vec<usize>);

impl Session {
    /// Takes the generator's and, where the file has one that fits, the discriminator's weights, nothing else: in a
    /// checkpoint of opensr-srgan, the loss's networks are passed over. Names may have the prefixes of wrappers, and those
    /// of a generator may lack its own. Returns the networks that were taken.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a table of differing names and extents, before anything is changed; then those of
    /// reading.
    pub fn restore_weights(&mut self, file: &mut TensorFile, path: &Path) -> Result<Vec<String>> {
        let found: Vec<Named> = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        // The prefix in the file of each network that is taken.
        let mut taken: Vec<(String, String)> = Vec::new();
        for network in Network::ALL {
            let own = format!("{}.", self.programs.layout(network).prefix);
            let bare: Vec<Named> = self
                .tensor_shapes()
                .into_iter()
                .filter_map(|(name, shape)| Some((name.strip_prefix(&own)?.to_owned(), shape)))
                .collect();
            let prefix = prefix_in(&found, network, &bare).unwrap_or_else(|| own.clone());
            let expected: Vec<Named> =
                bare.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
            let belongs = |(name, _): &&Named| name.starts_with(&prefix) && !name.ends_with(BATCH_COUNT);
            let present: Vec<Named> = found.iter().filter(belongs).cloned().collect();
            match (compare_architecture(&expected, &present), network) {
                (None, _) => taken.push((own, prefix)),
                (Some(_), Network::Discriminator) => {}
                (Some(_), Network::Generator) if present.is_empty() => return Err(without_generator(path, &found)),
                (Some(table), Network::Generator) => {
                    let message = format!("its generator is not that of this configuration\n{table}");
                    return Err(Error::checkpoint(path, message));
                }
            }
        }
        let wanted = |name: &str| taken.iter().any(|(own, _)| name.starts_with(own.as_str()));
        self.set_some_tensors(wanted, |name| {
            let in_file = taken.iter().find_map(|(own, prefix)| Some(format!("{prefix}{}", name.strip_prefix(own)?)));
            file.read_finite(&in_file.unwrap_or_default())
        })?;
        if self.has_ema() {
            self.average_from_live()?;
        }
        Ok(taken.into_iter().map(|(own, _)| own.trim_end_matches('.').to_owned()).collect())
    }
}

/// The error for a file none of whose names is a generator's.
fn without_generator(path: &Path, found: &[Named]) -> Error {
    const SHOWN: usize = 6;
    let short = |(name, _): &Named| name.chars().take(100).collect::<String>();
    let names: Vec<String> = found.iter().take(SHOWN).map(short).collect();
    let more = if found.len() > SHOWN { format!(" and {} more", found.len() - SHOWN) } else { String::new() };
    let message =
        format!("it holds no tensor of this configuration's generator; its tensors are {}{more}", names.join(", "));
    Error::checkpoint(path, message).with_hint(
        "names are those of opensr-srgan's state dict, as `generator.head.0.weight`, with the prefixes of wrappers \
         (module., _orig_mod., model.) or without `generator.`",
    )
}

/// What stands before most of a network's names in a file; `None` if none of them is there.
fn prefix_in(found: &[Named], network: Network, bare: &[Named]) -> Option<String> {
    let bare: HashSet<&str> = bare.iter().map(|(name, _)| name.as_str()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, _) in found {
        let starts = [0].into_iter().chain(name.match_indices('.').map(|(at, _)| at + 1));
        for (prefix, _) in starts.map(|at| name.split_at(at)).filter(|(_, rest)| bare.contains(rest)) {
            if is_prefix_of(prefix, network) {
                *counts.entry(prefix).or_default() += 1;
            }
        }
    }
    // Of equals the first by name, so that the choice does not depend on the order of a hash map.
    let best = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
    best.map(|(prefix, _)| prefix.to_owned())
}

/// Whether a prefix consists of the network's name, once, and of wrappers. A generator may be without its name.
fn is_prefix_of(prefix: &str, network: Network) -> bool {
    let parts: Vec<&str> = prefix.split('.').filter(|part| !part.is_empty()).collect();
    let names = parts.iter().filter(|part| **part == network.name()).count();
    let wrappers = parts.iter().filter(|part| WRAPPERS.contains(part)).count();
    let named = names == 1 || (names == 0 && network == Network::Generator);
    named && names + wrappers == parts.len()
}
