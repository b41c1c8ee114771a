//! What the simulated node promises, promise by promise.
#![cfg(target_os = "linux")]

mod checks;
mod gemm;
mod order;
mod schedule;
mod support;
mod wgmma;
