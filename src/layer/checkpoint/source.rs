//! Checkpoints that are read: one file, or several with an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::header::{self, Placed, describe, tag};
use super::llama::LlamaNames;
use super::part::{Part, Piece};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::Buffer;

/// The index of a checkpoint of several files, and the file of one that has none.
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// An open checkpoint. Opening reads the files' headers; everything else is read when it is asked for, by offset, so that one may be
/// shared by threads.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<Opened>,
    tensors: BTreeMap<String, Tensor>,
    bytes_read: AtomicU64,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
struct Tensor {
    /// Index of its file.
    file: usize,
    placed: Placed,
}

/// What is known of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info<'a> {
    /// Its type, where it is one of ours.
    pub dtype: Option<DType>,
    /// Its dimensions.
    pub shape: &'a [usize],
    /// The file that has it.
    pub file: &'a Path,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a safetensors file, an index of several (`model.safetensors.index.json`), or a folder that has the one or the other.
    ///
    /// # Errors
    /// [`Error::BadArgument`], which names the file, and the tensor where it is one: not there, not readable, truncated, no
    /// safetensors file, tensors that the index promises and the file lacks.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        if path.is_dir() {
            let (index, single) = (path.join(INDEX), path.join(SINGLE));
            return match (index.exists(), single.exists()) {
                (true, _) => Checkpoint::open_index(&index),
                (false, true) => Checkpoint::open_files([single]),
                (false, false) => {
                    let expected = format!("one with {INDEX} or {SINGLE}");
                    Err(Error::bad_argument("the checkpoint's folder", path.display(), expected))
                }
            };
        }
        match path.extension().is_some_and(|ending| ending == "json") {
            true => Checkpoint::open_index(path),
            false => Checkpoint::open_files([path]),
        }
    }

    /// Opens these safetensors files as one checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; also for a tensor that two of them have.
    pub fn open_files(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            bytes_read: AtomicU64::new(0),
        };
        for path in paths {
            checkpoint.add(path.as_ref())?;
        }
        Ok(checkpoint)
    }

    fn open_index(path: &Path) -> Result<Checkpoint> {
        let wrong = |value: String, expected: &str| Error::bad_argument(path.display().to_string(), value, expected);
        let text = std::fs::read(path).map_err(|error| wrong(format!("not readable ({error})"), "an index file"))?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("another file ({error})"), "an index with a weight_map"))?;
        let mut names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let mut paths = Vec::new();
        for name in names {
            // An index speaks of files beside itself, not of any file of the machine.
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(wrong(format!("an index of `{name}`"), "names of files beside it"));
            }
            paths.push(path.with_file_name(name));
        }
        let mut checkpoint = Checkpoint::open_files(paths)?;
        let mut listed = BTreeMap::new();
        for (name, file) in &index.weight_map {
            let tensor = checkpoint.tensors.remove(name);
            let file = path.with_file_name(file);
            match tensor.filter(|tensor| checkpoint.files[tensor.file].path == file) {
                Some(tensor) => listed.insert(name.clone(), tensor),
                None => {
                    let expected = format!("in {}, where {} has it", file.display(), path.display());
                    return Err(Error::bad_argument(format!("tensor `{name}`"), "missing", expected));
                }
            };
        }
        checkpoint.tensors = listed;
        Ok(checkpoint)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|error| {
            let value = format!("not readable ({error})");
            Error::bad_argument(path.display().to_string(), value, "a safetensors file")
        })?;
        let tensors = header::read(&file, path)?;
        for (name, placed) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                let value = format!("in {} and {}", self.files[other.file].path.display(), path.display());
                return Err(Error::bad_argument(format!("tensor `{name}`"), value, "in one file"));
            }
            let file = self.files.len();
            self.tensors.insert(name, Tensor { file, placed });
        }
        let path = path.into();
        self.files.push(Opened { path, file });
        Ok(())
    }

    /// The tensors' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// What is known of a tensor.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where there is none.
    pub fn info(&self, tensor: &str) -> Result<Info<'_>> {
        let found = self.tensors.get(tensor).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let value = match names.len() {
                0..=8 => format!("missing from a checkpoint of `{}`", names.join("`, `")),
                more => format!(
                    "missing from a checkpoint of `{}` and {} more",
                    names[..8].join("`, `"),
                    more - 8
                ),
            };
            Error::bad_argument(format!("tensor `{tensor}`"), value, "a checkpoint that has it")
        })?;
        let all = [DType::Bf16, DType::F16, DType::F32];
        Ok(Info {
            dtype: all.into_iter().find(|dtype| tag(*dtype) == found.placed.dtype),
            shape: &found.placed.shape,
            file: &self.files[found.file].path,
        })
    }

    /// How a Llama-style model's layer is named here: whether q, k and v, gate and up are one tensor.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where it has neither.
    pub fn names_of(&self, layer: usize) -> Result<LlamaNames> {
        LlamaNames::find(self, layer)
    }

    /// Reads a rank's part, and nothing beside it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where a tensor is missing, or of another type or shape; also where it cannot be read.
    pub fn load(&self, part: &Part, dtype: DType) -> Result<Vec<u8>> {
        for piece in &part.pieces {
            self.check(piece, dtype)?;
        }
        part.gather(dtype.size(), |piece, offset, to| {
            let Tensor { file, placed } = &self.tensors[&piece.tensor];
            let Opened { path, file } = &self.files[*file];
            header::read_at(file, placed.start + offset, to).map_err(|error| {
                let value = format!("not readable in {} ({error})", path.display());
                Error::bad_argument(format!("tensor `{}`", piece.tensor), value, "bytes as its header says")
            })?;
            self.bytes_read.fetch_add(to.len() as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    /// The same into memory of the rank's.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], and the driver's where there is no memory.
    pub fn upload(&self, part: &Part, dtype: DType, rank: &Rank) -> Result<Buffer> {
        let bytes = self.load(part, dtype)?;
        let mut buffer = rank.alloc(bytes.len())?;
        buffer.upload(&bytes)?;
        Ok(buffer)
    }

    /// Bytes of tensors read so far; headers do not count.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    fn check(&self, piece: &Piece, dtype: DType) -> Result<()> {
        self.info(&piece.tensor)?;
        let Tensor { file, placed } = &self.tensors[&piece.tensor];
        if (placed.dtype, &placed.shape) != (tag(dtype), &piece.shape) {
            let path = self.files[*file].path.display();
            let value = format!("{} in {path}", describe(placed.dtype, &placed.shape));
            let expected = describe(tag(dtype), &piece.shape);
            return Err(Error::bad_argument(
                format!("tensor `{}`", piece.tensor),
                value,
                expected,
            ));
        }
        Ok(())
    }
}
