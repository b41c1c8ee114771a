//! Where a rank's parameter stands in a checkpoint.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, Result};

/// A parameter of one rank as rows and columns of whole tensors `[out, in]`. Its own memory is row-major, without gaps.
///
/// A tensor of one dimension, a bias or a norm's weight, counts as rows of one element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    rows: usize,
    cols: usize,
    pub(super) pieces: Vec<Piece>,
}

/// A block of a tensor, and the rows of the parameter that it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub tensor: String,
    /// Of the whole tensor.
    pub shape: Vec<usize>,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// The first row in the parameter, and how far apart they are there.
    pub first: usize,
    pub step: usize,
}

impl Part {
    /// All of a tensor of one or two dimensions.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for other shapes.
    pub fn whole(tensor: &str, shape: &[usize]) -> Result<Part> {
        let [rows, _] = plane(tensor, shape)?;
        Part::rows(tensor, shape, 0..rows)
    }

    /// These rows of a tensor; elements, where it has one dimension.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for rows that it does not have, and for shapes of other than one or two dimensions.
    pub fn rows(tensor: &str, shape: &[usize], rows: Range<usize>) -> Result<Part> {
        let [height, width] = plane(tensor, shape)?;
        within(tensor, "rows", &rows, height)?;
        Ok(Part::block(tensor, shape, rows, 0..width))
    }

    /// These columns of a tensor `[out, in]`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for columns that it does not have.
    pub fn columns(tensor: &str, shape: [usize; 2], columns: Range<usize>) -> Result<Part> {
        within(tensor, "columns", &columns, shape[1])?;
        Ok(Part::block(tensor, &shape, 0..shape[0], columns))
    }

    /// A block that is known to lie within the tensor.
    pub(super) fn block(tensor: &str, shape: &[usize], rows: Range<usize>, cols: Range<usize>) -> Part {
        let piece = Piece {
            tensor: tensor.into(),
            shape: shape.into(),
            rows: rows.clone(),
            cols: cols.clone(),
            first: 0,
            step: 1,
        };
        Part {
            rows: rows.len(),
            cols: cols.len(),
            pieces: vec![piece],
        }
    }

    /// One below the other: q, k and v in one weight.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where they have not the same columns.
    pub fn stacked(parts: impl IntoIterator<Item = Part>) -> Result<Part> {
        let mut parts = parts.into_iter();
        let none = || Error::bad_argument("parts", "none", "at least one");
        let mut all = parts.next().ok_or_else(none)?;
        for part in parts {
            all.same_width(&part)?;
            let below = part.pieces.into_iter().map(|piece| Piece {
                first: piece.first + all.rows,
                ..piece
            });
            all.pieces.extend(below);
            all.rows += part.rows;
        }
        Ok(all)
    }

    /// Rows in turn: 2j of the first, 2j + 1 of the second. Gate and up in one weight.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where they have not the same shape.
    pub fn interleaved(even: Part, odd: Part) -> Result<Part> {
        even.same_width(&odd)?;
        if even.rows != odd.rows {
            let value = format!("of {} rows", odd.rows);
            let expected = format!("{}, as {}", even.rows, even.name());
            return Err(Error::bad_argument(odd.name(), value, expected));
        }
        let spread = |part: Part, by: usize| {
            part.pieces.into_iter().map(move |piece| Piece {
                first: 2 * piece.first + by,
                step: 2 * piece.step,
                ..piece
            })
        };
        let (rows, cols) = (2 * even.rows, even.cols);
        let pieces = spread(even, 0).chain(spread(odd, 1)).collect();
        Ok(Part { rows, cols, pieces })
    }

    /// Rows and columns of the parameter.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The tensors that it is of, with their shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.pieces
            .iter()
            .map(|piece| (piece.tensor.as_str(), piece.shape.as_slice()))
    }

    /// Its bytes, cut out of whole tensors in memory, each of elements of `size` bytes.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a tensor that `of` does not know, or of another length.
    pub fn cut<'a>(&self, size: usize, of: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Vec<u8>> {
        self.gather(size, |piece, offset, to| {
            let whole = of(&piece.tensor).ok_or_else(|| piece.missing())?;
            piece.fits(whole.len(), size)?;
            to.copy_from_slice(&whole[offset as usize..][..to.len()]);
            Ok(())
        })
    }

    /// The way back: puts its bytes where they stand in whole tensors in memory. A tensor that is not there begins with zeros.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for bytes of another length, and where a tensor that is there has another.
    pub fn put(&self, size: usize, bytes: &[u8], tensors: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
        self.scatter(size, bytes, |piece, offset, from| {
            let zeros = || vec![0; piece.shape.iter().product::<usize>() * size];
            let whole = tensors.entry(piece.tensor.clone()).or_insert_with(zeros);
            piece.fits(whole.len(), size)?;
            whole[offset as usize..][..from.len()].copy_from_slice(from);
            Ok(())
        })
    }

    /// Fills the parameter; `read` is given a piece, an offset within its tensor, and where the bytes go: as few calls as there are runs of bytes.
    pub(super) fn gather(&self, size: usize, read: impl Fn(&Piece, u64, &mut [u8]) -> Result<()>) -> Result<Vec<u8>> {
        let width = self.cols * size;
        let mut bytes = vec![0; self.rows * width];
        let mut run = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.elements() > 0) {
            match (piece.is_run(), piece.step) {
                (true, 1) => {
                    let to = &mut bytes[piece.first * width..][..piece.rows.len() * width];
                    read(piece, piece.offset(0, size), to)?;
                }
                (true, _) => {
                    run.resize(piece.rows.len() * width, 0);
                    read(piece, piece.offset(0, size), &mut run)?;
                    for (row, from) in run.chunks_exact(width).enumerate() {
                        bytes[piece.to(row) * width..][..width].copy_from_slice(from);
                    }
                }
                (false, _) => {
                    for row in 0..piece.rows.len() {
                        let to = &mut bytes[piece.to(row) * width..][..width];
                        read(piece, piece.offset(row, size), to)?;
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Hands out the parameter's bytes likewise.
    pub(super) fn scatter(
        &self,
        size: usize,
        bytes: &[u8],
        mut write: impl FnMut(&Piece, u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.check_length(size, bytes)?;
        let width = self.cols * size;
        let mut run = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.elements() > 0) {
            match (piece.is_run(), piece.step) {
                (true, 1) => {
                    let from = &bytes[piece.first * width..][..piece.rows.len() * width];
                    write(piece, piece.offset(0, size), from)?;
                }
                (true, _) => {
                    run.clear();
                    let rows = (0..piece.rows.len()).map(|row| &bytes[piece.to(row) * width..][..width]);
                    rows.for_each(|row| run.extend_from_slice(row));
                    write(piece, piece.offset(0, size), &run)?;
                }
                (false, _) => {
                    for row in 0..piece.rows.len() {
                        let from = &bytes[piece.to(row) * width..][..width];
                        write(piece, piece.offset(row, size), from)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes are as many as the parameter has.
    pub(super) fn check_length(&self, size: usize, bytes: &[u8]) -> Result<()> {
        let need = self.rows * self.cols * size;
        if bytes.len() != need {
            let value = format!("{} bytes", bytes.len());
            let expected = format!("{need}, [{}, {}] of {size} bytes", self.rows, self.cols);
            return Err(Error::bad_argument(
                format!("the part {}", self.name()),
                value,
                expected,
            ));
        }
        Ok(())
    }

    /// What an error calls it.
    fn name(&self) -> String {
        let names: Vec<&str> = self.pieces.iter().map(|piece| piece.tensor.as_str()).collect();
        format!("of `{}`", names.join("`, `"))
    }

    fn same_width(&self, other: &Part) -> Result<()> {
        if self.cols != other.cols {
            let value = format!("of {} columns", other.cols);
            let expected = format!("{}, as the part {}", self.cols, self.name());
            return Err(Error::bad_argument(
                format!("the part {}", other.name()),
                value,
                expected,
            ));
        }
        Ok(())
    }
}

impl Piece {
    fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }

    pub fn elements(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// Whether its bytes are one run in the tensor.
    fn is_run(&self) -> bool {
        self.cols.len() == self.width() || self.rows.len() == 1
    }

    /// Where its row begins, in bytes from the tensor's start.
    pub fn offset(&self, row: usize, size: usize) -> u64 {
        let elements = (self.rows.start + row) as u64 * self.width() as u64 + self.cols.start as u64;
        elements * size as u64
    }

    /// Which row of the parameter its row is.
    fn to(&self, row: usize) -> usize {
        self.first + row * self.step
    }

    fn missing(&self) -> Error {
        let expected = format!("a tensor of shape {:?}", self.shape);
        Error::bad_argument(format!("tensor `{}`", self.tensor), "missing", expected)
    }

    fn fits(&self, bytes: usize, size: usize) -> Result<()> {
        let need = self.shape.iter().product::<usize>() * size;
        if bytes != need {
            let expected = format!("{need}, {:?} of {size} bytes", self.shape);
            let name = format!("tensor `{}`", self.tensor);
            return Err(Error::bad_argument(name, format!("{bytes} bytes"), expected));
        }
        Ok(())
    }
}

/// Rows and columns of a tensor of one or two dimensions.
fn plane(tensor: &str, shape: &[usize]) -> Result<[usize; 2]> {
    match *shape {
        [rows] => Ok([rows, 1]),
        [rows, cols] => Ok([rows, cols]),
        _ => {
            let value = format!("of shape {shape:?}");
            Err(Error::bad_argument(
                format!("tensor `{tensor}`"),
                value,
                "one or two dimensions",
            ))
        }
    }
}

fn within(tensor: &str, what: &str, range: &Range<usize>, size: usize) -> Result<()> {
    if range.start > range.end || range.end > size {
        let name = format!("{what} of tensor `{tensor}`");
        return Err(Error::bad_argument(
            name,
            format!("{range:?}"),
            format!("some within its {size}"),
        ));
    }
    Ok(())
}
