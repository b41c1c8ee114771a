//! What the host may ask of a simulated node. A bad argument is refused by its name, with its value and what would be right.

use super::config::{Fault, LinkState, SimConfig, SimLink};
use super::handle::SimNode;
use super::machine::CTA_SHARED;
use super::shadow::MAX_THREADS;
use super::table::Entry;
use crate::driver::{DevicePtr, Event, Launch, Place};
use crate::error::{Error, Result};

/// CTAs of a cluster, as on every GPU that has clusters.
const MOST_CTAS: u32 = 8;

impl SimNode {
    /// A device's number on the machine.
    pub(super) fn check_device(&self, name: &str, device: usize) -> Result<usize> {
        self.seen.get(device).copied().ok_or_else(|| {
            let expected = format!("below {}, the devices present", self.seen.len());
            Error::bad_argument(name, device, expected)
        })
    }

    /// The place by the machine's numbers.
    pub(super) fn check_place(&self, place: Place) -> Result<Place> {
        let device = self.check_device("device", place.device)?;
        if place.shares == 0 || place.share >= place.shares {
            let value = format!("{} of {}", place.share, place.shares);
            return Err(Error::bad_argument(
                "share",
                value,
                "a share below the number of shares",
            ));
        }
        if place.shares > self.sms as usize {
            return Err(Error::bad_argument(
                "shares",
                place.shares,
                format!("at most {}, an SM each", self.sms),
            ));
        }
        Ok(Place { device, ..place })
    }

    /// A place of the machine by this process' numbers.
    pub(super) fn place_here(&self, place: Place) -> Place {
        let here = self.seen.iter().position(|device| *device == place.device);
        Place {
            device: here.unwrap_or(place.device),
            ..place
        }
    }

    /// The devices of `accessors`, a bit each.
    pub(super) fn devices_of(&self, accessors: &[Place]) -> Result<u32> {
        accessors
            .iter()
            .try_fold(0, |devices, place| Ok(devices | 1 << self.check_place(*place)?.device))
    }

    /// That the node's switch has multicast.
    pub(super) fn check_switch(&self) -> Result<()> {
        if self.config.multicast {
            return Ok(());
        }
        Err(Error::Unavailable {
            what: "a multicast object".into(),
            reason: "the simulated node's switch has no multicast: SimConfig::multicast".into(),
        })
    }

    pub(super) fn entry(&self, kernel: &str) -> Result<Entry> {
        self.kernels
            .get(kernel)
            .copied()
            .ok_or_else(|| Error::bad_argument("kernel", kernel, "a name in csrc/kernels/entries.h"))
    }

    pub(super) fn check_launch(&self, entry: &Entry, launch: Launch) -> Result<()> {
        if launch.threads == 0 || !launch.threads.is_multiple_of(32) || launch.threads > entry.threads.min(MAX_THREADS)
        {
            let expected = format!(
                "a multiple of 32, at most {} for {}",
                entry.threads.min(MAX_THREADS),
                entry.name
            );
            return Err(Error::bad_argument("threads", launch.threads, expected));
        }
        if !(1..=MOST_CTAS).contains(&launch.cluster) {
            let expected = format!("1 to {MOST_CTAS} CTAs");
            return Err(Error::bad_argument("cluster", launch.cluster, expected));
        }
        if launch.shared > CTA_SHARED {
            return Err(Error::bad_argument(
                "shared",
                launch.shared,
                format!("at most {CTA_SHARED} bytes a CTA"),
            ));
        }
        Ok(())
    }

    /// Whether `device` may touch the memory at `ptr`, which is inside an allocation.
    pub(super) fn check_mapped(&self, name: &str, ptr: DevicePtr, device: usize) -> Result<()> {
        let allocations = self.arena.lock();
        match allocations.find(ptr, 1) {
            Some((_, a)) if a.device != device && a.accessors >> device & 1 == 0 => {
                let value = format!("{ptr:#x}, memory of device {}", a.device);
                Err(Error::bad_argument(
                    name,
                    value,
                    format!("memory that is mapped for device {device}"),
                ))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_range(&self, name: &str, ptr: DevicePtr, bytes: usize) -> Result<()> {
        if bytes == 0 || self.arena.lock().find(ptr, bytes as u64).is_some() {
            return Ok(());
        }
        Err(Error::bad_argument(
            name,
            format!("{ptr:#x}"),
            format!("{bytes} bytes inside one allocation of this node"),
        ))
    }
}

pub(super) fn check_faults(faults: &[Fault], gpus: usize) -> Result<()> {
    for fault in faults {
        let device = match *fault {
            Fault::DropSignals { from, to } => from.max(to),
            Fault::Slow { device, .. } => device,
            _ => 0,
        };
        if device >= gpus {
            return Err(Error::bad_argument(
                "fault",
                format!("{fault:?}"),
                format!("devices below {gpus}"),
            ));
        }
    }
    Ok(())
}

/// What a node may be that has a clock, and what one may not be that has none.
pub(super) fn check_clock(config: &SimConfig) -> Result<()> {
    let refuse = |argument: &str, value: String, expected: &str| Err(Error::bad_argument(argument, value, expected));
    match (&config.clock, config.computes) {
        (None, false) => refuse("computes", "false".into(), "true where there is no clock"),
        (Some(_), true) if !config.faults.is_empty() => refuse(
            "faults",
            format!("{:?}", config.faults),
            "none where kernels are computed behind a clock, which has no faults",
        ),
        (Some(_), true) if config.free_running => refuse(
            "free_running",
            "true".into(),
            "false where kernels are computed behind a clock",
        ),
        _ => Ok(()),
    }
}

/// Devices that are there, each once, and at least one.
pub(super) fn check_seen(seen: &[usize], gpus: usize) -> Result<()> {
    let twice = (1..seen.len()).any(|i| seen[..i].contains(&seen[i]));
    if seen.is_empty() || twice || seen.iter().any(|device| *device >= gpus) {
        let expected = format!("devices below {gpus}, each once, and at least one");
        return Err(Error::bad_argument("visible", format!("{seen:?}"), expected));
    }
    Ok(())
}

pub(super) fn check_links(links: &[SimLink], gpus: usize) -> Result<()> {
    for link in links {
        let (a, b) = (link.from, link.to);
        if a >= gpus || b >= gpus || a == b || matches!(link.state, LinkState::Slow(0)) {
            let expected = format!("two different devices below {gpus}, and a factor of at least 1");
            return Err(Error::bad_argument("links", format!("{link:?}"), expected));
        }
    }
    Ok(())
}

pub(super) fn bad_event(event: Event) -> Error {
    Error::bad_argument("event", event.0, "a live event of this node")
}
