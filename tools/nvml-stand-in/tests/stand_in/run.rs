//! One reading of a machine, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tileweave::topology::Topology;

/// Where the snapshots are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/topology")
}

pub fn snapshot(name: &str) -> Topology {
    Topology::load(folder().join(name).with_extension("json")).unwrap()
}

/// The library, which cargo puts beside the tests' programs.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.with_file_name("libnvml_stand_in.so");
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// A file's path of its own; the file goes with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Scratch(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}-{name}", std::process::id())))
    }
}

impl std::ops::Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not every test writes one.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A copy of the library that lacks `symbols`: their names are blotted out of its table.
pub fn library_without(symbols: &[&str]) -> Scratch {
    let mut bytes = std::fs::read(library()).unwrap();
    for symbol in symbols {
        let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let places: Vec<usize> = (0..bytes.len() - name.len())
            .filter(|at| bytes[*at..].starts_with(&name))
            .collect();
        assert!(!places.is_empty(), "{symbol} is no symbol of the library");
        for at in places {
            bytes[at + 1..at + name.len() - 1].fill(b'-');
        }
    }
    let path = Scratch::new("libnvidia-ml.so");
    std::fs::write(&*path, bytes).unwrap();
    path
}

/// What the child is told.
pub struct Reading {
    pub library: PathBuf,
    /// What NVML serves.
    pub served: Topology,
    /// What the driver sees; otherwise NVML is asked alone.
    pub driver: Option<Topology>,
    pub environment: Vec<(&'static str, String)>,
}

impl Reading {
    /// NVML alone, of a machine.
    pub fn of(served: Topology) -> Reading {
        Reading {
            library: library(),
            served,
            driver: None,
            environment: Vec::new(),
        }
    }

    /// With a driver that sees these GPUs of `machine`, in this order.
    pub fn seen(mut self, machine: &Topology, gpus: &[usize]) -> Reading {
        self.driver = Some(super::driver::seen(machine, gpus));
        self
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Reading {
        self.environment.push((name, value.to_string()));
        self
    }

    pub fn library(mut self, library: &Path) -> Reading {
        self.library = library.into();
        self
    }

    /// The topology, [checked](Topology::check), or the error's text.
    pub fn result(self) -> Result<Topology, String> {
        let (served, told) = (Scratch::new("served.json"), Scratch::new("told"));
        self.served.save(&*served).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "inside::reads"]);
        command.env("TILEWEAVE_NVML", &self.library);
        command.env("TILEWEAVE_STAND_IN_SNAPSHOT", &*served);
        command.env(super::inside::TOLD, &*told);
        if let Some(driver) = &self.driver {
            command.env(super::inside::DRIVER, serde_json::to_string(driver).unwrap());
        }
        command.envs(self.environment);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        let told_text = std::fs::read_to_string(&*told).unwrap();
        match told_text.strip_prefix("error: ") {
            Some(error) => Err(error.to_string()),
            None => Ok(Topology::from_json(&told_text).unwrap_or_else(|e| panic!("{e}: {told_text}"))),
        }
    }

    pub fn topology(self) -> Topology {
        self.result().unwrap()
    }
}
