//! The stand-in for NCCL's library (`fake.c`), compiled for one test: its notes are its own.

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub struct Fake {
    pub path: PathBuf,
    /// Keeps the notes when the test has closed its own.
    library: libloading::Library,
}

impl Fake {
    /// Of this checkout, whose root is given, by a name that no other test of the process has.
    pub fn new(root: &Path, name: &str, flags: &[&str]) -> Fake {
        let path = std::env::temp_dir().join(format!("tileweave-nccl-{}-{name}.so", std::process::id()));
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(compiler)
            .args(["-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread"])
            .args(flags)
            .arg("-o")
            .arg(&path)
            .arg(root.join("tests/nccl/fake.c"))
            .status()
            .expect("a C compiler");
        assert!(status.success());
        // SAFETY: the stand-in has no initialisers.
        let library = unsafe { libloading::Library::new(&path) }.expect("what was just compiled");
        Fake { path, library }
    }

    pub fn notes(&self) -> String {
        // SAFETY: fake.c declares it so. The string is only ever added to, and ends with a zero at every moment: the memory behind
        // what is written is zero.
        unsafe {
            let log = self.library.get::<unsafe extern "C" fn() -> *const c_char>(b"fake_log");
            CStr::from_ptr(log.expect("the notes")()).to_string_lossy().into_owned()
        }
    }

    /// The notes, once they end so: what is ended apart takes a moment.
    #[allow(dead_code, reason = "not every test ends something apart")]
    pub fn notes_that_end_with(&self, end: &str) -> String {
        let begin = Instant::now();
        loop {
            let notes = self.notes();
            if notes.ends_with(end) || begin.elapsed() > Duration::from_secs(20) {
                return notes;
            }
            std::thread::yield_now();
        }
    }

    /// From now on every communicator has failed.
    #[allow(dead_code, reason = "not every test breaks it")]
    pub fn break_all(&self, status: i32) {
        // SAFETY: fake.c declares it so.
        unsafe {
            let fail = self.library.get::<unsafe extern "C" fn(c_int)>(b"fake_break");
            fail.expect("the function")(status);
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
