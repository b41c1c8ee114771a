//! What the simulated node promises, promise by promise.
#![cfg(target_os = "linux")]

mod asynchronous;
mod checks;
mod gemm;
mod links;
mod multicast;
mod order;
mod pipeline;
mod processes;
mod schedule;
mod support;
mod warpgroup;
mod wgmma;
