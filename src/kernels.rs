//! The kernels' machine code, when the library was built with its feature `build-kernels`. Without it, bring a fatbin of
//! your own: `nvcc -fatbin` of `csrc/kernels/kernels.cc` with the flags in `build/nvcc.rs`.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
