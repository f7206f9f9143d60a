//! `srgan._srgan`: what the Python package calls. Arrays cross as bytes, (N, C, H, W) in f32 and the machine's order; the
//! package makes them of what users hand over. The interpreter's lock is released while the engine works.

mod caller;
mod generator;

use std::ffi::OsString;
use std::path::PathBuf;

use engine::cli;
use engine::embed::{self, ConfigSource, MeasureOptions, TrainOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use caller::Listener;

/// The engine's error as the package's exception of that kind.
fn raised(py: Python<'_>, error: &engine::Error) -> PyErr {
    use engine::Error;
    let class = match error {
        Error::Config { .. } => "ConfigError",
        Error::Data { .. } => "DataError",
        Error::Checkpoint { .. } => "CheckpointError",
        Error::Usage { .. } | Error::Shape { .. } => "UsageError",
        Error::Io { .. } => "FileError",
        Error::Memory { .. } | Error::DeviceMemory { .. } => "OutOfMemoryError",
        Error::Device { .. } | Error::DeviceLost { .. } => "DeviceError",
        Error::Diverged { .. } => "DivergedError",
        Error::Stopped { .. } | Error::StoppedEarly { .. } | Error::Internal(_) => "Error",
    };
    let made = py.import("srgan._errors").and_then(|module| module.getattr(class)?.call1((error.to_string(),)));
    made.map_or_else(|e| e, PyErr::from_value)
}

/// Where a configuration comes from: a file's path, or else text.
fn source<'a>(path: Option<&'a PathBuf>, text: Option<&'a str>) -> PyResult<ConfigSource<'a>> {
    match (path, text) {
        (Some(path), None) => Ok(ConfigSource::File(path)),
        (None, Some(text)) => Ok(ConfigSource::Text(text)),
        _ => Err(PyValueError::new_err("either a path or a text")),
    }
}

/// Runs the program `name` with arguments, its own name first; its exit code.
#[pyfunction]
fn run_program(py: Python<'_>, name: &str, arguments: Vec<OsString>, program: Option<PathBuf>) -> PyResult<u8> {
    let run = match name {
        "srgan" => cli::srgan,
        "srgan-train" => cli::srgan_train,
        _ => return Err(PyValueError::new_err("there is no such program")),
    };
    Ok(py.detach(|| run(arguments, program)))
}

/// A complete configuration as JSON, and warnings.
#[pyfunction]
fn load_config(
    py: Python<'_>,
    path: Option<PathBuf>,
    text: Option<&str>,
    overrides: Vec<String>,
) -> PyResult<(String, Vec<String>)> {
    let loaded = embed::load_config(source(path.as_ref(), text)?, &overrides);
    let json = loaded.and_then(|(cfg, warnings)| Ok((cfg.to_json()?.to_string(), warnings)));
    json.map_err(|e| raised(py, &e))
}

/// Where a run writes, and what it continues.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Place {
    run_dir: Option<PathBuf>,
    resume: Option<String>,
    accept_new_data: bool,
    program: Option<PathBuf>,
}

/// Trains; the run's folder, its steps, and whether the caller stopped it.
#[pyfunction]
fn train(
    py: Python<'_>,
    path: Option<PathBuf>,
    text: Option<&str>,
    overrides: Vec<String>,
    place: Place,
    on_step: Option<Py<PyAny>>,
    stderr: Option<Py<PyAny>>,
) -> PyResult<(PathBuf, u64, bool)> {
    let source = source(path.as_ref(), text)?;
    let Place { run_dir, resume, accept_new_data, program } = place;
    let options = TrainOptions { run_dir, resume, accept_new_data, program };
    let listener = Listener::default();
    let caller = listener.caller(on_step, stderr);
    let ended = py.detach(|| embed::train(source, &overrides, &options, caller));
    listener.raise()?;
    let run = ended.map_err(|e| raised(py, &e))?;
    Ok((run.folder, run.steps, run.stopped))
}

/// The metrics of each image: l1, psnr, ssim, sam, ergas. `shape` is images and (bands, rows, columns), `options` the
/// largest value, SSIM's window and the scale.
#[pyfunction]
fn measure(
    py: Python<'_>,
    sr: &[u8],
    hr: &[u8],
    shape: (usize, [usize; 3]),
    options: (f32, usize, usize),
) -> PyResult<Vec<[f64; 5]>> {
    let (max_val, ssim_win, scale) = options;
    let options = MeasureOptions { max_val, ssim_win, scale };
    let measured = py.detach(|| {
        let [sr, hr] = [sr, hr].map(bytemuck::pod_collect_to_vec::<u8, f32>);
        embed::measure((&sr, &hr), shape, &options)
    });
    let measured = measured.map_err(|e| raised(py, &e))?;
    Ok(measured.into_iter().map(|m| [m.l1, m.psnr, m.ssim, m.sam, m.ergas]).collect())
}

/// The package's engine.
#[pymodule]
fn _srgan(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<generator::Generator>()?;
    module.add_function(wrap_pyfunction!(run_program, module)?)?;
    module.add_function(wrap_pyfunction!(load_config, module)?)?;
    module.add_function(wrap_pyfunction!(train, module)?)?;
    module.add_function(wrap_pyfunction!(measure, module)?)
}
