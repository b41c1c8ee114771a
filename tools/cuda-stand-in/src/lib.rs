//! A stand-in for NVIDIA's `libcuda.so.1`: the entry points of the CUDA driver API that tileweave's driver, and
//! cudarc's safe layer, call, in CUDA's own ABI, served by tileweave's simulated node. So the CUDA half of the library
//! runs where there is no GPU: contexts, streams, events, memory, virtual memory, multicast, green contexts, captures
//! and tileweave's own kernels.
//!
//! The library is `libcuda_stand_in.so` beside the tests' programs; a folder that has it as `libcuda.so` and
//! `libcuda.so.1`, first in `LD_LIBRARY_PATH`, is enough. It is told by the environment, at `cuInit`:
//!
//! | variable | |
//! |---|---|
//! | `TILEWEAVE_STAND_IN_GPUS` | devices, 1 to 16 (2) |
//! | `TILEWEAVE_STAND_IN_SMS` | SMs of each, 1 to 256 (8) |
//! | `TILEWEAVE_STAND_IN_SEED` | what schedules are drawn from (0) |
//! | `TILEWEAVE_STAND_IN_MULTICAST` | 1: the switch has multicast (0) |
//! | `CUDA_VISIBLE_DEVICES` | ordinals of the devices that are there, in this order (all) |
//! | `TILEWEAVE_STAND_IN_TELL` | anything: refused calls say why on the standard error stream |
//!
//! The node runs free ([`SimConfig::free_running`](tileweave::driver::sim::SimConfig)): work begins when it is
//! enqueued, whoever waits or does not, deadlines are of the wall clock, and no thread is attached to anything. Two
//! threads may drive two ranks, one thread may launch them one after the other, and a loop may poll. Results are those
//! of the node that does not run free; schedules are not repeated. What the node finds wrong with a kernel is printed,
//! and every later call is `CUDA_ERROR_LAUNCH_FAILED`, as after a fault on a GPU.
//!
//! Where it is not as a GPU:
//! - Its kernels are tileweave's, whatever code is loaded, and each takes one `TwParams`.
//! - Compute capability is 9.0. Times between events are those of the simulation's execution: they mean nothing.
//! - A range of addresses belongs to a device. `cuMemAddressReserve` takes one of the device whose physical memory, or the multicast
//!   object that, the thread named last (by making, importing, binding it or asking for its properties); what is mapped
//!   there must be that.
//! - Captures bind the thread that began, in every mode, and hold one stream: no forks, no allocations, no nested graphs.
//! - Copies between devices that do not reach each other are copies all the same. Memory of a device is 64 GiB.
//! - No managed memory, host callbacks, textures, external memory, contexts besides primary and green ones. Calls for those answer
//!   `CUDA_ERROR_NOT_SUPPORTED` where cudarc's safe layer has them; others are not there.
#![deny(unsafe_op_in_unsafe_fn)]

#[macro_use]
mod answer;
mod absent;
mod attributes;
mod context;
mod copies;
mod descriptors;
mod device;
mod event;
mod graph;
mod green;
mod handles;
mod kernels;
mod launch;
mod live;
mod machine;
mod memory;
mod multicast;
mod names;
mod order;
mod pool;
mod stream;
mod tensor_map;
mod virtual_memory;
