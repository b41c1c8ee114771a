//! What a launch must be given: its operands, one after the other, as they are named.

use std::fmt::Display;

use crate::abi::TwMat;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Mat, MatMut, RawIds, RawMat};
use crate::op::check::{Check, Launcher, apart};

/// The operands of one launch so far.
pub(super) struct Operands<'a> {
    what: &'a dyn Display,
    dtype: (DType, &'static str),
    by: Launcher,
    read: Vec<(&'static str, RawMat)>,
    written: Vec<(&'static str, RawMat)>,
    /// All of `dtype` can be read 16 bytes at a time, where columns are counted in eights.
    aligned: bool,
}

/// Absent.
pub(super) const NONE: TwMat = TwMat { at: 0, ld: 0 };

impl<'a> Operands<'a> {
    /// Of `what`, all in the type of `of`, the operand of that name.
    pub fn new(rank: &Rank, what: &'a dyn Display, name: &'static str, of: &RawMat) -> Result<Operands<'a>> {
        for (name, value) in [("rows", of.rows), ("columns", of.cols)] {
            below_2_31(name, value)?;
        }
        Ok(Operands {
            what,
            dtype: (of.dtype, name),
            by: Launcher {
                rank: rank.rank(),
                world: rank.world(),
                identity: rank.identity(),
            },
            read: Vec::new(),
            written: Vec::new(),
            aligned: true,
        })
    }

    fn shape(&mut self, name: &'static str, mat: &RawMat, [rows, cols]: [usize; 2]) -> Result<TwMat> {
        let check = Check {
            what: self.what,
            dtype: self.dtype,
            by: self.by,
        };
        check.mat(name, mat, rows, cols)?;
        let row = (mat.ld * mat.dtype.size()) as u64;
        self.aligned &= (mat.ptr | if mat.rows > 1 { row } else { 0 }).is_multiple_of(16);
        Ok(TwMat {
            at: mat.ptr,
            ld: mat.ld as u64,
        })
    }

    /// The same of an f32 matrix, whose elements are read one by one.
    fn of_f32<T>(&mut self, then: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (dtype, aligned) = (self.dtype, self.aligned);
        self.dtype = (DType::F32, "statistics'");
        let done = then(self);
        (self.dtype, self.aligned) = (dtype, aligned);
        done
    }

    pub fn read(&mut self, name: &'static str, mat: &Mat<'_>, shape: [usize; 2]) -> Result<TwMat> {
        self.read.push((name, mat.raw));
        self.shape(name, &mat.raw, shape)
    }

    pub fn read_f32(&mut self, name: &'static str, mat: &Mat<'_>, shape: [usize; 2]) -> Result<TwMat> {
        self.of_f32(|all| all.read(name, mat, shape))
    }

    pub fn maybe_read(&mut self, name: &'static str, mat: &Option<Mat<'_>>, shape: [usize; 2]) -> Result<TwMat> {
        mat.as_ref().map_or(Ok(NONE), |mat| self.read(name, mat, shape))
    }

    /// An output; after all inputs. It may be the very elements of an input of one of the names `over`.
    pub fn write(&mut self, name: &'static str, mat: &MatMut<'_>, shape: [usize; 2], over: &[&str]) -> Result<TwMat> {
        let at = self.shape(name, &mat.raw, shape)?;
        let is_over = |(other, of): &&(&str, RawMat)| over.contains(other) && mat.raw.same(of);
        let expected = match over {
            [] => "memory of its own".to_string(),
            _ => format!("memory of its own, or the very elements of {}", over.join(" or ")),
        };
        let others = self.read.iter().filter(|other| !is_over(other)).chain(&self.written);
        apart((name, &mat.raw), others, &expected)?;
        self.written.push((name, mat.raw));
        Ok(at)
    }

    pub fn write_f32(&mut self, name: &'static str, mat: &MatMut<'_>, shape: [usize; 2]) -> Result<TwMat> {
        self.of_f32(|all| all.write(name, mat, shape, &[]))
    }

    pub fn maybe_write(&mut self, name: &'static str, mat: &Option<MatMut<'_>>, shape: [usize; 2]) -> Result<TwMat> {
        self.maybe_write_over(name, mat, shape, &[])
    }

    pub fn maybe_write_over(
        &mut self,
        name: &'static str,
        mat: &Option<MatMut<'_>>,
        shape: [usize; 2],
        over: &[&str],
    ) -> Result<TwMat> {
        mat.as_ref().map_or(Ok(NONE), |mat| self.write(name, mat, shape, over))
    }

    pub fn maybe_write_f32(
        &mut self,
        name: &'static str,
        mat: &Option<MatMut<'_>>,
        shape: [usize; 2],
    ) -> Result<TwMat> {
        mat.as_ref().map_or(Ok(NONE), |mat| self.write_f32(name, mat, shape))
    }

    /// `count` numbers of words.
    pub fn ids(&self, name: &str, ids: &RawIds, count: usize) -> Result<TwMat> {
        let bad = |value: String, expected: String| Err(Error::bad_argument(name, value, expected));
        if ids.count != count {
            return bad(ids.count.to_string(), format!("{count} of them for {}", self.what));
        }
        let end = (count as u64)
            .checked_mul(8)
            .and_then(|bytes| ids.ptr.checked_add(bytes));
        if count > 0 && (ids.ptr == 0 || end.is_none() || !ids.ptr.is_multiple_of(8)) {
            let expected = format!("device memory of {count} numbers of 8 bytes, at a multiple of 8");
            return bad(format!("numbers at {:#x}", ids.ptr), expected);
        }
        if ids.owner.is_some_and(|owner| owner != self.by.identity) {
            let expected = format!("one of rank {}, which launches", self.by.rank);
            return bad("a buffer of another rank".to_string(), expected);
        }
        Ok(TwMat { at: ids.ptr, ld: 1 })
    }

    /// Whether rows of so many columns can be read in whole octets, 16 bytes at a time.
    pub fn in_vectors(&self, cols: usize) -> u32 {
        u32::from(self.aligned && cols.is_multiple_of(8))
    }
}

/// Kernels count in 32 bits.
pub(super) fn below_2_31(name: &str, value: usize) -> Result<u32> {
    match u32::try_from(value) {
        Ok(value) if value < 1 << 31 => Ok(value),
        _ => Err(Error::bad_argument(name, value, "less than 2^31")),
    }
}

/// An f32 as its bits.
pub(super) fn number(name: &str, value: f32, fits: bool, expected: &str) -> Result<u32> {
    if fits {
        return Ok(value.to_bits());
    }
    Err(Error::bad_argument(name, value, expected))
}
