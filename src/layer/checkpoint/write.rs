//! Checkpoints that are written: every rank's part to its place, until the tensors are whole.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use super::header::{LENGTH, Placed, read_at, tag, write_at};
use super::part::{Part, Piece};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A safetensors file that is being written, beside its place and under another name until it is whole. Dropped before that it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    dtype: DType,
    path: PathBuf,
    unfinished: Option<PathBuf>,
    file: File,
    tensors: BTreeMap<String, Begun>,
}

#[derive(Debug)]
struct Begun {
    placed: Placed,
    /// Rows and columns that have been stored, each block once.
    blocks: Vec<(Range<usize>, Range<usize>)>,
}

impl Begun {
    fn elements(&self) -> usize {
        self.placed.shape.iter().product()
    }

    fn stored(&self) -> usize {
        self.blocks.iter().map(|(rows, cols)| rows.len() * cols.len()).sum()
    }
}

impl Writer {
    /// Begins a file of all the tensors that these parts are of.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where parts give a tensor different shapes, and where the file cannot be made.
    pub fn create<'a>(
        path: impl AsRef<Path>,
        dtype: DType,
        parts: impl IntoIterator<Item = &'a Part>,
    ) -> Result<Writer> {
        let path = path.as_ref();
        let mut shapes: BTreeMap<&str, &[usize]> = BTreeMap::new();
        for (tensor, shape) in parts.into_iter().flat_map(Part::tensors) {
            let known = *shapes.entry(tensor).or_insert(shape);
            if known != shape {
                let expected = format!("{known:?}, as another part has it");
                return Err(Error::bad_argument(
                    format!("the shape of tensor `{tensor}`"),
                    format!("{shape:?}"),
                    expected,
                ));
            }
        }
        let (header, tensors, size) = lay_out(&shapes, dtype)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = path.with_file_name(format!(".{name}.{}.unfinished", std::process::id()));
        let failed = |error: std::io::Error| unwritable(path, &error);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&unfinished);
        let writer = Writer {
            dtype,
            path: path.into(),
            file: open.map_err(failed)?,
            unfinished: Some(unfinished),
            tensors,
        };
        writer.file.set_len(size).map_err(failed)?;
        write_at(&writer.file, 0, &header).map_err(failed)?;
        Ok(writer)
    }

    /// Stores a rank's part. What several ranks have has to be the same on each.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for bytes of another length, for a tensor that the file was not begun with, where the part differs from
    /// what another rank stored, or overlaps it only in part, and where it cannot be written.
    pub fn store(&mut self, part: &Part, bytes: &[u8]) -> Result<()> {
        let size = self.dtype.size();
        part.check_length(size, bytes)?;
        // Nothing is written before all of it is known to fit.
        let known = part.pieces.iter().map(|piece| self.is_stored(piece));
        let known: Vec<bool> = known.collect::<Result<_>>()?;
        let (file, tensors, path) = (&self.file, &self.tensors, &self.path);
        part.scatter(size, bytes, |piece, offset, from| {
            let place = tensors[&piece.tensor].placed.start + offset;
            let index = part.pieces.iter().position(|other| other == piece).unwrap_or(0);
            match known[index] {
                false => write_at(file, place, from).map_err(|error| unwritable(path, &error)),
                true => same(file, place, piece, offset / size as u64, from, path),
            }
        })?;
        for (piece, known) in part.pieces.iter().zip(known) {
            if let (Some(begun), false) = (self.tensors.get_mut(&piece.tensor), known) {
                begun.blocks.push((piece.rows.clone(), piece.cols.clone()));
            }
        }
        Ok(())
    }

    /// Whether a piece is there already, to be compared; it must not overlap another in part.
    fn is_stored(&self, piece: &Piece) -> Result<bool> {
        let name = format!("tensor `{}`", piece.tensor);
        let begun = self.tensors.get(&piece.tensor);
        let Some(begun) = begun.filter(|begun| begun.placed.shape == piece.shape) else {
            let value = format!("{:?}, stored", piece.shape);
            let expected = "a tensor, and a shape, that the file was begun with";
            return Err(Error::bad_argument(name, value, expected));
        };
        let (rows, cols) = (&piece.rows, &piece.cols);
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start) < a.end.min(b.end);
        let mut met = begun.blocks.iter().filter(|(r, c)| meet(r, rows) && meet(c, cols));
        match met.next() {
            None => Ok(false),
            Some((r, c)) if (r, c) == (rows, cols) => Ok(true),
            Some((r, c)) => {
                let value = format!("stored at rows {rows:?} and columns {cols:?}");
                let expected = format!("rows {r:?} and columns {c:?}, as another rank stored, or a block beside them");
                Err(Error::bad_argument(name, value, expected))
            }
        }
    }

    /// Ends the file, and gives it its name.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where a tensor is not whole yet, and where the file cannot be moved.
    pub fn finish(mut self) -> Result<()> {
        for (name, begun) in &self.tensors {
            if begun.stored() != begun.elements() {
                let value = format!("stored to {} of {} elements", begun.stored(), begun.elements());
                let expected = "whole: every rank's part has to be stored before the file is finished";
                return Err(Error::bad_argument(format!("tensor `{name}`"), value, expected));
            }
        }
        let failed = |error: std::io::Error| unwritable(&self.path, &error);
        self.file.sync_all().map_err(failed)?;
        if let Some(unfinished) = &self.unfinished {
            std::fs::rename(unfinished, &self.path).map_err(failed)?;
        }
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // Nobody is there to be told.
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

/// The header with its length, where each tensor goes, and the file's size.
fn lay_out(shapes: &BTreeMap<&str, &[usize]>, dtype: DType) -> Result<(Vec<u8>, BTreeMap<String, Begun>, u64)> {
    let mut end = 0usize;
    let mut infos = Vec::new();
    for (name, shape) in shapes {
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |bytes, dim| bytes.checked_mul(*dim));
        let Some(next) = bytes.and_then(|bytes| end.checked_add(bytes)) else {
            let value = format!("{shape:?}");
            return Err(Error::bad_argument(
                format!("the shape of tensor `{name}`"),
                value,
                "one that memory could hold",
            ));
        };
        let info = TensorInfo {
            dtype: tag(dtype),
            shape: shape.to_vec(),
            data_offsets: (end, next),
        };
        infos.push((name.to_string(), info));
        end = next;
    }
    let unmade = |error: &dyn std::fmt::Display| Error::bad_argument("the header", "not made", error.to_string());
    let format = [("format".to_string(), "pt".to_string())]; // as PyTorch's own files say
    let metadata = Metadata::new(Some(format.into_iter().collect()), infos.clone()).map_err(|error| unmade(&error))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| unmade(&error))?;
    text.resize(text.len().next_multiple_of(LENGTH as usize), b' ');
    let data = LENGTH + text.len() as u64;
    let begun = infos.into_iter().map(|(name, info)| {
        let placed = Placed {
            dtype: info.dtype,
            shape: info.shape,
            start: data + info.data_offsets.0 as u64,
        };
        (
            name,
            Begun {
                placed,
                blocks: Vec::new(),
            },
        )
    });
    let begun = begun.collect();
    let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
    Ok((header, begun, data + end as u64))
}

/// Compares a run with what another rank stored there.
fn same(file: &File, place: u64, piece: &Piece, element: u64, bytes: &[u8], path: &Path) -> Result<()> {
    let mut there = vec![0; bytes.len()];
    read_at(file, place, &mut there).map_err(|error| unwritable(path, &error))?;
    match there == bytes {
        true => Ok(()),
        false => {
            let value = format!("other than another rank stored it, in the run from element {element} on");
            let expected = "the same bits on every rank that has it";
            Err(Error::bad_argument(
                format!("tensor `{}`", piece.tensor),
                value,
                expected,
            ))
        }
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::bad_argument(
        "the checkpoint",
        path.display(),
        format!("a file that can be written ({error})"),
    )
}
