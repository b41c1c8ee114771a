//! What the simulated node promises, promise by promise.

mod gemm;
mod support;
