//! Where CUDA's libraries and headers may lie: toolkits and Python packages, found without running Python and
//! without `LD_LIBRARY_PATH`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Reads a variable of the process's environment. Only the binaries read it themselves.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Root folders of CUDA packages, best first: those named by the user, those of Python environments, those of the
/// system. A root has its libraries in `lib` or `lib64` and its headers in `include`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    roots: Vec<PathBuf>,
}

impl SearchPath {
    /// Looks in `CUDA_HOME` and `CUDA_PATH`; in the packages `nvidia-*` of the active virtual environment
    /// (`VIRTUAL_ENV`, `CONDA_PREFIX`), of `python3` on `PATH` and of the user (`~/.local`); in `/usr/local/cuda`.
    pub fn new(env: Env) -> SearchPath {
        let folder = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut found = SearchPath::default();
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|v| folder(v)).for_each(|root| found.add(root));
        let mut prefixes: Vec<_> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|v| folder(v)).collect();
        prefixes
            .extend(env("PATH").iter().flat_map(std::env::split_paths).find_map(python_prefixes).into_iter().flatten());
        prefixes.extend(folder("HOME").map(|home| home.join(".local")));
        for prefix in prefixes {
            let packages = site_packages(&prefix);
            packages.iter().flat_map(|p| children(&p.join("nvidia"))).for_each(|root| found.add(root));
            // Conda's own packages lie beside Python.
            if prefix.join("conda-meta").is_dir() {
                found.add(prefix);
            }
        }
        found.add("/usr/local/cuda".into());
        found
    }

    /// One root, and no other.
    pub fn only(root: impl Into<PathBuf>) -> SearchPath {
        SearchPath { roots: vec![root.into()] }
    }

    /// The files among `names` that exist, best first.
    pub fn libraries(&self, names: &[&str]) -> Vec<PathBuf> {
        let folders = self.roots.iter().flat_map(|root| subfolders(root, &["lib64", "lib"], "lib"));
        folders.flat_map(|f| names.iter().map(move |name| f.join(name))).filter(|path| path.is_file()).collect()
    }

    /// The folder of headers that has `name`; `near`, the path of a library, is looked at first, so that headers
    /// and libraries are of one version.
    pub fn headers(&self, name: &str, near: &Path) -> Option<PathBuf> {
        let mut beside: Vec<_> = near.ancestors().skip(1).take(3).map(|a| a.join("include")).collect();
        beside.extend(self.roots.iter().flat_map(|root| subfolders(root, &["include"], "include")));
        beside.into_iter().find(|folder| folder.join(name).is_file())
    }

    fn add(&mut self, root: PathBuf) {
        if root.is_dir() && !self.roots.contains(&root) {
            self.roots.push(root);
        }
    }
}

/// `names` below a root, and `name` below each of its `targets`, as in NVIDIA's own packages.
fn subfolders(root: &Path, names: &[&str], name: &str) -> Vec<PathBuf> {
    let direct = names.iter().map(|n| root.join(n));
    direct.chain(children(&root.join("targets")).into_iter().map(|target| target.join(name))).collect()
}

/// The prefixes that `folder/python3` may belong to: its own, if it is a link in a virtual environment, and that of
/// the file behind the link.
fn python_prefixes(folder: PathBuf) -> Option<Vec<PathBuf>> {
    let python = folder.join("python3");
    let real = python.canonicalize().ok()?;
    let prefix = |p: &Path| p.parent().and_then(Path::parent).map(Path::to_owned);
    Some([prefix(&python), prefix(&real)].into_iter().flatten().collect())
}

/// Folders of installed packages of all Pythons under a prefix, the newest Python's first.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64", "local/lib"].map(|l| prefix.join(l)) {
        let mut pythons = children(&lib);
        pythons.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
        pythons.sort_by_key(|p| std::cmp::Reverse(minor_version(p)));
        found.extend(pythons.iter().flat_map(|p| ["site-packages", "dist-packages"].map(|s| p.join(s))));
    }
    found
}

/// The 11 of `python3.11`; 0 for `python3`.
fn minor_version(python: &Path) -> u32 {
    let name = python.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("python3.").and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The folders in a folder, in the order of their names; none if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    const NVRTC: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12"];

    fn touch(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    }

    fn search(variables: &[(&str, &Path)]) -> SearchPath {
        let variables: BTreeMap<&str, OsString> = variables.iter().map(|(n, p)| (*n, p.into())).collect();
        SearchPath::new(&|name| variables.get(name).cloned())
    }

    #[test]
    fn the_users_choice_comes_before_python_and_the_newest_python_first() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let old = touch(at("venv/lib/python3.9/site-packages/nvidia/cu13/lib/libnvrtc.so.13"));
        let new = touch(at("venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
        let toolkit = touch(at("toolkit/targets/x86_64-linux/lib/libnvrtc.so.12"));
        let user = touch(at("home/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"));
        touch(at("venv/lib/python3.11/site-packages/other/lib/libnvrtc.so.13"));
        let found = search(&[
            ("HOME", &at("home")),
            ("VIRTUAL_ENV", &at("venv")),
            ("CUDA_HOME", &at("toolkit")),
            ("CUDA_PATH", &at("nothing")),
        ]);
        let found: Vec<_> = found.libraries(NVRTC).into_iter().filter(|p| p.starts_with(dir.path())).collect();
        assert_eq!(found, [toolkit, new, old, user]);
    }

    #[cfg(unix)]
    #[test]
    fn python_on_the_path_leads_to_its_packages() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let python = touch(at("base/bin/python3.11"));
        let base = touch(at("base/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"));
        let venv = touch(at("venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"));
        fs::create_dir_all(at("venv/bin")).unwrap();
        std::os::unix::fs::symlink(python, at("venv/bin/python3")).unwrap();
        let path = std::env::join_paths([at("empty"), at("venv/bin")]).unwrap();
        let found = search(&[("PATH", Path::new(&path))]);
        let found: Vec<_> = found.libraries(NVRTC).into_iter().filter(|p| p.starts_with(dir.path())).collect();
        // The second is named by the interpreter's canonical path.
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], venv);
        assert_eq!(found[1].canonicalize().unwrap(), base.canonicalize().unwrap());
    }

    #[test]
    fn headers_beside_the_library_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let library = touch(at("b/lib/libnvrtc.so.13"));
        touch(at("a/include/cuda_bf16.h"));
        let path = search(&[("CUDA_HOME", &at("a")), ("CUDA_PATH", &at("b"))]);
        assert_eq!(path.headers("cuda_bf16.h", &library), Some(at("a/include")));
        touch(at("b/include/cuda_bf16.h"));
        assert_eq!(path.headers("cuda_bf16.h", &library), Some(at("b/include")));
        assert_eq!(path.headers("no_such.h", &library), None);
    }

    #[test]
    fn nothing_named_finds_nothing_and_does_not_fail() {
        let found = search(&[("HOME", Path::new("/no/such/folder")), ("PATH", Path::new(""))]);
        assert!(found.libraries(&["libno_such_library.so.1"]).is_empty());
    }
}
