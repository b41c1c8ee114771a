//! Compiles what is compiled: the simulated machine for feature `sim`.
#[cfg(feature = "sim")]
#[path = "build/sim.rs"]
mod sim;

fn main() {
    #[cfg(feature = "sim")]
    sim::compile();
}
