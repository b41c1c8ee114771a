//! Where NCCL lies.
//!
//! Its packages keep it as `libnccl.so.2`; the name without the 2 is there for linkers only. First comes what the caller
//! says, then what everything else in this process has, or would get: a second copy of NCCL in one process is asking for
//! trouble. PyTorch loads its own, so a process with PyTorch in it has it already. What Python's packages carry is no place
//! where the loader looks, and comes last.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use libloading::os::unix;

use super::library::{Library, unavailable};
use crate::error::Result;

/// The name that NCCL's packages give it.
const NAME: &str = "libnccl.so.2";
/// A path that is taken, and no other.
const VARIABLE: &str = "TILEWEAVE_NCCL";
/// Below a folder of Python packages: NVIDIA's wheels, and PyTorch's builds that carry it themselves.
const IN_PACKAGES: [&str; 2] = ["nvidia/nccl/lib", "torch/lib"];
/// `RTLD_NOLOAD` of glibc and musl: only what is loaded already.
const NOLOAD: i32 = 4;

/// A library that was opened, or what the loader says.
fn dlopen(name: &OsStr, flags: i32) -> Result<unix::Library, String> {
    // SAFETY: loading runs the library's initialisers; one of this name, or of the caller's choice, is NCCL, whose
    // initialisers may run at any time on any thread.
    unsafe { unix::Library::open(Some(name), unix::RTLD_NOW | unix::RTLD_LOCAL | flags) }
        .map_err(|error| std::error::Error::source(&error).map_or(error.to_string(), |why| why.to_string()))
}

/// The one of this name or path.
pub(super) fn open(name: &OsStr) -> Result<Library, String> {
    Library::complete(dlopen(name, 0)?, name.to_string_lossy().into_owned())
}

/// 12 of "python3.12", and of "python3.12t"; 0 of "python3", which Debian has.
fn python_minor(folder: &str) -> Option<u32> {
    let rest = folder.strip_prefix("python3")?;
    let digits = rest.strip_prefix('.').unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some(digits[..end].parse().unwrap_or(0))
}

/// Folders of Python packages that the environment points to, by what points there.
fn packages(variable: &impl Fn(&str) -> Option<OsString>) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let listed = variable("PYTHONPATH").unwrap_or_default();
    let listed = std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty());
    found.extend(listed.map(|path| ("PYTHONPATH".to_string(), path)));
    let mut prefixes: Vec<(&str, PathBuf)> = Vec::new();
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        prefixes.extend(
            variable(name)
                .filter(|value| !value.is_empty())
                .map(|value| (name, value.into())),
        );
    }
    prefixes.extend(variable("HOME").map(|home| ("HOME", Path::new(&home).join(".local"))));
    prefixes.push(("system", PathBuf::from("/usr/local")));
    for (name, prefix) in prefixes {
        // Conda's own package of NCCL.
        if name == "CONDA_PREFIX" {
            found.push((name.to_string(), prefix.clone()));
        }
        // Several Pythons of one prefix: the newest first, of python3.9 and python3.12 the latter.
        let entries = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        let mut pythons: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| Some((python_minor(&entry.file_name().to_string_lossy())?, entry.path())))
            .collect();
        pythons.sort_by(|a, b| b.cmp(a));
        for (_, python) in pythons {
            found.extend(["site-packages", "dist-packages"].map(|folder| (name.to_string(), python.join(folder))));
        }
    }
    found
}

/// Files of the name that are there, by what points there.
fn files(name: &str, variable: &impl Fn(&str) -> Option<OsString>) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for (by, folder) in packages(variable) {
        let places = IN_PACKAGES.into_iter().chain((by == "CONDA_PREFIX").then_some("lib"));
        for file in places.map(|place| folder.join(place).join(name)) {
            if file.is_file() && found.iter().all(|(_, known)| *known != file) {
                found.push((by.clone(), file));
            }
        }
    }
    found
}

/// The first library that can be used, in an environment of these variables.
pub(super) fn find(variable: impl Fn(&str) -> Option<OsString>) -> Result<Library> {
    find_as(NAME, variable)
}

fn find_as(name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Library> {
    if let Some(path) = variable(VARIABLE).filter(|path| !path.is_empty()) {
        let shown = path.to_string_lossy();
        return open(&path).map_err(|reason| unavailable(format!("{shown}, which {VARIABLE} names: {reason}")));
    }
    let mut tried = Vec::new();
    match dlopen(OsStr::new(name), NOLOAD) {
        Err(_) => tried.push(format!("no {name} is loaded in this process")),
        Ok(loaded) => match Library::complete(loaded, format!("{name}, loaded before")) {
            Ok(library) => return Ok(library),
            Err(reason) => tried.push(format!("the {name} that this process has loaded: {reason}")),
        },
    }
    match open(OsStr::new(name)) {
        Ok(library) => return Ok(library),
        Err(reason) => tried.push(format!(
            "where the loader looks (LD_LIBRARY_PATH, ld.so.conf): {reason}"
        )),
    }
    let files = files(name, &variable);
    if files.is_empty() {
        tried.push(
            "none in the packages of Python (PYTHONPATH, VIRTUAL_ENV, CONDA_PREFIX, ~/.local, /usr/local)".into(),
        );
    }
    for (by, file) in files {
        match open(file.as_os_str()) {
            Ok(library) => return Ok(library),
            Err(reason) => tried.push(format!("{} ({by}): {reason}", file.display())),
        }
    }
    let help = format!("install nvidia-nccl-cu12 or libnccl2, or let {VARIABLE} name the file");
    Err(unavailable(format!("{}; {help}", tried.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no machine, whatever NCCL it has.
    const FILE: &str = "libnccl-test.so.2";

    /// A folder of its own, gone in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("tileweave-search-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            Folder(folder)
        }

        fn file(&self, path: &str) -> PathBuf {
            let file = self.0.join(path);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("folders");
            std::fs::write(&file, "no library").expect("a file");
            file
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_layouts_of_wheels_pytorch_and_conda_in_order() {
        let folder = Folder::new("layouts");
        let listed = folder.file("listed/nvidia/nccl/lib/libnccl-test.so.2");
        let wheel = folder.file("venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl-test.so.2");
        let torch = folder.file("venv/lib/python3.12/site-packages/torch/lib/libnccl-test.so.2");
        let conda = folder.file("conda/lib/libnccl-test.so.2");
        let user = folder.file("home/.local/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl-test.so.2");
        let free_threaded = folder.file("venv/lib/python3.9t/site-packages/nvidia/nccl/lib/libnccl-test.so.2");
        let older = folder.file("venv/lib/python3.9/site-packages/nvidia/nccl/lib/libnccl-test.so.2");
        folder.file("venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl-test.so");
        let variable = |name: &str| {
            Some(match name {
                "PYTHONPATH" => {
                    std::env::join_paths([folder.0.join("absent"), folder.0.join("listed")]).expect("paths")
                }
                "VIRTUAL_ENV" => folder.0.join("venv").into(),
                "CONDA_PREFIX" => folder.0.join("conda").into(),
                "HOME" => folder.0.join("home").into(),
                _ => return None,
            })
        };
        let found: Vec<PathBuf> = files(FILE, &variable).into_iter().map(|(_, file)| file).collect();
        assert!(
            found.starts_with(&[listed, wheel, torch, free_threaded, older, conda, user]),
            "{found:?}"
        );
        let here = |name: &str| variable(name).filter(|_| name == "PYTHONPATH");
        let message = find_as(FILE, here).expect_err("no library").to_string();
        for part in [
            "is loaded in this process",
            "LD_LIBRARY_PATH",
            "listed/nvidia/nccl/lib/libnccl-test.so.2 (PYTHONPATH)",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert!(message.ends_with("or let TILEWEAVE_NCCL name the file"), "{message}");
    }

    #[test]
    fn what_is_named_is_taken_and_nothing_else() {
        let folder = Folder::new("named");
        let file = folder.file("libnccl-of-mine.so");
        let named = |name: &str| (name == VARIABLE).then(|| file.clone().into_os_string());
        let message = find(named).expect_err("no library").to_string();
        assert!(
            message.contains("libnccl-of-mine.so, which TILEWEAVE_NCCL names: ") && !message.contains("PYTHONPATH"),
            "{message}"
        );
    }
}
