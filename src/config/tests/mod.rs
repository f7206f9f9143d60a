//! Tests of the configuration: values, text, refusals.

mod data;
mod interpolation;
mod reading;
mod refusals;
mod text;

use super::Config;
use crate::Error;

/// Reads a text that must be right.
fn read(text: &str) -> Config {
    read_with(text, &[]).0
}

/// Reads a text with overrides that must be right, with its warnings.
fn read_with(text: &str, overrides: &[&str]) -> (Config, Vec<String>) {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    Config::from_yaml(text, None, &overrides).unwrap_or_else(|error| panic!("{text}\n{overrides:?}\n{error}"))
}

/// Reads a text with overrides that must be refused, as the file `run.yaml`.
fn refusal(text: &str, overrides: &[&str]) -> Error {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    match Config::from_yaml(text, Some("run.yaml".as_ref()), &overrides) {
        Ok(_) => panic!("accepted:\n{text}\n{overrides:?}"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            error
        }
    }
}
