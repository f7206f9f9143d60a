//! Checkpoints of a run: what is written, and how a run continues from it.

use std::path::Path;

use super::session::Session;
use crate::checkpoint::{Meta, TensorFile, write_checkpoint};
use crate::{Error, Result};

/// Writes all tensors of `session` and `meta` to `path`, atomically, one tensor after the other.
///
/// # Errors
/// I/O errors; [`Error::Diverged`] if a tensor is not finite. The file that was there before stays.
pub fn save(session: &Session, meta: &Meta, path: &Path) -> Result<()> {
    let shapes = session.tensor_shapes();
    let mut names = shapes.iter().map(|(name, _)| name);
    write_checkpoint(path, meta, &shapes, |write| {
        session.visit_tensors(&mut |values| {
            let name = names.next();
            match values.iter().find(|v| !v.is_finite()) {
                Some(value) => Err(Error::Diverged {
                    message: format!(
                        "after step {} tensor {} holds {value}; this state is not saved",
                        meta.step.saturating_sub(1),
                        name.map_or("?", String::as_str)
                    ),
                }),
                None => write(values),
            }
        })
    })
}

/// Takes tensors and counters of the checkpoint `path` into `session`.
///
/// # Errors
/// [`Error::Checkpoint`] if the file cannot be read, is damaged, is of another architecture or holds a value that is not
/// finite; of another architecture nothing is changed.
pub fn load(session: &mut Session, path: &Path) -> Result<Meta> {
    let (mut file, meta) = TensorFile::open_checkpoint(path)?;
    session.restore(&mut file, path)?;
    let c = meta.counters;
    session.set_counters([c.adam_g, c.adam_d, c.ema_updates])?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LAST;
    use crate::config::Config;
    use crate::runtime::Cpu;

    #[test]
    fn a_state_that_is_not_finite_is_not_saved() {
        let text = "Model: {in_bands: 1}\nGenerator: {n_channels: 4, n_blocks: 1, scaling_factor: 2}\n\
                    Discriminator: {model_type: patchgan, n_blocks: 1}\n";
        let (cfg, _) = Config::from_yaml(text, None, &[]).unwrap();
        let mut session = Session::new(cfg, Box::new(Cpu::new(1).unwrap())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LAST);
        save(&session, &Meta::default(), &path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let lengths: std::collections::HashMap<String, usize> =
            session.tensor_shapes().into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
        let bad = |name: &str| if name.starts_with("optim_g.exp_avg_sq.") { f32::INFINITY } else { 0.5 };
        session.set_tensors(|name| Ok(vec![bad(name); lengths[name]])).unwrap();
        let error = save(&session, &Meta { step: 8, ..Meta::default() }, &path).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error:?}");
        assert!(error.to_string().contains("after step 7 tensor optim_g.exp_avg_sq."), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), good);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }
}
