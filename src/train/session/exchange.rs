//! Exchange of a session's states with checkpoints.

use std::path::Path;

use super::{SavedTensor, Session};
use crate::checkpoint::{TensorFile, compare_architecture};
use crate::nn::{Network, Tensor};
use crate::train::states::{COUNTERS, EMA, FlatState, flat_states, moments};
use crate::types::Shape;
use crate::{Error, Result};

impl Session {
    /// Updates done: generator, discriminator, EMA.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn counters(&self) -> Result<[u64; 3]> {
        let read = |name: &str| Ok(self.device.state(name)?.first().map_or(0, |v| *v as u64));
        let [generator, discriminator, average] = COUNTERS.map(read);
        Ok([generator?, discriminator?, average?])
    }

    /// Sets the numbers of updates done.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn set_counters(&mut self, counters: [u64; 3]) -> Result<()> {
        for (name, value) in COUNTERS.into_iter().zip(counters) {
            self.device.set_state(name, Shape::SCALAR, &[value as f32])?;
        }
        Ok(())
    }

    /// Every tensor of a checkpoint, in file order.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn tensors(&self) -> Result<Vec<SavedTensor>> {
        let mut shapes = self.tensor_shapes().into_iter();
        let mut out = Vec::new();
        self.visit_tensors(&mut |values| {
            out.extend(shapes.next().map(|(name, shape)| SavedTensor { name, shape, data: values.to_vec() }));
            Ok(())
        })?;
        Ok(out)
    }

    /// Shows the values of every tensor of a checkpoint to `show`, in the order of [`Session::tensor_shapes`] and each in
    /// file order, holding one at a time.
    ///
    /// # Errors
    /// Fails if `show` or the device fails.
    pub fn visit_tensors(&self, show: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        for FlatState { network, name, .. } in flat_states(&self.programs, self.has_ema()) {
            let layout = self.programs.layout(network);
            self.device.with_state(&name, &mut |flat| {
                layout.params.iter().try_for_each(|p| show(&p.to_file(layout.slice(p, flat))))
            })?;
        }
        for (state, tensor) in self.buffers() {
            self.device.with_state(&state, &mut |values| show(&tensor.to_file(values)))?;
        }
        Ok(())
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
        self.set_some_tensors(|name| !averaged(name) || present, |name| read_state(file, path, name))?;
        if wanted && !present { self.average_from_live() } else { Ok(()) }
    }

    /// The average starts at the live weights.
    pub(super) fn average_from_live(&mut self) -> Result<()> {
        let generator = self.programs.layout(Network::Generator).clone();
        let flat = self.device.state(&generator.params_state())?;
        self.device.set_state(&format!("{EMA}{}", generator.params_state()), Shape::vector(flat.len()), &flat)?;
        for b in &generator.buffers {
            let values = self.device.state(&b.name)?;
            self.device.set_state(&format!("{EMA}{}", b.name), b.shape, &values)?;
        }
        Ok(())
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

    /// Sets the generator's parameters, flat, and its buffers in the order of its layout, in memory order.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn set_generator(&mut self, params: &[f32], buffers: &[Vec<f32>]) -> Result<()> {
        let layout = self.programs.layout(Network::Generator).clone();
        self.device.set_state(&layout.params_state(), Shape::vector(layout.len), params)?;
        let mut values = layout.buffers.iter().zip(buffers);
        values.try_for_each(|(buffer, values)| self.device.set_state(&buffer.name, buffer.shape, values))
    }

    pub(super) fn set_some_tensors(
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

/// A tensor of a state that is continued: finite, and not below 0 where its root will be taken.
fn read_state(file: &mut TensorFile, path: &Path, name: &str) -> Result<Vec<f32>> {
    let values = file.read_finite(name)?;
    let is_square = Network::ALL.iter().any(|network| name.starts_with(moments(*network).exp_avg_sq));
    match values.iter().find(|v| is_square && **v < 0.0) {
        Some(value) => {
            Err(Error::checkpoint(path, format!("tensor {name} holds {value}, but a mean of squares is not negative")))
        }
        None => Ok(values),
    }
}
