//! Which machine a command runs on.

use std::sync::Arc;

use tileweave::Node;
use tileweave::driver::Driver;
use tileweave::driver::sim::{SimConfig, SimNode};

use crate::cli::{Device, RunArgs};
use crate::failure::Failure;
use crate::run::fault::Fault;

/// A machine that is there.
pub enum Machine {
    /// A simulated node, made for each run: it has as many GPUs as the run has ranks.
    Sim,
    /// This machine's GPUs.
    Cuda(Arc<dyn Driver>),
}

impl Machine {
    /// `device` in the JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Machine::Sim => "sim",
            Machine::Cuda(_) => "cuda",
        }
    }

    /// A node without faults for `ranks` ranks, by this seed.
    pub fn node_of(&self, ranks: usize, schedule_seed: u64) -> tileweave::Result<Node> {
        match self {
            Machine::Sim => Node::sim(SimConfig::new(ranks, schedule_seed)),
            Machine::Cuda(driver) => Ok(Node::new(driver.clone())),
        }
    }

    /// The node for a run of `ranks` ranks.
    pub fn node(&self, ranks: usize, args: &RunArgs) -> Result<Node, Failure> {
        match self {
            Machine::Sim => {
                let faults = args.fault.and_then(Fault::of_the_machine).into_iter().collect();
                let config = SimConfig {
                    faults,
                    multicast: args.in_switch(),
                    ..SimConfig::new(ranks, args.common.schedule_seed)
                };
                Ok(Node::new(Arc::new(SimNode::new(config)?)))
            }
            Machine::Cuda(driver) => Ok(Node::new(driver.clone())),
        }
    }

    /// A node without faults for `ranks` ranks, by the first seed.
    pub fn plain_node(&self, ranks: usize) -> tileweave::Result<Node> {
        self.node_of(ranks, 0)
    }

    /// Ranks where the user names no number.
    pub fn default_ranks(&self) -> usize {
        match self {
            Machine::Sim => 4,
            // One GPU alone shows no communication.
            Machine::Cuda(driver) if driver.device_count() < 2 => 4,
            Machine::Cuda(driver) => driver.device_count().min(16),
        }
    }
}

/// Finds the machine asked for. What `auto` takes, and why, goes to standard error.
pub fn choose(wanted: Device) -> Result<Machine, Failure> {
    match wanted {
        Device::Sim => Ok(Machine::Sim),
        Device::Cuda => Ok(Machine::Cuda(cuda::open()?)),
        Device::Auto => match cuda::open() {
            Ok(driver) => {
                notice("device: cuda (--device auto found a usable GPU)");
                Ok(Machine::Cuda(driver))
            }
            Err(error) => {
                notice(&format!("device: sim, the simulated node (--device auto: {error})"));
                Ok(Machine::Sim)
            }
        },
    }
}

/// The machine asked for, where nothing else may stand in: with `auto` this one, or why it has no GPU that can be used.
pub fn this_machine(wanted: Device) -> Result<Result<Machine, String>, Failure> {
    match wanted {
        Device::Sim => Ok(Ok(Machine::Sim)),
        Device::Cuda => Ok(Ok(Machine::Cuda(cuda::open()?))),
        Device::Auto => Ok(cuda::open().map(Machine::Cuda).map_err(|error| error.to_string())),
    }
}

/// The CUDA version that the installed driver supports, or why there is none.
pub fn cuda_driver_version() -> Result<String, String> {
    cuda::version()
        .map(|(major, minor)| format!("{major}.{minor}"))
        .map_err(|error| error.to_string())
}

/// Asks CUDA for as many hardware queues as there may be ranks. To be called before any thread is started.
pub fn prepare() {
    cuda::prepare();
}

/// A notice. A closed standard error is no reason to stop.
pub fn notice(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "tileweave: {text}");
}

#[cfg(any(target_os = "linux", target_os = "windows"))]
mod cuda {
    use std::sync::Arc;

    use tileweave::Result;
    use tileweave::driver::{Driver, cuda};

    use crate::kernels::{ARCHS, FATBIN, REASON};

    pub fn open() -> Result<Arc<dyn Driver>> {
        Ok(Arc::new(cuda::CudaDriver::new(FATBIN, ARCHS, REASON)?))
    }

    pub fn version() -> Result<(u32, u32)> {
        cuda::driver_version()
    }

    pub fn prepare() {
        // SAFETY: called first thing in `main`, when this is the only thread.
        unsafe { cuda::ask_for_queues() };
    }
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
mod cuda {
    use std::sync::Arc;

    use tileweave::driver::Driver;
    use tileweave::{Error, Result};

    fn none<T>() -> Result<T> {
        Err(Error::Unavailable {
            what: "CUDA".into(),
            reason: "there is no driver for this operating system".into(),
        })
    }

    pub fn open() -> Result<Arc<dyn Driver>> {
        none()
    }

    pub fn version() -> Result<(u32, u32)> {
        none()
    }

    pub fn prepare() {}
}
