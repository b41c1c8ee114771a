//! The error bound of one element, built up as the contract computes it. Derivation: `docs/numerics.md`.
//!
//! ```text
//! partial r   p_r = sum of K_r products (+ addend), in f32      e_r = terms * STEP * sum of magnitudes
//! wire        w_r = p_r rounded to the wire type                e_r + u_wire (|p_r| + e_r)
//! sum         w_0 + w_1 + .. (+ bias) (+ residual), in f32, rank order       sum of the above + additions * U32 * magnitudes
//! in-switch   the sum of the w_r rounded to the wire type       e + 2 u_wire (|sum| + e), and twice U32 an addition
//! NCCL        w_r in the output's type, rank 0's with the bias;  e + u_out |bias| + additions * (u_out + U32) * magnitudes
//!             each addition rounded to it, in any order          grown by (1 + u_out) an addition
//! output      rounded once                                      e + u_out (|y| + e)
//! ```

use super::values::{overflow, underflow};
use crate::dtype::DType;

/// Unit roundoff of f32.
pub(super) const U32: f64 = 1.0 / 16777216.0;
/// Relative error that one product may bring into an f32 accumulation. An fma chain needs `U32`; a tensor core aligns
/// a group of products and truncates, which twice that covers.
const STEP: f64 = 2.0 * U32;
/// Higher-order terms: (1 + U32)^n - 1 against n U32, and the f64 reference's own rounding.
pub(super) const SLACK: f64 = 1.01;

/// What a result's bound depends on.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub dtype: DType,
    /// The type partials are rounded to; `None` where none is: operands that travel as they are.
    pub wire: Option<DType>,
    /// Who adds up the partials.
    pub adder: Adder,
}

/// Who adds up partials.
#[derive(Clone, Copy)]
pub(super) enum Adder {
    /// The ranks, in f32, in rank order.
    Ranks,
    /// A switch, in an order of its own; it rounds the sum to this type.
    Switch(DType),
    /// NCCL, in an order of its own; every sum of two is rounded to this type.
    Nccl(DType),
}

impl Rules {
    pub(super) fn element(self) -> Element {
        Element {
            rules: self,
            sum: 0.0,
            error: 0.0,
            magnitude: 0.0,
            partials: 0,
            free: false,
        }
    }
}

/// One element on its way from partials to result.
pub(super) struct Element {
    rules: Rules,
    sum: f64,
    error: f64,
    /// Of everything that the sum over ranks adds, errors included.
    magnitude: f64,
    partials: usize,
    /// A finite partial or sum may have left its type's range: what follows may be any infinity or NaN.
    free: bool,
}

impl Element {
    /// Adds one rank's partial: the sum of `terms` products, of that sum of magnitudes.
    pub(super) fn add_partial(&mut self, sum: f64, magnitude: f64, terms: usize, addend: Option<f64>) {
        let partial = sum + addend.unwrap_or(0.0);
        let magnitude = magnitude + addend.map_or(0.0, f64::abs);
        let steps = terms + usize::from(addend.is_some());
        let mut error = steps as f64 * (STEP * magnitude + underflow(DType::F32));
        if partial.is_finite() {
            self.free |= magnitude + error >= overflow(DType::F32);
            if let Some(wire) = self.rules.wire {
                self.free |= partial.abs() + error >= overflow(wire);
            }
        }
        error += rounding(self.rules.wire, partial.abs() + error);
        self.sum += partial;
        self.error += error;
        self.magnitude += partial.abs() + error;
        self.partials += 1;
    }

    /// The right value and its bound; `residual` is added behind the bias.
    pub(super) fn finish(mut self, bias: Option<f64>, residual: Option<f64>) -> (f64, f64) {
        let given = bias.map_or(0.0, f64::abs) + residual.map_or(0.0, f64::abs);
        if let Adder::Nccl(to) = self.rules.adder {
            let additions = self.partials.saturating_sub(1) as f64;
            let magnitude = (self.magnitude + given) * (1.0 + rounding(Some(to), 1.0)).powf(additions);
            self.free |= magnitude.is_finite() && magnitude >= overflow(to);
            let more = rounding(self.rules.wire, given) + additions * (U32 * magnitude + rounding(Some(to), magnitude));
            self.error += more;
            self.magnitude += more;
        }
        if let Adder::Switch(to) = self.rules.adder {
            // How a switch adds and rounds is not documented: a unit in the last place, where rounding to nearest errs by half.
            let additions = self.partials.saturating_sub(1) as f64;
            let sums = self.error + additions * U32 * self.magnitude;
            self.free |= self.sum.is_finite() && self.sum.abs() + sums >= overflow(to);
            let more = additions * U32 * self.magnitude + 2.0 * rounding(Some(to), self.sum.abs() + sums);
            self.error += more;
            self.magnitude += more;
        }
        let value = self.sum + bias.unwrap_or(0.0) + residual.unwrap_or(0.0);
        self.magnitude += given;
        let ends = usize::from(bias.is_some()) + usize::from(residual.is_some());
        let additions = self.partials.saturating_sub(1) + ends;
        let mut error = self.error + additions as f64 * U32 * self.magnitude;
        self.free |= value.is_finite() && self.magnitude + error >= overflow(DType::F32);
        if self.free {
            return (value, f64::INFINITY);
        }
        if !value.is_finite() {
            return (value, 0.0); // NaN and infinity propagate: the class is exact
        }
        error += rounding(Some(self.rules.dtype), value.abs() + error);
        (value, SLACK * error)
    }
}

/// What rounding an f32 of at most this magnitude to `to` may add; f32 stays as it is.
pub(super) fn rounding(to: Option<DType>, magnitude: f64) -> f64 {
    match to {
        Some(to) if to != DType::F32 => to.unit_roundoff() * magnitude + underflow(to),
        _ => 0.0,
    }
}
