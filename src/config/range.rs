//! Range checks of single values.

use std::fmt::Display;

use super::tree::shortened;

/// Largest count accepted anywhere: 2⁵³, up to which f64, in which schedules compute, holds every whole number.
/// Counters on the device are f32 and stay at 2²⁴, where Adam's bias correction and the average's warm-up are long over.
pub(crate) const MAX_COUNT: u64 = 1 << 53;

type Outcome = Result<(), String>;

/// A rule that a value keeps.
pub(crate) struct Rule<T> {
    check: Box<dyn Fn(&T) -> Outcome>,
    bounds: Bounds,
}

/// A rule in words and, where it is one, as a range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// `between 1 and 1024`.
    pub words: String,
    /// Smallest value, and whether it is itself excluded.
    pub min: Option<(f64, bool)>,
    /// Largest value, and whether it is itself excluded.
    pub max: Option<(f64, bool)>,
}

impl<T: 'static> Rule<T> {
    fn new(words: impl Into<String>, check: impl Fn(&T) -> Outcome + 'static) -> Rule<T> {
        Rule { check: Box::new(check), bounds: Bounds { words: words.into(), min: None, max: None } }
    }

    fn from(mut self, min: f64) -> Self {
        self.bounds.min = Some((min, false));
        self
    }

    fn above(mut self, min: f64) -> Self {
        self.bounds.min = Some((min, true));
        self
    }

    fn to(mut self, max: f64) -> Self {
        self.bounds.max = Some((max, false));
        self
    }

    fn below(mut self, max: f64) -> Self {
        self.bounds.max = Some((max, true));
        self
    }

    /// Whether `value` keeps the rule.
    pub fn check(&self, value: &T) -> Outcome {
        (self.check)(value)
    }
}

/// What a rule for values like `_value` says to people and schemas.
pub(crate) fn bounds_of<T>(rule: &Rule<T>, _value: &T) -> Bounds {
    rule.bounds.clone()
}

fn require(holds: bool, rule: impl Display, value: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(format!("must be {rule}, found {value}")) }
}

/// Numbers whose ranges are stated.
pub(crate) trait Limit: PartialOrd + Display + Copy + 'static {
    fn as_f64(self) -> f64;
}

macro_rules! limits {
    ($($ty:ty),*) => {$(
        impl Limit for $ty {
            fn as_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
limits!(usize, u64, i64);

pub(crate) fn in_range<T: Limit>(min: T, max: T) -> Rule<T> {
    let words = format!("between {min} and {max}");
    let check =
        move |value: &T| require(*value >= min && *value <= max, format_args!("between {min} and {max}"), value);
    Rule::new(words, check).from(min.as_f64()).to(max.as_f64())
}

/// From `min` to [`MAX_COUNT`].
pub(crate) fn at_least<T: Limit + TryInto<i128>>(min: T) -> Rule<T> {
    let check = move |value: &T| {
        require(*value >= min, format_args!("{min} or more"), value)?;
        let whole: Option<i128> = (*value).try_into().ok();
        require(whole.is_some_and(|v| v <= i128::from(MAX_COUNT)), "at most 2^53 (about 9e15)", value)
    };
    Rule::new(format!("{min} or more"), check).from(min.as_f64()).to(MAX_COUNT as f64)
}

pub(crate) fn odd() -> Rule<usize> {
    Rule::new("odd", |value: &usize| require(value % 2 == 1, "odd", value))
}

pub(crate) fn power_of_two() -> Rule<usize> {
    Rule::new("a power of two", |value: &usize| require(value.is_power_of_two(), "a power of two", value))
}

/// Networks compute in f32; a larger number would be infinite there.
fn check_f32(value: &f64) -> Outcome {
    require((*value as f32).is_finite(), "at most 3.4e38", value)
}

pub(crate) fn fits_f32() -> Rule<f64> {
    Rule::new("", check_f32)
}

/// Not so small that it is 0 in f32.
fn survives_f32(value: &f64) -> Outcome {
    require(*value == 0.0 || value.abs() as f32 >= f32::MIN_POSITIVE, "0 or at least 1.2e-38", value)
}

/// Above 0, in f64 alone.
pub(crate) fn positive_f64() -> Rule<f64> {
    Rule::new("above 0", |value: &f64| require(*value > 0.0, "above 0", value)).above(0.0)
}

pub(crate) fn positive() -> Rule<f64> {
    let check = |value: &f64| {
        require(*value > 0.0, "above 0", value)?;
        require(*value as f32 >= f32::MIN_POSITIVE, "at least 1.2e-38", value)?;
        check_f32(value)
    };
    Rule::new("above 0", check).above(0.0)
}

pub(crate) fn not_zero() -> Rule<f64> {
    let check = |value: &f64| {
        require(*value as f32 != 0.0, "another number than 0", value)?;
        check_f32(value)
    };
    Rule::new("not 0", check)
}

pub(crate) fn not_negative() -> Rule<f64> {
    let check = |value: &f64| {
        require(*value >= 0.0, "0 or more", value)?;
        survives_f32(value)?;
        check_f32(value)
    };
    Rule::new("0 or more", check).from(0.0)
}

/// The peak of PSNR and SSIM, whose squares must neither vanish nor overflow in f32.
pub(crate) fn peak() -> Rule<f64> {
    let check = |value: &f64| {
        require(*value > 0.0, "above 0", value)?;
        require((1e-6..=1e12).contains(value), "between 1e-6 and 1e12", value)
    };
    Rule::new("between 1e-6 and 1e12", check).from(1e-6).to(1e12)
}

pub(crate) fn open_unit() -> Rule<f64> {
    let check = |value: &f64| require(*value > 0.0 && *value < 1.0, "above 0 and below 1", value);
    Rule::new("above 0 and below 1", check).above(0.0).below(1.0)
}

fn check_half_open(value: &f64) -> Outcome {
    require((0.0..1.0).contains(value), "at least 0 and below 1", value)
}

pub(crate) fn half_open_unit() -> Rule<f64> {
    Rule::new("at least 0 and below 1", check_half_open).from(0.0).below(1.0)
}

/// The same for a number of which, and of whose distance to 1, something is left in f32.
pub(crate) fn half_open_unit_f32() -> Rule<f64> {
    let check = |value: &f64| {
        check_half_open(value)?;
        require((*value as f32) < 1.0, "at most 0.9999999, the largest number below 1 that computes", value)
    };
    Rule::new("at least 0 and below 1", check).from(0.0).below(1.0)
}

pub(crate) fn closed_unit() -> Rule<f64> {
    let check = |value: &f64| require((0.0..=1.0).contains(value), "between 0 and 1", value);
    Rule::new("between 0 and 1", check).from(0.0).to(1.0)
}

/// The rule for the value of an option.
pub(crate) fn each<T: 'static>(rule: Rule<T>) -> Rule<Option<T>> {
    let Rule { check, bounds } = rule;
    Rule { check: Box::new(move |value: &Option<T>| value.as_ref().map_or(Ok(()), &check)), bounds }
}

/// The rule for every element.
pub(crate) fn all<T: 'static, const N: usize>(rule: Rule<T>) -> Rule<[T; N]> {
    let Rule { check, bounds } = rule;
    Rule { check: Box::new(move |values: &[T; N]| values.iter().try_for_each(&check)), bounds }
}

/// A name that can be one folder: it must neither leave its parent folder nor make folders below.
pub(crate) fn folder_name() -> Rule<String> {
    Rule::new("usable as the name of a folder", |value: &String| {
        let holds = !value.trim().is_empty()
            && value != "."
            && value != ".."
            && !value.contains(['/', '\\'])
            && !value.contains(char::is_control);
        require(holds, "usable as the name of a folder", format_args!("`{}`", shortened(value)))
    })
}
