//! The cache of nvcc's outputs (`build/cache.rs`): what it gives back is what was made from the same, or nothing.

#[allow(dead_code)]
#[path = "../../build/cache.rs"]
mod cache;

use std::fs;
use std::path::{Path, PathBuf};

use cache::Cache;

/// Sources, a cache and a place for outputs, in a folder of their own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id())));
        for (path, text) in [
            ("csrc/a.h", "one"),
            ("csrc/machine/b.cc", "two"),
            ("csrc/machine/sim/c.h", "three"),
        ] {
            folder.write(path, text);
        }
        folder
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn cache(&self, words: &[&str]) -> Cache {
        let words: Vec<_> = words.iter().map(|word| word.to_string()).collect();
        Cache::within(self.0.join("cache"), &self.0.join("csrc"), &words).unwrap()
    }

    fn outputs(&self, texts: [&str; 2]) -> [PathBuf; 2] {
        ["x.fatbin", "y.txt"].map(|name| {
            let file = self.0.join("out").join(name);
            self.write(&format!("out/{name}"), texts[usize::from(name == "y.txt")]);
            file
        })
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.0.join("cache")).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_made_from_the_same_comes_back() {
    let folder = Folder::new("same");
    let files = folder.outputs(["code", "report"]);
    let words = ["nvcc 13", "-O3"];
    assert!(!folder.cache(&words).get(&files));
    folder.cache(&words).put(&files).unwrap();
    let files = folder.outputs(["", ""]);
    // The simulated machine is not nvcc's.
    folder.write("csrc/machine/sim/c.h", "other");
    assert!(folder.cache(&words).get(&files));
    assert_eq!(files.map(|file| fs::read_to_string(file).unwrap()), ["code", "report"]);
    folder.cache(&words).put(&folder.outputs(["code", "report"])).unwrap();
    assert_eq!(folder.entries(), 1);
}

#[test]
fn what_was_made_from_something_else_does_not() {
    let folder = Folder::new("else");
    let files = folder.outputs(["code", "report"]);
    folder.cache(&["nvcc 13", "-O3"]).put(&files).unwrap();
    for words in [
        &["nvcc 13", "-O2"][..],
        &["nvcc 13-O3"],
        &["nvcc 13"],
        &["-O3", "nvcc 13"],
    ] {
        assert!(!folder.cache(words).get(&files), "{words:?}");
    }
    for (path, text) in [("csrc/a.h", "one "), ("csrc/machine/b.cc", ""), ("csrc/new.h", "")] {
        let before = fs::read_to_string(folder.0.join(path)).ok();
        folder.write(path, text);
        assert!(!folder.cache(&["nvcc 13", "-O3"]).get(&files), "{path}");
        match before {
            Some(before) => folder.write(path, &before),
            None => fs::remove_file(folder.0.join(path)).unwrap(),
        }
    }
    assert!(folder.cache(&["nvcc 13", "-O3"]).get(&files));
}

#[test]
fn a_broken_entry_is_none_and_is_replaced() {
    let folder = Folder::new("broken");
    let files = folder.outputs(["code", "report"]);
    let cache = folder.cache(&["nvcc"]);
    cache.put(&files).unwrap();
    let entry = fs::read_dir(folder.0.join("cache"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for broken in ["x.fatbin", "inputs"] {
        fs::remove_file(entry.join(broken)).unwrap();
        assert!(!cache.get(&files), "{broken}");
        cache.put(&files).unwrap();
        assert!(cache.get(&files), "{broken}");
    }
}

#[test]
fn only_the_newest_stay() {
    let folder = Folder::new("newest");
    let files = folder.outputs(["code", "report"]);
    for i in 0..20 {
        folder.cache(&[&i.to_string()]).put(&files).unwrap();
    }
    assert_eq!(folder.entries(), 16);
    assert!(folder.cache(&["19"]).get(&files));
}
