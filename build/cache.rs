//! What nvcc made, kept by what it was made from: its run takes minutes, and continuous integration asks for the same several
//! times. Only where `$TILEWEAVE_NVCC_CACHE` names a folder; no build writes anywhere else than cargo has it.
//!
//! An entry is a folder: `inputs`, all that the output depends on, byte by byte, and the outputs. It is named by a hash of the
//! inputs and good if they are equal, so nothing rests on the hash. It appears whole or not at all, and of many the
//! newest stay.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Entries kept, of about 2 MB each.
const MOST: usize = 16;

/// A folder of entries, and the inputs of one.
#[derive(PartialEq)]
pub struct Cache {
    folder: PathBuf,
    inputs: Vec<u8>,
}

/// All of nvcc's sources under `csrc`, with their names; not those of the machines that are simulated.
fn sources(csrc: &Path, folder: &Path, all: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !["machine/sim", "machine/timed"]
                .iter()
                .any(|other| path == csrc.join(other))
            {
                sources(csrc, &path, all)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "h" || ending == "cc") {
            let name = path
                .strip_prefix(csrc)
                .unwrap_or(&path)
                .to_string_lossy()
                .replace('\\', "/");
            all.push((name, fs::read(&path)?));
        }
    }
    Ok(())
}

/// The words and the sources under `csrc`, one after the other.
pub fn strung(csrc: &Path, words: &[String]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    sources(csrc, csrc, &mut all)?;
    all.sort();
    let mut text = Vec::new();
    let parts = words.iter().map(|word| ("", word.as_bytes()));
    for (name, bytes) in parts.chain(all.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))) {
        // Lengths first: no two lists of parts are equal when strung together.
        text.extend(format!("{} {} {name}\n", name.len(), bytes.len()).bytes());
        text.extend(bytes);
    }
    Ok(text)
}

impl Cache {
    /// For outputs of the sources under `csrc` and `words`: the compiler, its options. `None` where no cache is asked for, or
    /// the sources cannot be read.
    pub fn of(csrc: &Path, words: &[String]) -> Option<Cache> {
        let folder = env::var_os("TILEWEAVE_NVCC_CACHE").filter(|folder| !folder.is_empty())?;
        Cache::within(folder.into(), csrc, words).ok()
    }

    /// The same in a folder that is known.
    pub fn within(folder: PathBuf, csrc: &Path, words: &[String]) -> io::Result<Cache> {
        let inputs = strung(csrc, words)?;
        Ok(Cache { folder, inputs })
    }

    fn entry(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.inputs);
        self.folder.join(format!("{:016x}", hasher.finish()))
    }

    /// Copies the outputs to `files`, if they are here.
    pub fn get(&self, files: &[PathBuf]) -> bool {
        let entry = self.entry();
        let equal = fs::read(entry.join("inputs")).is_ok_and(|inputs| inputs == self.inputs);
        let copy = |file: &PathBuf| {
            file.file_name()
                .is_some_and(|name| fs::copy(entry.join(name), file).is_ok())
        };
        equal && files.iter().all(copy)
    }

    /// Keeps `files` as the outputs.
    pub fn put(&self, files: &[PathBuf]) -> io::Result<()> {
        let entry = self.entry();
        let part = self.folder.join(format!("part-{}", std::process::id()));
        fs::create_dir_all(&part)?;
        let fill = || {
            for file in files {
                fs::copy(file, part.join(file.file_name().unwrap_or_default()))?;
            }
            fs::write(part.join("inputs"), &self.inputs)?;
            // It was no good, or another build has been faster.
            if entry.is_dir() {
                fs::remove_dir_all(&entry)?;
            }
            fs::rename(&part, &entry)
        };
        let filled = fill();
        if filled.is_err() {
            fs::remove_dir_all(&part)?;
        }
        filled.and_then(|()| self.forget_old())
    }

    fn forget_old(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
                entries.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        entries.sort();
        let old = entries.len().saturating_sub(MOST);
        entries[..old].iter().try_for_each(|(_, path)| fs::remove_dir_all(path))
    }
}
