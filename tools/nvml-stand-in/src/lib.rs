//! A stand-in for NVIDIA's `libnvidia-ml.so`: the calls that tileweave reads a machine by, in NVML's own ABI, answered from
//! one of tileweave's snapshot files. So the real `nvml-wrapper` runs where there is no GPU. It reads the file by itself, not
//! by tileweave's own reader, and is strict where NVML is: nothing before `nvmlInit_v2`, buffers that are too short, handles that
//! are none, versions of structs.
//!
//! The library is `libnvml_stand_in.so` beside the tests' programs; `TILEWEAVE_NVML` names it to tileweave. It is told by
//! the environment, at `nvmlInit_v2`:
//!
//! | variable | |
//! |---|---|
//! | `TILEWEAVE_STAND_IN_SNAPSHOT` | the snapshot to serve |
//! | `TILEWEAVE_STAND_IN_INIT` | the code that `nvmlInit_v2` fails with (9: no driver is loaded) |
//! | `TILEWEAVE_STAND_IN_REFUSES` | calls, joined by commas, that answer "not supported" |
//! | `TILEWEAVE_STAND_IN_LOST` | index of a GPU that has fallen off the bus |
//! | `TILEWEAVE_STAND_IN_FABRIC` | newest version of `nvmlGpuFabricInfoV_t` that is known (3) |
//!
//! A library that lacks a symbol is made from it by the tests: they blot out the name.
#![deny(unsafe_op_in_unsafe_fn)]

mod answer;
mod devices;
mod links;
mod slices;
mod snapshot;
mod system;
