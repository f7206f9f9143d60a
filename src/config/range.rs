//! Range checks of single values.

use std::fmt::Display;

use super::tree::shortened;

/// Largest count accepted anywhere: 2⁵³, up to which f64, in which schedules compute, holds every whole number.
/// Counters on the device are f32 and stay at 2²⁴, where Adam's bias correction and the average's warm-up are long over.
pub(crate) const MAX_COUNT: u64 = 1 << 53;

type Outcome = Result<(), String>;

fn require(holds: bool, rule: impl Display, value: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(format!("must be {rule}, found {value}")) }
}

pub(crate) fn in_range<T: PartialOrd + Display>(min: T, max: T) -> impl Fn(&T) -> Outcome {
    move |value| require(*value >= min && *value <= max, format_args!("between {min} and {max}"), value)
}

/// From `min` to [`MAX_COUNT`].
pub(crate) fn at_least<T: PartialOrd + Display + Copy + TryInto<i128>>(min: T) -> impl Fn(&T) -> Outcome {
    move |value| {
        require(*value >= min, format_args!("{min} or more"), value)?;
        let whole: Option<i128> = (*value).try_into().ok();
        require(whole.is_some_and(|v| v <= i128::from(MAX_COUNT)), "at most 2^53 (about 9e15)", value)
    }
}

pub(crate) fn odd(value: &usize) -> Outcome {
    require(value % 2 == 1, "odd", value)
}

pub(crate) fn power_of_two(value: &usize) -> Outcome {
    require(value.is_power_of_two(), "a power of two", value)
}

/// Networks compute in f32; a larger number would be infinite there.
pub(crate) fn fits_f32(value: &f64) -> Outcome {
    require((*value as f32).is_finite(), "at most 3.4e38", value)
}

/// Not so small that it is 0 in f32.
fn survives_f32(value: &f64) -> Outcome {
    require(*value == 0.0 || value.abs() as f32 >= f32::MIN_POSITIVE, "0 or at least 1.2e-38", value)
}

/// Above 0, in f64 alone.
pub(crate) fn positive_f64(value: &f64) -> Outcome {
    require(*value > 0.0, "above 0", value)
}

pub(crate) fn positive(value: &f64) -> Outcome {
    positive_f64(value)?;
    require(*value as f32 >= f32::MIN_POSITIVE, "at least 1.2e-38", value)?;
    fits_f32(value)
}

pub(crate) fn not_zero(value: &f64) -> Outcome {
    require(*value as f32 != 0.0, "another number than 0", value)?;
    fits_f32(value)
}

pub(crate) fn not_negative(value: &f64) -> Outcome {
    require(*value >= 0.0, "0 or more", value)?;
    survives_f32(value)?;
    fits_f32(value)
}

/// The peak of PSNR and SSIM, whose squares must neither vanish nor overflow in f32.
pub(crate) fn peak(value: &f64) -> Outcome {
    require(*value > 0.0, "above 0", value)?;
    require((1e-6..=1e12).contains(value), "between 1e-6 and 1e12", value)
}

pub(crate) fn open_unit(value: &f64) -> Outcome {
    require(*value > 0.0 && *value < 1.0, "above 0 and below 1", value)
}

pub(crate) fn half_open_unit(value: &f64) -> Outcome {
    require((0.0..1.0).contains(value), "at least 0 and below 1", value)
}

/// The same for a number of which, and of whose distance to 1, something is left in f32.
pub(crate) fn half_open_unit_f32(value: &f64) -> Outcome {
    half_open_unit(value)?;
    require((*value as f32) < 1.0, "at most 0.9999999, the largest number below 1 that computes", value)
}

pub(crate) fn closed_unit(value: &f64) -> Outcome {
    require((0.0..=1.0).contains(value), "between 0 and 1", value)
}

/// `check` on the value of an option.
pub(crate) fn each<T>(check: impl Fn(&T) -> Outcome) -> impl Fn(&Option<T>) -> Outcome {
    move |value| value.as_ref().map_or(Ok(()), &check)
}

/// `check` on every element.
pub(crate) fn all<T, const N: usize>(check: impl Fn(&T) -> Outcome) -> impl Fn(&[T; N]) -> Outcome {
    move |values| values.iter().try_for_each(&check)
}

/// A name that can be one folder: it must neither leave its parent folder nor make folders below.
pub(crate) fn folder_name(value: &str) -> Outcome {
    let holds = !value.trim().is_empty() && value != "." && value != ".." && !value.contains(['/', '\\', '\0']);
    require(holds, "usable as the name of a folder", format_args!("`{}`", shortened(value)))
}
