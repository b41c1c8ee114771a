//! Work of a rank alone, kernel by kernel: every value within a stated bound of the f64 reference (`docs/local.md` derives the
//! bounds), on ragged shapes, rows with gaps, addresses of any alignment and all types; the same bits for every schedule, grid and
//! alignment; NaN where the formula has it; and an error for what cannot be.

#[path = "../common/mod.rs"]
mod common;

mod activations;
mod attention;
mod embedding;
mod losses;
mod moves;
mod norms;
mod refusals;
mod support;
