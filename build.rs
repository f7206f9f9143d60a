//! Embeds the kernels: a table of the files in `kernels/`, the pointwise functions that they define, and a constant
//! (name, text) for each header in `kernels/include` and, with the feature `host-driver`, each file in `kernels/host`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("kernels");
    let mut code = kernels(&folder)?;
    code += &constants("include", "Headers of `kernels/include`.", &folder)?;
    if env::var_os("CARGO_FEATURE_HOST_DRIVER").is_some() {
        code += &constants("host", "What runs kernels on the host: the files of `kernels/host`.", &folder)?;
    }
    fs::write(Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("kernels.rs"), code)
}

/// The files of a folder with one of these extensions, by name.
fn files(folder: &Path, extensions: &[&str]) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
            found.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// `FILES` and `POINTWISE`.
fn kernels(folder: &Path) -> io::Result<String> {
    let mut table =
        String::from("/// Stem and text of every file in `kernels/`.\npub static FILES: &[(&str, &str)] = &[\n");
    let mut functions = String::from(
        "/// Every `POINTWISE` function and its file's stem.\npub static POINTWISE: &[(&str, &str)] = &[\n",
    );
    for (name, path) in files(folder, &["cu"])? {
        let stem = name.trim_end_matches(".cu");
        let _ = writeln!(table, "    ({stem:?}, include_str!({path:?})),");
        for line in fs::read_to_string(&path)?.lines() {
            if let Some((name, _)) = line.strip_prefix("POINTWISE(").and_then(|rest| rest.split_once(')')) {
                let _ = writeln!(functions, "    ({name:?}, {stem:?}),");
            }
        }
    }
    Ok(format!("{table}];\n\n{functions}];\n"))
}

/// A module of the folder's name with the constant `BF16_CUH` for `bf16.cuh`, and so on.
fn constants(name: &str, doc: &str, kernels: &Path) -> io::Result<String> {
    let mut code = format!("\n/// {doc}\npub mod {name} {{\n");
    for (file, path) in files(&kernels.join(name), &["cuh", "h", "cpp"])? {
        let constant = file.replace('.', "_").to_uppercase();
        let _ = writeln!(code, "    /// `{file}`: name and text.");
        let _ = writeln!(code, "    pub const {constant}: (&str, &str) = ({file:?}, include_str!({path:?}));");
    }
    Ok(code + "}\n")
}
