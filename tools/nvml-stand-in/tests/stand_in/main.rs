//! Machines by the real `nvml-wrapper`: each snapshot of `tests/topology` is served by the stand-in library, read by tileweave, and has to
//! come out as it went in; and libraries that are missing, old, silent or at odds with themselves cost facts, never more.
//!
//! A process reads its environment once and for all, so each reading is a process: this program again, in `inside`.
#![cfg(target_os = "linux")]

mod disorder;
mod driver;
mod inside;
mod machines;
mod refusals;
mod run;
