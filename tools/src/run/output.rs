//! The output file: written beside its place under another name and moved there, so that it is whole or not there.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use tileweave::DType;

use super::execute::Results;
use super::shape::Shape;
use crate::failure::Failure;

/// A place that a file can be written to.
#[derive(Debug)]
pub struct Place {
    /// The option that named it.
    option: &'static str,
    /// As the user named it.
    named: PathBuf,
    /// The same with every link followed: a link stays, and what it points to is replaced.
    real: PathBuf,
}

impl Place {
    /// Fails early, before anything runs, where no file could be written. Only a regular file may be replaced: moving a
    /// file onto a device or a pipe would destroy it.
    pub fn new(option: &'static str, path: &Path) -> Result<Place, Failure> {
        let wrong = |expected: &str| Failure::bad_value(option, path.display(), expected);
        let real = match std::fs::metadata(path) {
            Ok(there) if there.is_file() => std::fs::canonicalize(path).map_err(|error| wrong(&error.to_string()))?,
            Ok(there) if there.is_dir() => return Err(wrong("a file's name, this is a folder")),
            Ok(_) => {
                return Err(wrong(
                    "a regular file, or a name that is free: this is a device, a pipe or a socket",
                ));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(wrong(&format!("a place to write: {error}")));
            }
            Err(_) if std::fs::symlink_metadata(path).is_ok() => {
                return Err(wrong("a link to a file that exists, this one points to nothing"));
            }
            Err(_) => {
                let name = path.file_name().ok_or_else(|| wrong("a file's name"))?;
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                if !folder.is_dir() {
                    let expected = format!("a file in a folder that exists, {} does not", folder.display());
                    return Err(wrong(&expected));
                }
                folder.join(name)
            }
        };
        let named = path.into();
        Ok(Place { option, named, real })
    }

    /// Another name in the same folder, which a move does not have to leave.
    fn beside(&self) -> PathBuf {
        let name = self.real.file_name().unwrap_or_default().to_string_lossy();
        self.real
            .with_file_name(format!(".{name}.{}.unfinished", std::process::id()))
    }

    fn failed(&self, what: String) -> Failure {
        Failure::bad_input(format!(
            "{} {} cannot be written: {what}",
            self.option,
            self.named.display()
        ))
    }

    /// The file's whole content.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |error: std::io::Error| self.failed(error.to_string());
        let unfinished = self.beside();
        // Never another's file, and readable to whom the user's mask lets read.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&unfinished)
            .map_err(failed)?;
        let unfinished = Unfinished(unfinished);
        if let Ok(old) = std::fs::metadata(&self.real) {
            file.set_permissions(old.permissions()).map_err(failed)?;
        }
        file.write_all(bytes).map_err(failed)?;
        drop(file);
        std::fs::rename(&unfinished.0, &self.real).map_err(failed)
    }
}

/// Writes `y.rank0`, `y.rank1`, ..., and `residual.rank0`, ... where residuals were updated.
pub fn write(place: &Place, shape: &Shape, dtype: DType, results: &Results) -> Result<(), Failure> {
    let mut tensors = Vec::new();
    for (name, of_ranks) in [("y", &results.y), ("residual", &results.residual)] {
        for (rank, bytes) in of_ranks.iter().enumerate() {
            let block = shape.result_of(rank);
            let shape = vec![block.rows(), block.cols()];
            tensors.push((format!("{name}.rank{rank}"), shape, bytes.as_slice()));
        }
    }
    write_tensors(place, dtype, tensors)
}

/// Writes tensors: name, shape, bytes.
pub fn write_tensors<'a>(
    place: &Place,
    dtype: DType,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, &'a [u8])>,
) -> Result<(), Failure> {
    let failed = |what: String| place.failed(what);
    let tag = match dtype {
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
    };
    let views = tensors.into_iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(tag, shape, bytes).map_err(|error| failed(error.to_string()))?;
        Ok((name, view))
    });
    let tensors = views.collect::<Result<Vec<_>, Failure>>()?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]); // as PyTorch's own files say
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|error| failed(error.to_string()))?;
    place.write(&bytes)
}

/// Removed when dropped; after the move there is nothing left to remove.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
