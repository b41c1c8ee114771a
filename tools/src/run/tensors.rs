//! Safetensors files. The format is parsed by the crate `safetensors`; this file makes sure that nothing hostile costs
//! more than the file's own size, and that an error names the tensor, what it is and what it should be.
//!
//! A file is: the header's length (u64), the header (JSON: name to dtype, shape and byte offsets), the data.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use tileweave::DType;

use crate::failure::Failure;

/// The crate's own limit on a header.
const MAX_HEADER: u64 = 100_000_000;

/// A file's bytes, known to hold together.
pub struct File {
    name: String,
    bytes: Vec<u8>,
}

/// A tensor of a file.
pub struct Found<'a> {
    file: &'a str,
    name: String,
    view: TensorView<'a>,
}

impl File {
    pub fn read(path: &Path) -> Result<File, Failure> {
        let name = path.display().to_string();
        let failed = |error: std::io::Error| Failure::bad_input(format!("--input {name} cannot be read: {error}"));
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Failure::bad_input(format!(
                "--input {name} is no regular file: expected a safetensors file"
            )));
        }
        let mut bytes = Vec::new();
        if bytes
            .try_reserve_exact(usize::try_from(metadata.len()).unwrap_or(usize::MAX))
            .is_err()
        {
            let size = metadata.len();
            return Err(Failure::bad_input(format!(
                "--input {name} has {size} bytes: more than memory holds"
            )));
        }
        file.take(metadata.len()).read_to_end(&mut bytes).map_err(failed)?;
        File::from_bytes(name, bytes)
    }

    fn from_bytes(name: String, bytes: Vec<u8>) -> Result<File, Failure> {
        match SafeTensors::deserialize(&bytes) {
            Ok(_) => Ok(File { name, bytes }),
            Err(error) => {
                let why = diagnose(&bytes).unwrap_or_else(|| error.to_string());
                Err(Failure::bad_input(format!(
                    "--input {name} is not a whole safetensors file: {why}"
                )))
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn tensor(&self, name: &str) -> Result<Found<'_>, Failure> {
        self.optional(name)?.ok_or_else(|| {
            Failure::bad_input(format!(
                "tensor `{name}` is missing from {}: it holds {}",
                self.name,
                self.list()
            ))
        })
    }

    pub fn optional(&self, name: &str) -> Result<Option<Found<'_>>, Failure> {
        let tensors = self.parsed()?;
        Ok(tensors.tensor(name).ok().map(|view| Found {
            file: &self.name,
            name: name.into(),
            view,
        }))
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, Failure> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| Failure::bad_input(format!("{}: {error}", self.name)))
    }

    /// Every tensor's name, in order.
    pub fn names(&self) -> Vec<String> {
        let tensors = self.parsed();
        let mut names: Vec<String> = tensors
            .iter()
            .flat_map(|tensors| tensors.names())
            .map(String::from)
            .collect();
        names.sort();
        names
    }

    fn list(&self) -> String {
        let mut names: Vec<String> = self.names().iter().map(|name| format!("`{name}`")).collect();
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        match (names.is_empty(), more) {
            (true, _) => "no tensor".into(),
            (false, 0) => names.join(", "),
            (false, _) => format!("{} and {more} more", names.join(", ")),
        }
    }
}

impl<'a> Found<'a> {
    pub fn dtype(&self) -> Result<DType, Failure> {
        match self.view.dtype() {
            Dtype::BF16 => Ok(DType::Bf16),
            Dtype::F16 => Ok(DType::F16),
            Dtype::F32 => Ok(DType::F32),
            _ => Err(self.wrong("expected BF16, F16 or F32".into())),
        }
    }

    pub fn shape(&self) -> &[usize] {
        self.view.shape()
    }

    /// Its elements, if they are I64.
    pub fn integers(&self) -> Result<Vec<i64>, Failure> {
        if self.view.dtype() != Dtype::I64 {
            return Err(self.wrong("expected I64".into()));
        }
        let elements = self.bytes().as_chunks().0.iter();
        Ok(elements.map(|raw| i64::from_le_bytes(*raw)).collect())
    }

    /// The dimensions, if there are as many as `form` names.
    pub fn dims<const COUNT: usize>(&self, form: &str) -> Result<[usize; COUNT], Failure> {
        self.view
            .shape()
            .try_into()
            .map_err(|_| self.wrong(format!("expected {COUNT} dimensions, {form}")))
    }

    /// Checks type and shape; `like`: the tensor that has the type.
    pub fn expect(&self, dtype: DType, dims: &[usize], like: &str, form: &str) -> Result<(), Failure> {
        if self.dtype()? != dtype {
            let dtype = dtype.to_string().to_uppercase();
            return Err(self.wrong(format!("expected {dtype}, as {like} is")));
        }
        if self.view.shape() != dims {
            return Err(self.wrong(format!("expected {dims:?}, {form}")));
        }
        Ok(())
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.view.data()
    }

    /// An error about this tensor: what it is, then `why`.
    pub fn wrong(&self, why: String) -> Failure {
        let (dtype, shape) = (self.view.dtype(), self.view.shape());
        Failure::bad_input(format!(
            "tensor `{}` of {} is {dtype} {shape:?}: {why}",
            self.name, self.file
        ))
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Names the first thing that is wrong, where the crate's error only says that something is.
fn diagnose(bytes: &[u8]) -> Option<String> {
    let size = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Some(format!(
            "it has {size} bytes: expected at least the 8 of the header's length"
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Some(format!(
            "its header claims {length} bytes: expected at most {MAX_HEADER}"
        ));
    }
    if length > rest.len() as u64 {
        return Some(format!(
            "its header claims {length} bytes, and {} follow: it is truncated",
            rest.len()
        ));
    }
    let (header, data) = rest.split_at(usize::try_from(length).ok()?);
    let header: BTreeMap<String, serde_json::Value> = match serde_json::from_slice(header) {
        Ok(header) => header,
        Err(error) => return Some(format!("its header is not the JSON object expected: {error}")),
    };
    let mut entries = Vec::new();
    for (name, value) in header {
        if name != "__metadata__" {
            match Entry::deserialize(value) {
                Ok(entry) => entries.push((name, entry)),
                Err(error) => return Some(format!("tensor `{name}`: {error}")),
            }
        }
    }
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut covered = 0;
    for (
        name,
        Entry {
            dtype,
            shape,
            data_offsets: (start, end),
        },
    ) in &entries
    {
        let is = format!("tensor `{name}` is {dtype} {shape:?} at bytes {start}..{end}");
        let element = match dtype.as_str() {
            "BF16" | "F16" => 2u128,
            "F32" => 4,
            _ => return None, // another type's size: the crate knows it
        };
        let elements = shape
            .iter()
            .try_fold(element, |product, dim| product.checked_mul(u128::from(*dim)));
        if start > end || *end > data.len() as u64 {
            return Some(format!(
                "{is}: expected offsets within the {} bytes of data",
                data.len()
            ));
        }
        match elements {
            Some(need) if need == u128::from(end - start) => {}
            Some(need) => return Some(format!("{is}: expected {need} bytes, there are {}", end - start)),
            None => return Some(format!("{is}: its size overflows")),
        }
        if *start != covered {
            return Some(format!(
                "{is}: expected it to start at {covered}, where the one before ends"
            ));
        }
        covered = *end;
    }
    let left = (data.len() as u64).checked_sub(covered).filter(|left| *left > 0)?;
    Some(format!(
        "{left} bytes of data belong to no tensor of {}",
        entries
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    ))
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
