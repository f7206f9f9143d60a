//! The order of the modules in `src/`: what stands on a rung uses only what stands below it.
//!
//! The test reads the paths (`crate::…`, `super::super::…`) of all code that is not test code, prints the ladder, and
//! fails on an import that runs upwards or sideways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The rungs from the ground up. Modules on one rung do not know each other.
const LADDER: &[&[&str]] = &[
    &["error", "rng"],
    &["files", "metrics", "table", "testing", "types"],
    &["device"],
    &["graph"],
    &["ops"],
    &["autodiff", "plan"],
    &["runtime"],
    // Beside the engine: what users write and what a run leaves.
    &["config", "data"],
    &["checkpoint", "log", "nn", "loss"],
    &["train"],
    &["trained"],
    &["bench", "doctor", "evaluate", "export", "init", "inspect", "predict"],
    // The doors: command lines, and what other programs and languages call.
    &["cli", "embed"],
];

/// Within `device`, processors do not know each other.
const DEVICE: &[&[&str]] = &[&["peaks"], &["collective", "cpu", "cuda"]];

/// Within `device/cuda`.
const CUDA: &[&[&str]] =
    &[&["pointer", "sources"], &["launch"], &["driver"], &["libraries"], &["compile"], &["gpu", "host"]];

/// Module of a source file below `src/`, as path segments: `device/cuda/launch/mod.rs` is `[device, cuda, launch]`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

/// Code without comments and without what is compiled for tests alone.
fn product_code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.split("//").next().unwrap_or_default();
        if line.trim_start().starts_with("#[cfg(test)]") {
            skip_item(line, &mut lines);
            continue;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

/// Passes over the item behind an attribute: to the end of its braces, or to its semicolon.
fn skip_item<'a>(indented: &str, lines: &mut impl Iterator<Item = &'a str>) {
    let indent = indented.len() - indented.trim_start().len();
    for line in lines {
        let is_end = line.len() - line.trim_start().len() == indent && (line.ends_with('}') || line.ends_with(';'));
        if is_end {
            return;
        }
    }
}

/// Modules that `code` names, as paths from the crate's root; `module` is where it stands.
fn names(code: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // The end of another name, as in `my_crate::`.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        branches(&code[at + "crate::".len()..], &[], &mut found);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let rest = &code[at..];
        let steps = rest.split("::").take_while(|s| *s == "super").count();
        let base = &module[..module.len().saturating_sub(steps)];
        branches(&rest[steps * "super::".len()..], base, &mut found);
    }
    found
}

/// The paths of a `use` tree behind `base`: `a::{b, c::d}`.
fn branches(tree: &str, base: &[String], found: &mut BTreeSet<Vec<String>>) {
    let name: String = tree.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let rest = &tree[name.len()..];
    let mut path = base.to_vec();
    if !name.is_empty() {
        path.push(name);
    }
    if let Some(next) =
        rest.strip_prefix("::").or(if base == path { rest.strip_prefix('{').map(|_| rest) } else { None })
    {
        match next.strip_prefix('{') {
            Some(inside) => parts(inside).for_each(|part| branches(part.trim(), &path, found)),
            None => branches(next, &path, found),
        }
    } else {
        found.insert(path);
    }
}

/// The comma-separated parts up to the brace that closes.
fn parts(inside: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut cuts, mut end) = (0usize, vec![0], inside.len());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                end = at;
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => cuts.push(at + 1),
            _ => {}
        }
    }
    let ends: Vec<usize> = cuts.iter().skip(1).map(|cut| cut - 1).chain([end]).collect();
    cuts.into_iter().zip(ends).map(|(from, to)| &inside[from..to]).filter(|part| !part.trim().is_empty())
}

/// The rung of a module, if it has one.
fn rung(ladder: &[&[&str]], module: &str) -> Option<usize> {
    ladder.iter().position(|rung| rung.contains(&module))
}

/// What is wrong with the imports of `files`, pairs of a path below `src/` and a text.
fn faults(files: &BTreeMap<String, String>) -> Vec<String> {
    let modules: BTreeSet<Vec<String>> = files.keys().map(|file| module_of(file)).collect();
    let mut faults = Vec::new();
    for (file, text) in files {
        let module = module_of(file);
        let [top, ..] = &module[..] else { continue };
        if top == "lib" || top == "bin" {
            continue;
        }
        if rung(LADDER, top).is_none() {
            faults.push(format!("src/{file}: module {top} stands on no rung"));
        }
        for path in names(&product_code(text), &module) {
            faults.extend(fault(&module, &path, &modules).map(|fault| format!("src/{file}: {fault}")));
        }
    }
    faults
}

/// What is wrong with naming `path` from `module`.
fn fault(module: &[String], path: &[String], modules: &BTreeSet<Vec<String>>) -> Option<String> {
    let inside = |ladder: &[&[&str]], depth: usize| {
        let (from, to) = (module.get(depth)?, path.get(depth)?);
        // Names that are no module: items of the crate's root.
        if from == to || !modules.iter().any(|m| m.starts_with(&path[..=depth])) {
            return None;
        }
        match (rung(ladder, from), rung(ladder, to)) {
            (Some(here), Some(there)) if there < here => None,
            _ => Some(format!("{from} uses {}, which does not stand below it", path.join("::"))),
        }
    };
    let both = |folder: &[&str]| {
        module.iter().zip(folder).all(|(a, b)| a == b) && path.iter().zip(folder).all(|(a, b)| a == b)
    };
    let within_device = || both(&["device"]).then(|| inside(DEVICE, 1)).flatten();
    let within_cuda = || both(&["device", "cuda"]).then(|| inside(CUDA, 2)).flatten();
    inside(LADDER, 0).or_else(within_device).or_else(within_cuda)
}

/// Every source file below `src/` that is not test code.
fn sources(folder: &Path, base: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, base, into);
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
            let file = path.strip_prefix(base).unwrap().to_string_lossy().into_owned();
            into.insert(file, fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn imports_run_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    sources(&src, &src, &mut files);
    assert!(files.len() > 150, "only {} files were read", files.len());
    let mut ladder = String::new();
    for rung in LADDER.iter().rev() {
        let _ = writeln!(ladder, "  {}", rung.join("  "));
    }
    println!("the ladder, what is above uses what is below:\n{ladder}");
    let faults = faults(&files);
    assert!(faults.is_empty(), "{}\n\nthe ladder:\n{ladder}", faults.join("\n"));
}

/// The test above can fail: each of these is found.
#[test]
fn planted_faults_are_found() {
    let planted = |file: &str, text: &str| {
        let mut files: BTreeMap<String, String> = LADDER
            .iter()
            .flat_map(|rung| rung.iter())
            .map(|module| (format!("{module}/mod.rs"), String::new()))
            .collect();
        files.insert("device/cpu/mod.rs".into(), String::new());
        files.insert("device/cuda/mod.rs".into(), String::new());
        files.insert("device/cuda/driver.rs".into(), String::new());
        files.insert(file.to_owned(), text.to_owned());
        faults(&files)
    };
    for (file, text, found) in [
        ("ops/add.rs", "use crate::plan::Plan;\n", "ops uses plan::Plan"),
        ("graph/tape.rs", "use crate::{Error, ops::add::Add};\n", "graph uses ops::add::Add"),
        (
            "device/mod.rs",
            "use crate::{\n    types::Shape,\n    runtime::{cpu, Cpu},\n};\n",
            "device uses runtime::cpu",
        ),
        ("plan/mod.rs", "fn f() { crate::train::run() }\n", "plan uses train::run"),
        ("log/mod.rs", "use crate::checkpoint::Meta;\n", "log uses checkpoint::Meta"),
        ("types/shape.rs", "use super::super::graph::Tape;\n", "types uses graph::Tape"),
        ("device/cpu/pool.rs", "use super::super::cuda::Args;\n", "cpu uses device::cuda::Args"),
        ("device/cuda/launch/mod.rs", "use crate::device::cuda::driver::Driver;\n", "launch uses device::cuda::driver"),
        ("device/cuda/args.rs", "use crate::device::cpu::View;\n", "cuda uses device::cpu::View"),
        ("models/mod.rs", "", "module models stands on no rung"),
    ] {
        let all = planted(file, text);
        assert!(all.iter().any(|fault| fault.contains(found)), "{file}: {text:?} gives {all:?}");
    }
    for (file, text) in [
        ("train/run.rs", "use crate::plan::{Plan, Step};\nuse crate::{Error, Result};\n"),
        ("ops/add.rs", "#[cfg(test)]\nmod tests {\n    use crate::runtime::Cpu;\n}\n"),
        ("ops/mul.rs", "#[cfg(test)]\nuse crate::plan::Plan;\n// crate::train\n"),
    ] {
        assert_eq!(planted(file, text), Vec::<String>::new(), "{file}");
    }
}
