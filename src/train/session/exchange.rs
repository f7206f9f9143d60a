//! Exchange of a session's states with checkpoints.

use std::path::Path;

use super::{SavedTensor, Session};
use crate::checkpoint::{TensorFile, compare_architecture};
use crate::nn::{Network, Tensor};
use crate::train::states::{EMA, FlatState, flat_states};
use crate::types::Shape;
use crate::{Error, Result};

/// PyTorch counts the batches that a batch norm has seen, for averages that the networks here do not keep.
const BATCH_COUNT: &str = ".num_batches_tracked";

impl Session {
    /// Every tensor of a checkpoint, in file order.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn tensors(&self) -> Result<Vec<SavedTensor>> {
        let mut out = Vec::new();
        for FlatState { network, prefix, name, .. } in flat_states(&self.programs, self.has_ema()) {
            let layout = self.programs.layout(network);
            let flat = self.device.state(&name)?;
            for p in &layout.params {
                let data = p.to_file(layout.slice(p, &flat));
                out.push(SavedTensor {
                    name: format!("{prefix}.{}", layout.bare_name(p)),
                    shape: p.file_shape(),
                    data,
                });
            }
        }
        for (state, tensor) in self.buffers() {
            let data = tensor.to_file(&self.device.state(&state)?);
            out.push(SavedTensor { name: self.buffer_name(&state), shape: tensor.file_shape(), data });
        }
        Ok(out)
    }

    /// `ema.generator.x` is called `ema.x` in files.
    fn buffer_name(&self, state: &str) -> String {
        let averaged = format!("{EMA}{}.", Network::Generator.name());
        state.strip_prefix(&averaged).map_or_else(|| state.to_owned(), |rest| format!("{EMA}{rest}"))
    }

    /// Takes every tensor of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a table of differing names and extents, before anything is changed; then
    /// those of reading.
    pub fn restore(&mut self, file: &mut TensorFile, path: &Path) -> Result<()> {
        let found = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect::<Vec<_>>();
        let averaged = |name: &str| name.starts_with(EMA);
        let (wanted, present) = (self.has_ema(), found.iter().any(|(n, _)| averaged(n)));
        // An average that was switched on or off since is started from the live weights, or left alone.
        let counts = |(name, _): &(String, Vec<usize>)| !averaged(name) || (wanted && present);
        let expected: Vec<_> = self.tensor_shapes().into_iter().filter(counts).collect();
        let found: Vec<_> = found.into_iter().filter(counts).collect();
        if let Some(table) = compare_architecture(&expected, &found) {
            let message = format!("its tensors are not those of this configuration\n{table}");
            return Err(Error::checkpoint(path, message)
                .with_hint("use the configuration that the checkpoint was trained with (config.yaml beside it)"));
        }
        self.set_some_tensors(|name| !averaged(name) || present, |name| file.read(name))?;
        if wanted && !present { self.average_from_live() } else { Ok(()) }
    }

    /// The average starts at the live weights.
    fn average_from_live(&mut self) -> Result<()> {
        let generator = self.programs.layout(Network::Generator).clone();
        let flat = self.device.state(&generator.params_state())?;
        self.device.set_state(&format!("{EMA}{}", generator.params_state()), Shape::vector(flat.len()), &flat)?;
        for b in &generator.buffers {
            let values = self.device.state(&b.name)?;
            self.device.set_state(&format!("{EMA}{}", b.name), b.shape, &values)?;
        }
        Ok(())
    }

    /// Takes the generator's and, where the file has them, the discriminator's weights, nothing else: in a checkpoint
    /// of opensr-srgan, the loss's networks are passed over.
    ///
    /// # Errors
    /// As [`Session::restore`].
    pub fn restore_weights(&mut self, file: &mut TensorFile, path: &Path) -> Result<Vec<String>> {
        let found = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect::<Vec<_>>();
        let mut taken = Vec::new();
        for network in Network::ALL {
            let layout = self.programs.layout(network);
            let prefix = format!("{}.", layout.prefix);
            let expected: Vec<_> = self.tensor_shapes().into_iter().filter(|(n, _)| n.starts_with(&prefix)).collect();
            let counts = |name: &str| name.starts_with(&prefix) && !name.ends_with(BATCH_COUNT);
            let present: Vec<_> = found.iter().filter(|(n, _)| counts(n)).cloned().collect();
            if network == Network::Discriminator && present.is_empty() {
                continue;
            }
            if let Some(table) = compare_architecture(&expected, &present) {
                let message = format!("its {} is not that of this configuration\n{table}", layout.prefix);
                return Err(Error::checkpoint(path, message));
            }
            taken.push(layout.prefix.clone());
        }
        let wanted = taken.clone();
        self.set_some_tensors(|name| wanted.iter().any(|p| name.split('.').next() == Some(p)), |name| file.read(name))?;
        if self.has_ema() {
            self.average_from_live()?;
        }
        Ok(taken)
    }

    /// Names and file extents of all tensors of a checkpoint.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut out = Vec::new();
        for FlatState { network, prefix, .. } in flat_states(&self.programs, self.has_ema()) {
            let layout = self.programs.layout(network);
            let name = |p: &Tensor| format!("{prefix}.{}", layout.bare_name(p));
            out.extend(layout.params.iter().map(|p| (name(p), p.file_shape())));
        }
        out.extend(self.buffers().iter().map(|(state, t)| (self.buffer_name(state), t.file_shape())));
        out
    }

    /// Sets every tensor from `read`, which is given the name in files and answers in file order.
    ///
    /// # Errors
    /// Fails if `read` or the device fails.
    pub fn set_tensors(&mut self, read: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<()> {
        self.set_some_tensors(|_| true, read)
    }

    /// Sets the weights of the perceptual network from `read`, which is given the name in files without the network's
    /// and answers in file order. Does nothing without the term.
    ///
    /// # Errors
    /// Fails if `read` or the device fails.
    pub fn set_perceptual(&mut self, mut read: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<()> {
        let Some(layout) = self.programs.perceptual() else { return Ok(()) };
        let flat = layout.filled(&mut read)?;
        self.device.set_state(&layout.params_state(), Shape::vector(flat.len()), &flat)
    }

    fn set_some_tensors(
        &mut self,
        wanted: impl Fn(&str) -> bool,
        mut read: impl FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<()> {
        for FlatState { network, prefix, name, .. } in flat_states(&self.programs, self.has_ema()) {
            if !wanted(&format!("{prefix}.")) {
                continue;
            }
            let flat = self.programs.layout(network).filled(|tensor| read(&format!("{prefix}.{tensor}")))?;
            self.device.set_state(&name, Shape::vector(flat.len()), &flat)?;
        }
        for (state, tensor) in self.buffers() {
            let name = self.buffer_name(&state);
            if wanted(&name) {
                let values = tensor.from_file(&read(&name)?);
                self.device.set_state(&state, tensor.shape, &values)?;
            }
        }
        Ok(())
    }
}
