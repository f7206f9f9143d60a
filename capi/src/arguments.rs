//! What C hands over, checked.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use engine::{Error, Result};

fn null(name: &str) -> Error {
    Error::usage(format!("{name} is a null pointer"))
}

/// The text behind a pointer that may be null.
///
/// # Safety
/// Null, or a text that ends with a NUL and stays as it is during the call.
pub unsafe fn optional<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: not null; the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

/// The path behind a pointer that may be null.
///
/// # Safety
/// As [`optional`].
pub unsafe fn optional_path(text: *const c_char) -> Option<PathBuf> {
    // SAFETY: the caller's promise.
    unsafe { optional(text) }.map(|text| OsStr::from_bytes(text.to_bytes()).into())
}

/// The path behind a pointer.
///
/// # Errors
/// If it is null.
///
/// # Safety
/// As [`optional`].
pub unsafe fn path(text: *const c_char, name: &str) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    unsafe { optional_path(text) }.ok_or_else(|| null(name))
}

/// A text in UTF-8.
///
/// # Errors
/// If it is none.
pub fn utf8(text: &CStr, name: &str) -> Result<String> {
    text.to_str().map(str::to_owned).map_err(|_| Error::usage(format!("{name} is not UTF-8 text")))
}

/// Texts behind an array of pointers.
///
/// # Errors
/// If the array or one of them is null, or not UTF-8.
///
/// # Safety
/// `texts` is null, or `count` pointers, each as in [`optional`].
pub unsafe fn texts(texts: *const *const c_char, count: usize, name: &str) -> Result<Vec<String>> {
    // SAFETY: the caller's promise.
    let all = unsafe { slice(texts, count, name) }?;
    // SAFETY: the caller's promise.
    all.iter().map(|text| utf8(unsafe { optional(*text) }.ok_or_else(|| null(name))?, name)).collect()
}

/// The elements behind a pointer; of none it may be null.
///
/// # Errors
/// If it is null, or lies where no such element can.
///
/// # Safety
/// Null, or `count` elements that nobody changes during the call.
pub unsafe fn slice<'a, T>(first: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(first, count, name)?;
    // SAFETY: neither null nor misplaced, nor longer than any memory; the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// The same to be written.
///
/// # Errors
/// As [`slice`].
///
/// # Safety
/// Null, or `count` elements that nobody else reads or changes during the call.
pub unsafe fn slice_mut<'a, T>(first: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(first, count, name)?;
    // SAFETY: as in `slice`.
    Ok(unsafe { std::slice::from_raw_parts_mut(first, count) })
}

fn check<T>(first: *const T, count: usize, name: &str) -> Result<()> {
    if first.is_null() {
        return Err(null(name));
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
    if !first.is_aligned() || bytes.is_none_or(|bytes| first.addr().checked_add(bytes).is_none()) {
        return Err(Error::usage(format!("{name} does not point to {count} elements")));
    }
    Ok(())
}

/// What a pointer shows.
///
/// # Errors
/// If it is null.
///
/// # Safety
/// Null, or to a value that stays as it is during the call.
pub unsafe fn reference<'a, T>(value: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    Ok(&unsafe { slice(value, 1, name) }?[0])
}

/// Refuses flags that the call does not know.
///
/// # Errors
/// If there are any.
pub fn check_flags(flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Error::usage(format!("flags {unknown:#x} mean nothing to this function"))),
    }
}
