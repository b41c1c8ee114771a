//! The kernels' machine code, built with the program where nvcc was found; else `REASON` says why it is missing.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
