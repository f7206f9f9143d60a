//! A trained generator.

use std::ffi::{CString, c_char};
use std::ptr;

use engine::embed::{self, OpenOptions, Pixels};
use engine::log::Messages;
use engine::predict::PredictOptions;
use engine::{Error, Result};

use crate::arguments::{check_flags, optional_path, path, reference, slice, slice_mut, texts};
use crate::errors::{Status, c_text, guarded};
use crate::messages::{messages, program};
use crate::{SRGAN_FORCE, SRGAN_LIVE, SRGAN_OVERWRITE, SRGAN_RAW, SRGAN_RESUME};

/// A trained generator on a device. It may be used from several threads; calls are done one after the other.
pub struct Generator {
    inner: embed::Generator,
    bands: Vec<CString>,
    normalisation: CString,
    description: CString,
}

/// Extent of images: an array images × bands × rows × columns without gaps, columns innermost.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Images.
    pub images: usize,
    /// Bands of each.
    pub bands: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Opens a checkpoint: a .safetensors file of this program, the folder of a run (its last checkpoint), or, with its YAML as
/// `config`, a .ckpt of opensr-srgan; `config` is null otherwise. `overrides` are `override_count` texts such as
/// "Training.device=cpu" or "Training.num_threads=2" that say where to run; null if there are none. `flags`: SRGAN_LIVE.
/// The generator is put to `*generator`, for srgan_generator_close(); after an error that is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_open(
    checkpoint: *const c_char,
    config: *const c_char,
    overrides: *const *const c_char,
    override_count: usize,
    flags: u32,
    generator: *mut *mut Generator,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let target = unsafe { slice_mut(generator, 1, "generator") }?;
        target[0] = ptr::null_mut();
        check_flags(flags, SRGAN_LIVE)?;
        // SAFETY: the caller's promise.
        let (checkpoint, config, overrides) = unsafe {
            (path(checkpoint, "checkpoint")?, optional_path(config), texts(overrides, override_count, "overrides")?)
        };
        let live = flags & SRGAN_LIVE != 0;
        let options = OpenOptions { config, overrides, live, program: program(), messages: messages() };
        target[0] = Box::into_raw(Box::new(Generator::open(&checkpoint, &options)?));
        Ok(())
    })
}

impl Generator {
    fn open(checkpoint: &std::path::Path, options: &OpenOptions) -> Result<Generator> {
        let inner = embed::Generator::open(checkpoint, options)?;
        let bands = inner.band_names().iter().map(|name| c_text(name)).collect();
        let (normalisation, description) = (c_text(inner.normalisation()), c_text(inner.description()));
        Ok(Generator { inner, bands, normalisation, description })
    }

    fn run(&self, (lr, sr): (&[f32], &mut [f32]), shape: Shape, flags: u32) -> Result<()> {
        check_flags(flags, SRGAN_RAW)?;
        if shape.bands != self.inner.bands() {
            let message = format!("the images have {} bands, and the generator {}", shape.bands, self.inner.bands());
            return Err(Error::usage(message).with_hint("an array is images × bands × rows × columns"));
        }
        let pixels = if flags & SRGAN_RAW != 0 { Pixels::Raw } else { Pixels::Normalised };
        self.inner.run((lr, sr), (shape.images, (shape.height, shape.width)), pixels, &mut || false)
    }
}

/// Closes a generator; null is nothing to close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_close(generator: *mut Generator) {
    guarded(|| {
        if !generator.is_null() {
            // SAFETY: the caller's promise: `srgan_generator_open` made it, and nobody uses it any more.
            drop(unsafe { Box::from_raw(generator) });
        }
        Ok(())
    });
}

/// A property of a generator; `none` for a null pointer.
unsafe fn property<T>(generator: *const Generator, none: T, of: impl FnOnce(&Generator) -> T) -> T {
    let mut value = none;
    guarded(|| {
        // SAFETY: the caller's promise.
        value = of(unsafe { reference(generator, "generator") }?);
        Ok(())
    });
    value
}

/// Bands of an image; 0 if `generator` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_bands(generator: *const Generator) -> usize {
    // SAFETY: the caller's promise.
    unsafe { property(generator, 0, |g| g.inner.bands()) }
}

/// Name or number of band `band`, from 0, in the files of the training; null if there is no such band. The text lives as
/// long as the generator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_band_name(generator: *const Generator, band: usize) -> *const c_char {
    let name = |g: &Generator| g.bands.get(band).map_or(ptr::null(), |name| name.as_ptr());
    // SAFETY: the caller's promise.
    unsafe { property(generator, ptr::null(), name) }
}

/// Pixels of the output per pixel of the input along a side; 0 if `generator` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_scale(generator: *const Generator) -> usize {
    // SAFETY: the caller's promise.
    unsafe { property(generator, 0, |g| g.inner.scale()) }
}

/// Steps of training; 0 if the file does not say, or `generator` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_step(generator: *const Generator) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { property(generator, 0, |g| g.inner.step()) }
}

/// Name of the normalisation, as "normalise_10k"; null if `generator` is. The text lives as long as the generator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_normalisation(generator: *const Generator) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { property(generator, ptr::null(), |g| g.normalisation.as_ptr()) }
}

/// Which weights run where, for people; null if `generator` is. The text lives as long as the generator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_description(generator: *const Generator) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { property(generator, ptr::null(), |g| g.description.as_ptr()) }
}

/// Super-resolves images in memory: `lr` is an array of `shape`, `sr` memory for `sr_length` floats, which must be
/// images × bands × (scale·height) × (scale·width). The two may not overlap. Pixels are normalised ones, as the network reads
/// and writes them; with SRGAN_RAW in `flags` those of the files of the training. An image's result does not depend on the
/// others. After an error `sr` holds anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_run(
    generator: *const Generator,
    lr: *const f32,
    shape: Shape,
    flags: u32,
    sr: *mut f32,
    sr_length: usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let generator = unsafe { reference(generator, "generator") }?;
        let sides = [shape.images, shape.bands, shape.height, shape.width];
        let count = sides.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
        let count = count.ok_or_else(|| Error::usage("shape has more elements than any memory"))?;
        let distance = lr.addr().abs_diff(sr.addr());
        let first = if lr.addr() < sr.addr() { count } else { sr_length };
        if count > 0 && !lr.is_null() && !sr.is_null() && distance / size_of::<f32>() < first {
            return Err(Error::usage("lr and sr overlap"));
        }
        // SAFETY: the caller's promise; they lie apart.
        let (lr, sr) = unsafe { (slice(lr, count, "lr")?, slice_mut(sr, sr_length, "sr")?) };
        generator.run((lr, sr), shape, flags)
    })
}

/// Maps a scene (GeoTIFF, .npy and what else training reads) as `srgan predict` does: to the file `out` (.tif or .npy), or
/// into the folder `out` under the scene's name. `flags`: SRGAN_OVERWRITE, SRGAN_RESUME, SRGAN_FORCE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_generator_predict(
    generator: *const Generator,
    scene: *const c_char,
    out: *const c_char,
    flags: u32,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (generator, scene, out) =
            unsafe { (reference(generator, "generator")?, path(scene, "scene")?, path(out, "out")?) };
        check_flags(flags, SRGAN_OVERWRITE | SRGAN_RESUME | SRGAN_FORCE)?;
        let has = |flag: u32| flags & flag != 0;
        let (overwrite, resume, force) = (has(SRGAN_OVERWRITE), has(SRGAN_RESUME), has(SRGAN_FORCE));
        if overwrite && resume {
            return Err(Error::usage("SRGAN_OVERWRITE and SRGAN_RESUME exclude each other"));
        }
        let options = PredictOptions { overwrite, resume, force, ..PredictOptions::default() };
        let messages = messages().unwrap_or_else(Messages::stderr);
        generator.inner.predict((&scene, &out), &options, Some(messages), &mut || false).map(|_| ())
    })
}
