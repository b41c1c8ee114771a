//! A machine: where groups are made.

use std::sync::Arc;

use super::{Group, GroupConfig, Rank, RankPlace, links};
use crate::driver::{Driver, Place, ThreadGuard};
use crate::error::{Error, Result};
use crate::probe::{Cached, Probe, Progress};
use crate::topology::Topology;

/// The devices of one machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    driver: Arc<dyn Driver>,
}

impl Node {
    /// A node over any driver.
    pub fn new(driver: Arc<dyn Driver>) -> Node {
        Node { driver }
    }

    /// A simulated node.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a configuration that no node can have.
    #[cfg(feature = "sim")]
    pub fn sim(config: crate::driver::sim::SimConfig) -> Result<Node> {
        Ok(Node::new(Arc::new(crate::driver::sim::SimNode::new(config)?)))
    }

    /// This machine's GPUs, with the kernels that were built into the library.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver that loads the kernels, a GPU, or kernels (features `prebuilt-kernels`,
    /// `build-kernels`); [`Error::KernelsNotBuilt`] where they were built for other GPUs only, or PTX would serve that is newer than the driver.
    #[cfg(feature = "cuda")]
    pub fn this_machine() -> Result<Node> {
        #[cfg(any(target_os = "linux", target_os = "windows"))]
        {
            use crate::driver::cuda::{CudaDriver, driver_version};
            use crate::kernels::{ARCHS, FATBIN, REASON, archs_for, check_driver};
            let mut archs = ARCHS;
            if FATBIN.is_some() {
                let version = driver_version()?;
                check_driver(version)?;
                archs = archs_for(version);
            }
            Ok(Node::new(Arc::new(CudaDriver::new(FATBIN, archs, REASON)?)))
        }
        #[cfg(not(any(target_os = "linux", target_os = "windows")))]
        {
            let reason = "CUDA exists on Linux and Windows".to_string();
            Err(Error::Unavailable {
                what: "a GPU".to_string(),
                reason,
            })
        }
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Devices present.
    pub fn device_count(&self) -> usize {
        self.driver.device_count()
    }

    /// The machine as it describes itself, of which nothing is tried: [`topology::read`](crate::topology::read).
    ///
    /// # Errors
    /// The driver's.
    pub fn topology(&self) -> Result<Topology> {
        crate::topology::read(&*self.driver)
    }

    /// Marks this thread as one that drives ranks, until the guard is dropped. The simulated node then advances only while
    /// every such thread waits for it. So where several threads drive ranks there, all of them attach before the first one
    /// waits: else simulated time runs while a thread is still about to launch, to the deadline of its peers. Elsewhere
    /// it does nothing.
    pub fn attach_thread(&self) -> ThreadGuard {
        self.driver.attach_thread()
    }

    /// Tries every link between all devices, whatever was found before, and keeps what it finds for groups that are made
    /// later ([`Probing::IfNeeded`](super::Probing::IfNeeded)); but nothing of a simulated node. Takes seconds.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn probe(&self) -> Result<Probe> {
        let all: Vec<usize> = (0..self.device_count()).collect();
        self.probe_devices(&all, &mut |_| {}).map(|found| found.probe)
    }

    /// As [`Node::probe`], of these devices alone; `progress` hears of every pair.
    ///
    /// # Errors
    /// As [`Node::probe`].
    pub fn probe_devices(&self, devices: &[usize], progress: &mut dyn FnMut(Progress)) -> Result<Cached> {
        links::probe(&self.driver, &self.topology()?, devices, progress)
    }

    /// A group of `world` ranks, all in this process, in rank order. Rank r is on device r where there are as many devices;
    /// else the ranks share the devices evenly, each with SMs of its own.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a world outside 1..=16, [`Error::HeapTooSmall`] for a heap without room for a tile, and
    /// the driver's.
    pub fn group(&self, world: usize, config: &GroupConfig) -> Result<Vec<Rank>> {
        let devices = self.device_count();
        if devices == 0 {
            let reason = "the machine has none".to_string();
            return Err(Error::Unavailable {
                what: "a device".to_string(),
                reason,
            });
        }
        let shares = world.div_ceil(devices).max(1);
        let place = |rank| Place {
            device: rank % devices,
            share: rank / devices,
            shares,
        };
        let ranks: Vec<_> = (0..world)
            .map(|rank| RankPlace {
                place: place(rank),
                stream: None,
            })
            .collect();
        Group::make(&self.driver, &ranks, config)
    }

    /// A group of ranks at places, and on streams, of the caller's choice; all in this process, in rank order. Ranks that
    /// could not run at once are refused: on one share, on one stream, on shares of different divisions of a device, or
    /// more of them on a device than it has hardware queues.
    ///
    /// # Safety
    /// Every stream given is a live stream of this driver on the device of its place, and outlives the group: every
    /// [`Rank`], [`Plan`](crate::Plan) and [`Buffer`](crate::Buffer) of it. When the last of them goes, no stream captures,
    /// no graph of its launches is launched any more, and none runs but on its rank's stream.
    ///
    /// # Errors
    /// As [`Node::group`]; [`Error::BadArgument`] for a stream that captures.
    pub unsafe fn group_on(&self, ranks: &[RankPlace], config: &GroupConfig) -> Result<Vec<Rank>> {
        Group::make(&self.driver, ranks, config)
    }
}
