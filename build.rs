//! Embeds the kernels: a table of the files in `kernels/`, and of the pointwise functions that they define.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("kernels");
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<io::Result<_>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut table =
        String::from("/// Stem and text of every file in `kernels/`.\npub static FILES: &[(&str, &str)] = &[\n");
    let mut functions = String::from(
        "/// Every `POINTWISE` function and its file's stem.\npub static POINTWISE: &[(&str, &str)] = &[\n",
    );
    for path in files.iter().map(fs::DirEntry::path).filter(|p| p.extension().is_some_and(|e| e == "cu")) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(table, "    ({stem:?}, include_str!({path:?})),");
        for line in fs::read_to_string(&path)?.lines() {
            if let Some((name, _)) = line.strip_prefix("POINTWISE(").and_then(|rest| rest.split_once(')')) {
                let _ = writeln!(functions, "    ({name:?}, {stem:?}),");
            }
        }
    }
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("kernels.rs");
    fs::write(out, format!("{table}];\n\n{functions}];\n"))
}
