//! The output file: written beside its place under another name and moved there, so that it is whole or not there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use tileweave::DType;

use super::shape::Shape;
use crate::failure::Failure;

/// Fails early, before anything runs, where the file could not be written.
pub fn check(path: &Path) -> Result<(), Failure> {
    let folder = folder_of(path);
    if path.file_name().is_none() || path.is_dir() {
        return Err(Failure::bad_value("--output", path.display(), "a file's name"));
    }
    if !folder.is_dir() {
        return Err(Failure::bad_value(
            "--output",
            path.display(),
            &format!("a file in a folder that exists, {} does not", folder.display()),
        ));
    }
    Ok(())
}

/// Writes `y.rank0`, `y.rank1`, ...
pub fn write(path: &Path, shape: &Shape, dtype: DType, results: &[Vec<u8>]) -> Result<(), Failure> {
    let failed = |what: String| Failure::bad_input(format!("--output {} cannot be written: {what}", path.display()));
    let tag = match dtype {
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
    };
    let mut tensors = Vec::with_capacity(results.len());
    for (rank, bytes) in results.iter().enumerate() {
        let block = shape.result_of(rank);
        let view =
            TensorView::new(tag, vec![block.rows(), block.cols()], bytes).map_err(|error| failed(error.to_string()))?;
        tensors.push((format!("y.rank{rank}"), view));
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let unfinished = Unfinished(folder_of(path).join(format!(".{name}.{}.unfinished", std::process::id())));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]); // as PyTorch's own files say
    safetensors::serialize_to_file(tensors, Some(metadata), &unfinished.0)
        .map_err(|error| failed(error.to_string()))?;
    std::fs::rename(&unfinished.0, path).map_err(|error| failed(error.to_string()))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
        _ => PathBuf::from("."),
    }
}

/// Removed when dropped; after the move there is nothing left to remove.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
