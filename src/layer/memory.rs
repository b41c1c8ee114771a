//! Memory of composite layers: what a forward pass leaves for its backward pass, and what lies between the operations of
//! one pass. Both are a buffer that is handed out in parts, by the same function that counted them when it was made.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Buffer, MatMut, RawMat};

/// Parts begin at multiples of this.
const ALIGN: usize = 256;
/// Rows of a part begin at multiples of this, as TMA and vector loads like it.
const ROW_ALIGN: usize = 16;

/// A buffer, handed out in parts that share no byte.
pub(super) struct Carver<'a> {
    ptr: u64,
    owner: Option<(u64, usize)>,
    bytes: usize,
    /// The first byte that is still to be had.
    at: usize,
    /// The largest that `at` has been, in scopes that have ended too.
    most: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Carver<'a> {
    fn new(buffer: &'a mut Buffer) -> Carver<'a> {
        Carver {
            ptr: buffer.ptr(),
            owner: Some(buffer.rank().identity()),
            bytes: buffer.len(),
            at: 0,
            most: 0,
            memory: PhantomData,
        }
    }

    /// The bytes that `parts` takes of a buffer.
    pub fn count(parts: impl FnOnce(&mut Carver<'_>) -> Result<()>) -> Result<usize> {
        let mut carver = Carver {
            ptr: 0,
            owner: None,
            bytes: usize::MAX,
            at: 0,
            most: 0,
            memory: PhantomData,
        };
        parts(&mut carver)?;
        Ok(carver.most)
    }

    /// The next part.
    pub fn take(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<MatMut<'a>> {
        self.take_at(rows, cols, cols.next_multiple_of(ROW_ALIGN / dtype.size()), dtype)
    }

    /// The next part, without gaps between its rows.
    pub fn take_flat(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<MatMut<'a>> {
        self.take_at(rows, cols, cols, dtype)
    }

    /// Parts for a while: `use_them` is given what is still to be had, and after it all of that is to be had again. No part gets
    /// out, since `'_` ends with it; who has the bytes next comes later in the rank's stream.
    pub fn scope<T>(&mut self, use_them: impl FnOnce(&mut Carver<'_>) -> Result<T>) -> Result<T> {
        let mut inner = Carver {
            ptr: self.ptr,
            owner: self.owner,
            bytes: self.bytes,
            at: self.at,
            most: self.most,
            memory: PhantomData,
        };
        let done = use_them(&mut inner)?;
        self.most = inner.most;
        Ok(done)
    }

    fn take_at(&mut self, rows: usize, cols: usize, ld: usize, dtype: DType) -> Result<MatMut<'a>> {
        let bytes = rows
            .checked_mul(ld)
            .and_then(|elements| elements.checked_mul(dtype.size()));
        let end = bytes.and_then(|bytes| self.at.checked_add(bytes)?.checked_next_multiple_of(ALIGN));
        let end = end.filter(|end| *end <= self.bytes).ok_or_else(|| {
            let value = format!("{} bytes", self.bytes);
            let expected = format!(
                "room for [{rows}, {cols}] of {dtype} behind {} bytes that are taken",
                self.at
            );
            Error::bad_argument("the layer's memory", value, expected)
        })?;
        // Parts are disjoint, since `at` only grows, and the buffer is borrowed exclusively as long as any of them.
        let raw = RawMat {
            ptr: self.ptr + self.at as u64,
            rows,
            cols,
            ld,
            dtype,
            owner: self.owner,
        };
        self.at = end;
        self.most = self.most.max(end);
        Ok(MatMut {
            raw,
            memory: PhantomData,
        })
    }
}

/// What lies between the operations of one pass. One, as large as the largest layer asks for, serves all layers of a model,
/// since their passes run one behind the other in a rank's stream.
#[derive(Debug)]
pub struct Workspace {
    buffer: Buffer,
}

impl Workspace {
    /// Of `bytes`, on a rank's device.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn new(rank: &Rank, bytes: usize) -> Result<Workspace> {
        Ok(Workspace {
            buffer: rank.alloc(bytes)?,
        })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// All of it, for a pass of a layer that needs `bytes`.
    pub(super) fn open(&mut self, bytes: usize) -> Result<Carver<'_>> {
        if self.buffer.len() < bytes {
            let value = format!("{} bytes", self.buffer.len());
            let expected = format!("at least the layer's workspace_bytes(), {bytes}");
            return Err(Error::bad_argument("the workspace", value, expected));
        }
        Ok(Carver::new(&mut self.buffer))
    }
}

/// Tells layers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerId(u64);

impl LayerId {
    pub fn new() -> LayerId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that every number is given once matters.
        LayerId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The batch of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Rows.
    pub m: usize,
    /// Rows of a sequence, where that matters; else 0.
    pub seq: usize,
}

/// What one forward pass of one layer leaves for its backward pass, which takes it.
#[derive(Debug)]
pub struct Saved {
    layer: LayerId,
    buffer: Buffer,
    /// Of the forward pass that was here last and has had no backward pass.
    batch: Option<Batch>,
}

impl Saved {
    pub(super) fn new(rank: &Rank, layer: LayerId, bytes: usize) -> Result<Saved> {
        Ok(Saved {
            layer,
            buffer: rank.alloc(bytes)?,
            batch: None,
        })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The rows of the forward pass that it holds; `None` before one, and after the backward pass.
    pub fn m(&self) -> Option<usize> {
        self.batch.map(|batch| batch.m)
    }

    fn of(&self, layer: LayerId) -> Result<()> {
        match self.layer == layer {
            true => Ok(()),
            false => Err(Error::bad_argument(
                "saved",
                "of another layer",
                "what this layer's saved() made",
            )),
        }
    }

    /// Has a forward pass fill it.
    pub(super) fn fill(
        &mut self,
        layer: LayerId,
        batch: Batch,
        pass: impl FnOnce(&mut Carver<'_>) -> Result<()>,
    ) -> Result<()> {
        self.of(layer)?;
        self.batch = None;
        pass(&mut Carver::new(&mut self.buffer))?;
        self.batch = Some(batch);
        Ok(())
    }

    /// Has a backward pass of `m` rows take what is there; where that is refused, it stays.
    pub(super) fn consume(
        &mut self,
        layer: LayerId,
        m: usize,
        pass: impl FnOnce(&mut Carver<'_>, Batch) -> Result<()>,
    ) -> Result<()> {
        self.of(layer)?;
        let batch = match self.batch {
            None => {
                let expected = format!("what a forward pass of {m} rows leaves, once for each backward pass");
                return Err(Error::bad_argument("saved", "empty", expected));
            }
            Some(batch) if batch.m != m => {
                let value = format!("of a forward pass of {} rows", batch.m);
                let expected = format!("of one of {m}, as the backward pass has");
                return Err(Error::bad_argument("saved", value, expected));
            }
            Some(batch) => batch,
        };
        pass(&mut Carver::new(&mut self.buffer), batch)?;
        self.batch = None;
        Ok(())
    }
}
