//! A computed part against the reference.

use std::ops::Range;

use super::{Expected, overflow};

/// One element that is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wrong {
    /// Row in the global result.
    pub row: usize,
    /// Column in the global result.
    pub col: usize,
    /// What was computed.
    pub got: f64,
    /// What is right.
    pub want: f64,
    /// How far off it may be.
    pub bound: f64,
}

/// How a computed part compares.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Comparison {
    /// Largest distance from the reference, over the elements that are finite in both.
    pub max_abs_err: f64,
    /// The element furthest out of its bound; `None` if the part is right.
    pub wrong: Option<Wrong>,
    /// How many elements are out of bounds.
    pub wrong_count: usize,
}

impl Comparison {
    /// Folds another part's comparison into this one.
    pub fn merge(&mut self, other: Comparison) {
        self.max_abs_err = self.max_abs_err.max(other.max_abs_err);
        self.wrong_count += other.wrong_count;
        if let Some(wrong) = other.wrong {
            self.note(wrong);
        }
    }

    fn note(&mut self, wrong: Wrong) {
        let excess = |w: &Wrong| {
            let excess = (w.got - w.want).abs() - w.bound;
            if excess.is_nan() { f64::INFINITY } else { excess }
        };
        if self.wrong.as_ref().is_none_or(|worst| excess(&wrong) > excess(worst)) {
            self.wrong = Some(wrong);
        }
    }
}

impl Expected {
    /// Judges `got`, the row-major part of the result at `rows` and `cols`. A part of another size, or outside the
    /// result, is wrong as a whole.
    pub fn compare(&self, rows: Range<usize>, cols: Range<usize>, got: &[f64]) -> Comparison {
        let mut comparison = Comparison::default();
        let inside = rows.end <= self.rows && cols.end <= self.cols;
        if !inside || got.len() != rows.len() * cols.len() {
            let (row, col) = (rows.start, cols.start);
            comparison.wrong = Some(Wrong {
                row,
                col,
                got: f64::NAN,
                want: f64::NAN,
                bound: 0.0,
            });
            comparison.wrong_count = rows.len().saturating_mul(cols.len()).max(1);
            return comparison;
        }
        for (row, line) in rows.zip(got.chunks_exact(cols.len().max(1))) {
            for (col, &got) in cols.clone().zip(line) {
                let (want, bound) = (self.value[row * self.cols + col], self.bound[row * self.cols + col]);
                let distance = (got - want).abs();
                if distance.is_finite() {
                    comparison.max_abs_err = comparison.max_abs_err.max(distance);
                }
                if !self.accepts(got, want, bound) {
                    comparison.wrong_count += 1;
                    comparison.note(Wrong {
                        row,
                        col,
                        got,
                        want,
                        bound,
                    });
                }
            }
        }
        comparison
    }

    fn accepts(&self, got: f64, want: f64, bound: f64) -> bool {
        if bound.is_infinite() {
            return true;
        }
        match (want.is_finite(), got.is_finite()) {
            (true, true) => (got - want).abs() <= bound,
            // The output's rounding may reach infinity, on the side where the value is.
            (true, false) => {
                got.is_infinite() && got.signum() == want.signum() && want.abs() + bound >= overflow(self.dtype)
            }
            (false, _) => got == want || (got.is_nan() && want.is_nan()),
        }
    }
}
