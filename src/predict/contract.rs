//! Whether a scene's values are those that a checkpoint was trained on.

use super::scene::Scene;
use crate::data::{clipped_share, describe_methods};
use crate::ops::prepare::Normalization;
use crate::{Error, Result};

/// Share of clipped values that is refused, and that is warned of: as at the start of a training.
const REFUSED: f64 = 0.5;
const WARNED: f64 = 0.01;
/// A normalised scene whose largest value is lower is of another scale; one lower than the second is warned of.
const DARK: f32 = 0.005;
const DIM: f32 = 0.05;
/// A normalised value that is far above what networks expect.
const BRIGHT: f32 = 10.0;

/// Looks at a sample of the scene. Returns warnings.
///
/// # Errors
/// If the normalisation clips most of a band, or leaves next to nothing of all of them, unless `force`.
pub(super) fn check(scene: &mut Scene, method: Normalization, force: bool) -> Result<Vec<String>> {
    let bands = scene.sample()?;
    let (name, path) = (method.name(), scene.path().to_owned());
    let (mut warnings, mut wrong) = (Vec::new(), None);
    let is_signed = method.normalize(0.0) < 0.0;
    let largest = |values: &[f32]| {
        let high = values.last().map_or(0.0, |v| method.normalize(*v));
        if is_signed { (high + 1.0) / 2.0 } else { high }
    };
    for (number, values) in bands.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        let (low, high) = (values[0], values[values.len() - 1]);
        let (share, top) = (clipped_share(method, values), largest(values));
        let found = format!("band {} holds {low} to {high}", scene.bands()[number]);
        if share > REFUSED {
            wrong.get_or_insert(format!("{found}, of which {name} clips {:.0} %", 100.0 * share));
        } else if share > WARNED {
            warnings.push(format!("{found}, of which {name} clips {:.1} %", 100.0 * share));
        } else if top > BRIGHT || (low != high && (DARK..DIM).contains(&top)) {
            warnings.push(format!("{found}, at most {top:.4} after {name}: networks expect values up to 1"));
        }
    }
    let has_values = bands.iter().any(|values| !values.is_empty());
    if has_values && bands.iter().all(|values| largest(values) < DARK) && wrong.is_none() {
        let high = bands.iter().filter_map(|values| values.last()).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        if high != 0.0 {
            wrong = Some(format!("its values are at most {high}, next to nothing after {name}"));
        }
    }
    match wrong {
        Some(wrong) if force => warnings.push(format!("{wrong}; mapped all the same (--force)")),
        Some(wrong) => {
            let message = format!("the checkpoint expects {}; found: {wrong}", expected(method));
            return Err(Error::data(path, message)
                .with_hint(format!("--force maps it all the same. {}", describe_methods(&bands))));
        }
        None => {}
    }
    Ok(warnings.into_iter().map(|warning| format!("{}: {warning}", path.display())).collect())
}

fn expected(method: Normalization) -> String {
    let name = method.name();
    if method == Normalization::Identity {
        return format!("values as they are ({name})");
    }
    let [low, high] = [-1e9, 1e9].map(|v| method.denormalize(v));
    format!("values of {low} to {high} ({name})")
}
