//! Names of the files that belong to a map.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Part, PredictOptions};
use crate::data::source;
use crate::{Error, Result};

/// Where the maps of `inputs` go: to the file `out`, or into the folder `out` under the scenes' names.
///
/// # Errors
/// If `out` is a file and there are several scenes, is of another kind, or two scenes have one name.
pub(super) fn outputs(inputs: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>> {
    let kind = out.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let is_map = matches!(kind.as_deref(), Some("tif" | "tiff" | "npy"));
    if is_map && !out.is_dir() {
        return match inputs {
            [_] => Ok(vec![out.to_owned()]),
            _ => Err(Error::usage(format!("{} scenes cannot become one file", inputs.len()))
                .with_hint("name a folder with -o")),
        };
    }
    if let (Some(kind), false) = (kind, out.is_dir()) {
        return Err(
            Error::usage(format!("maps are .tif or .npy files, not .{kind}")).with_hint("name one, or a folder")
        );
    }
    let mut outputs: Vec<PathBuf> = Vec::new();
    for input in inputs {
        let is_array =
            input.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy") || e.eq_ignore_ascii_case("npz"));
        let mut name = source::stem(input);
        name.push_str(if is_array { ".npy" } else { ".tif" });
        let output = out.join(name);
        if outputs.contains(&output) {
            return Err(Error::usage(format!("two scenes would become {}", output.display()))
                .with_hint("map them one by one, into different folders"));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// Refuses to map a scene onto itself, and to replace what is there unless that is wanted.
///
/// # Errors
/// If so.
pub(super) fn check(input: &Path, output: &Path, options: &PredictOptions) -> Result<()> {
    let is_scene = |path: &Path| input.canonicalize().is_ok_and(|input| path.canonicalize().ok() == Some(input));
    if is_scene(output) {
        return Err(Error::usage("the map would replace its own scene").with_hint("name another file with -o"));
    }
    let picture = Some(picture(output)).filter(|_| options.preview);
    if picture.as_deref().is_some_and(is_scene) {
        return Err(
            Error::usage("the picture of --preview would replace the scene").with_hint("name another file with -o")
        );
    }
    let unfinished = working(output, options.part);
    let mut written = [final_name(output, options.part), unfinished.clone()].into_iter().chain(picture);
    let taken = written.find(|path| path.exists());
    match taken {
        Some(path) if !options.resume && !options.overwrite => {
            let what = if path == unfinished { "an unfinished map is here" } else { "this file exists" };
            Err(Error::data(path, what).with_hint("--resume goes on with it, --overwrite starts over"))
        }
        _ => Ok(()),
    }
}

/// What is there at the end: the map, or its part.
pub(super) fn final_name(output: &Path, part: Option<Part>) -> PathBuf {
    let Some(Part { index, count }) = part else { return output.to_owned() };
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(format!(".part-{index}-of-{count}"));
    output.with_file_name(name)
}

/// The working file of a map or of its part.
pub(super) fn working(output: &Path, part: Option<Part>) -> PathBuf {
    let path = final_name(output, part);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".work");
    path.with_file_name(name)
}

/// The picture beside a map.
pub(super) fn picture(output: &Path) -> PathBuf {
    output.with_extension("png")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_named_by_the_user_or_by_their_scenes() {
        let named = |inputs: &[&str], out: &str| {
            let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
            outputs(&inputs, Path::new(out)).map_err(|e| e.to_string())
        };
        assert_eq!(named(&["a.tif"], "x/m.tiff"), Ok(vec!["x/m.tiff".into()]));
        assert_eq!(named(&["d/a.jp2", "b.npy"], "x"), Ok(vec!["x/a.tif".into(), "x/b.npy".into()]));
        assert!(named(&["a.tif", "b.tif"], "m.tif").unwrap_err().contains("cannot become one file"));
        assert!(named(&["a/s.tif", "b/s.tif"], "x").unwrap_err().contains("two scenes would become"));
        assert!(named(&["a.tif"], "m.png").unwrap_err().contains("not .png"));
    }

    #[test]
    fn parts_stand_beside_the_map() {
        let second = Part { index: 2, count: 8 };
        let part = Some(second);
        assert_eq!(final_name(Path::new("x/m.tif"), part), Path::new("x/m.tif.part-2-of-8"));
        assert_eq!(working(Path::new("m.tif"), None), Path::new(".m.tif.work"));
        assert_eq!(working(Path::new("x/m.tif"), part), Path::new("x/.m.tif.part-2-of-8.work"));
        assert_eq!("2/8".parse(), Ok(second));
        for wrong in ["0/3", "4/3", "3", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().unwrap_err().contains("is no part"), "{wrong}");
        }
    }
}
