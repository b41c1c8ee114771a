//! The head of a safetensors file: its length (u64), then JSON that names every tensor's type, shape and bytes; the data follows.

use std::fs::File;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::dtype::DType;
use crate::error::{Error, Result};

/// Bytes of the header's length.
pub(super) const LENGTH: u64 = 8;
/// The format's own limit on a header.
const MOST: u64 = 100_000_000;

/// A tensor, and where its bytes begin in the file.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub start: u64,
}

/// What a person is told of a tensor: `F32 [2, 3]`.
pub(super) fn describe(dtype: Dtype, shape: &[usize]) -> String {
    format!("{dtype} {shape:?}")
}

/// The format's name of one of our types.
pub(super) fn tag(dtype: DType) -> Dtype {
    match dtype {
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
    }
}

/// The tensors of a file, in the order of their bytes; the file holds all of them, and nothing else.
pub(super) fn read(file: &File, path: &Path) -> Result<Vec<(String, Placed)>> {
    let wrong = |value: String, expected: &str| Err(Error::bad_argument(path.display().to_string(), value, expected));
    let unreadable = |error: std::io::Error| {
        Error::bad_argument(
            path.display().to_string(),
            format!("not readable ({error})"),
            "a safetensors file",
        )
    };
    let size = file.metadata().map_err(unreadable)?.len();
    if size < LENGTH {
        let value = format!("{size} bytes long");
        return wrong(
            value,
            "a safetensors file, which begins with the 8 bytes of its header's length",
        );
    }
    let mut length = [0; LENGTH as usize];
    read_at(file, 0, &mut length).map_err(unreadable)?;
    let length = u64::from_le_bytes(length);
    if length > MOST.min(size - LENGTH) {
        let value = format!("{size} bytes long, and its header claims {length}");
        return wrong(
            value,
            "a whole safetensors file, with a header of at most 100000000 bytes",
        );
    }
    // Bounded by the file's own size.
    let mut text = vec![0; length as usize];
    read_at(file, LENGTH, &mut text).map_err(unreadable)?;
    let metadata: Metadata = match serde_json::from_slice(&text) {
        Ok(metadata) => metadata,
        Err(error) => {
            return wrong(
                format!("a file with another header ({error})"),
                "that of a safetensors file",
            );
        }
    };
    let data = LENGTH + length;
    let mut infos: Vec<(String, &TensorInfo)> = metadata.tensors().into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut tensors: Vec<(String, Placed)> = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let TensorInfo {
            dtype,
            ref shape,
            data_offsets: (start, end),
        } = *info;
        if data.saturating_add(end as u64) > size {
            let value = format!(
                "{} at bytes {start}..{end} of the data, of which {} has {}",
                describe(dtype, shape),
                path.display(),
                size - data
            );
            return Err(Error::bad_argument(
                format!("tensor `{name}`"),
                value,
                "a whole file: it is truncated",
            ));
        }
        let shape = shape.clone();
        let start = data + start as u64;
        tensors.push((name, Placed { dtype, shape, start }));
    }
    let end = data + metadata.data_len() as u64;
    if end != size {
        let value = format!("{size} bytes long");
        return wrong(value, &format!("{end}, where its last tensor ends"));
    }
    Ok(tensors)
}

/// Fills `bytes` from this place of the file.
pub(super) fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            let place = offset + done as u64;
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], place)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                more => done += more,
            }
        }
        Ok(())
    }
}

/// Writes `bytes` to this place of the file.
pub(super) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            let place = offset + done as u64;
            match std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], place)? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                more => done += more,
            }
        }
        Ok(())
    }
}
