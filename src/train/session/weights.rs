//! Initial weights from a file: of this program, of opensr-srgan, or of another that has saved one of these networks.

use std::collections::HashMap;
use std::path::Path;

use super::Session;
use crate::checkpoint::{Named, TensorFile, compare_architecture, is_batch_count, prefix_in, prefix_note};
use crate::nn::Network;
use crate::{Error, Result};

/// What was taken of a file.
#[derive(Debug, Default)]
pub struct Restored {
    /// The networks, by name.
    pub networks: Vec<String>,
    /// What a user should know: unusual names, tensors that were left out.
    pub notes: Vec<String>,
}

/// A network that is taken.
struct Taken {
    /// What the names of its tensors begin with here, and in the file.
    own: String,
    prefix: String,
    /// The tensors to take, by their names in the file; `None` is all.
    fitting: Option<Vec<String>>,
}

impl Session {
    /// Takes the generator's and, where the file has one that fits, the discriminator's weights, nothing else: in a
    /// checkpoint of opensr-srgan, the loss's networks are passed over. Names may have the prefixes of wrappers, and those
    /// of a generator may lack its own. Without `strict`, the tensors that fit by name and shape are taken, at least one of
    /// the generator's, and the others keep their values.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a table of differing names and extents, before anything is changed; then those of
    /// reading.
    pub fn restore_weights(&mut self, file: &mut TensorFile, path: &Path, strict: bool) -> Result<Restored> {
        let found: Vec<Named> = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        let mut restored = Restored::default();
        let mut taken: Vec<Taken> = Vec::new();
        for network in Network::ALL {
            let this = self.taken(network, &found, path, strict, &mut restored.notes)?;
            restored.networks.extend(this.is_some().then(|| network.name().to_owned()));
            taken.extend(this);
        }
        let present = if strict { HashMap::new() } else { self.values()? };
        let wanted = |name: &str| taken.iter().any(|t| name.starts_with(t.own.as_str()));
        self.set_some_tensors(wanted, |name| {
            let named = taken.iter().find_map(|t| Some((t, format!("{}{}", t.prefix, name.strip_prefix(&t.own)?))));
            let Some((network, in_file)) = named else { return file.read_finite(name) };
            match &network.fitting {
                Some(fitting) if !fitting.contains(&in_file) => Ok(present.get(name).cloned().unwrap_or_default()),
                _ => file.read_finite(&in_file),
            }
        })?;
        if self.has_ema() {
            self.average_from_live()?;
        }
        Ok(restored)
    }

    /// What is taken of a network; `None` if it starts anew.
    fn taken(
        &self,
        network: Network,
        found: &[Named],
        path: &Path,
        strict: bool,
        notes: &mut Vec<String>,
    ) -> Result<Option<Taken>> {
        let own = format!("{}.", self.programs.layout(network).prefix);
        let shapes = self.tensor_shapes().into_iter();
        let bare: Vec<Named> =
            shapes.filter_map(|(name, shape)| Some((name.strip_prefix(&own)?.to_owned(), shape))).collect();
        let is_generator = network == Network::Generator;
        let prefix = prefix_in(found, network.name(), is_generator, &bare).unwrap_or_else(|| own.clone());
        let expected: Vec<Named> = bare.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
        let belongs = |(name, _): &&Named| name.starts_with(&prefix) && !is_batch_count(name);
        let present: Vec<Named> = found.iter().filter(belongs).cloned().collect();
        let mut fitting = None;
        if let Some(table) = compare_architecture(&expected, &present) {
            let fits: Vec<String> =
                expected.iter().filter(|named| present.contains(named)).map(|(name, _)| name.clone()).collect();
            match network {
                Network::Discriminator if strict || fits.is_empty() => return Ok(None),
                Network::Generator if present.is_empty() => return Err(without_generator(path, found)),
                Network::Generator if strict || fits.is_empty() => {
                    let message = format!("its generator is not that of this configuration\n{table}");
                    return Err(Error::checkpoint(path, message).with_hint(
                        "Model.load_strict=false takes the tensors that fit and leaves the others as they are",
                    ));
                }
                _ => {}
            }
            let (some, all) = (fits.len(), expected.len());
            notes.push(format!(
                "{some} of {all} tensors of the {} fit and are taken; the others:\n{table}",
                network.name()
            ));
            fitting = Some(fits);
        }
        notes.extend(prefix_note(&prefix, &own).map(|note| format!("{}: {note}", network.name())));
        Ok(Some(Taken { own, prefix, fitting }))
    }

    /// The present values of all tensors, by their names in files.
    fn values(&self) -> Result<HashMap<String, Vec<f32>>> {
        Ok(self.tensors()?.into_iter().map(|tensor| (tensor.name, tensor.data)).collect())
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
