//! Where the ranks of a group run, as they tell each other: the same device has another ordinal in each process, and the same UUID.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::words::Process;
use crate::driver::{Driver, Identity, Place, Stream};
use crate::error::{Error, Result};
use crate::topology::same_uuid;

/// A rank's place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Told {
    pub uuid: String,
    pub pci: String,
    pub memory_bytes: u64,
    pub share: usize,
    pub shares: usize,
    stream: u64,
    /// Kernels that its device runs at once.
    queues: Option<usize>,
}

/// As logs have it.
impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.uuid)?;
        match self.shares {
            1 => Ok(()),
            shares => write!(f, " ({} of {shares})", self.share),
        }
    }
}

impl Told {
    pub fn of(driver: &dyn Driver, place: Place, stream: Stream) -> Result<Told> {
        let Identity {
            uuid,
            pci,
            memory_bytes,
        } = driver.identity(place.device)?;
        Ok(Told {
            uuid,
            pci,
            memory_bytes,
            share: place.share,
            shares: place.shares,
            stream: stream.0 as u64,
            queues: driver.concurrent_kernels(place.device),
        })
    }

    pub fn identity(&self) -> Identity {
        Identity {
            uuid: self.uuid.clone(),
            pci: self.pci.clone(),
            memory_bytes: self.memory_bytes,
        }
    }

    pub fn shares_device(&self, other: &Told) -> bool {
        same_uuid(&self.uuid, &other.uuid)
    }

    /// Its place by this driver's ordinals; `None`: its device is not visible here.
    pub fn here(&self, driver: &dyn Driver) -> Result<Option<Place>> {
        for device in 0..driver.device_count() {
            if same_uuid(&driver.identity(device)?.uuid, &self.uuid) {
                return Ok(Some(Place {
                    device,
                    share: self.share,
                    shares: self.shares,
                }));
            }
        }
        Ok(None)
    }
}

/// As `residence::check`, of ranks in several processes.
pub(super) fn check(told: &[Told], processes: &[Process]) -> Result<()> {
    for (b, two) in told.iter().enumerate() {
        for (a, one) in told[..b].iter().enumerate() {
            let threads = (processes[a].pid, processes[a].nonce) == (processes[b].pid, processes[b].nonce);
            if threads && one.stream == two.stream && processes[a].driver == processes[b].driver {
                return Err(Error::bad_argument(
                    format!("rank {b}'s stream"),
                    format!("{:#x}, as is rank {a}'s", two.stream),
                    "a stream for each: kernels of one stream run one after the other",
                ));
            }
            let apart = one.shares == two.shares && one.share != two.share;
            if one.shares_device(two) && !apart {
                return Err(Error::bad_argument(
                    format!("rank {b}'s place"),
                    format!(
                        "share {} of {} of {}, where rank {a} has share {} of {}",
                        two.share, two.shares, two.uuid, one.share, one.shares
                    ),
                    "a device for each, or shares of one division, whose SMs are apart: their kernels wait for each other",
                ));
            }
        }
        let on_it: BTreeSet<usize> = (0..told.len())
            .filter(|other| told[*other].shares_device(two))
            .collect();
        let queues = on_it.iter().filter_map(|rank| told[*rank].queues).min();
        if let Some(most) = queues.filter(|most| on_it.len() > *most) {
            return Err(Error::bad_argument(
                format!("the number of ranks on {}", two.uuid),
                on_it.len(),
                format!("at most {most}, so that the kernel of each has a hardware queue"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(device: usize, share: usize, shares: usize, stream: u64) -> Told {
        Told {
            uuid: format!("GPU-51b00000-0000-0000-0000-{device:012x}"),
            pci: String::new(),
            memory_bytes: 0,
            share,
            shares,
            stream,
            queues: Some(2),
        }
    }

    #[test]
    fn ranks_in_each_other_s_way_are_refused() {
        let process = |pid| Process {
            pid,
            nonce: 0,
            driver: 1,
        };
        let (one, two, three) = (process(1), process(2), process(3));
        check(&[told(0, 0, 1, 5), told(1, 0, 1, 5)], &[one, two]).unwrap();
        check(&[told(0, 0, 2, 5), told(0, 1, 2, 5)], &[one, two]).unwrap();
        let refused = |told: &[Told], processes: &[Process]| check(told, processes).unwrap_err().to_string();
        let same = refused(&[told(0, 0, 1, 5), told(0, 0, 1, 6)], &[one, two]);
        assert!(same.starts_with("rank 1's place is share 0 of 1 of GPU-51b"), "{same}");
        let cut = refused(&[told(0, 0, 2, 5), told(0, 2, 3, 6)], &[one, two]);
        assert!(cut.contains("share 2 of 3") && cut.contains("share 0 of 2"), "{cut}");
        let stream = refused(&[told(0, 0, 1, 5), told(1, 0, 1, 5)], &[one, one]);
        assert!(stream.starts_with("rank 1's stream is 0x5, as is rank 0's"), "{stream}");
        let three_here = [told(0, 0, 3, 5), told(0, 1, 3, 5), told(0, 2, 3, 5)];
        let queues = refused(&three_here, &[one, two, three]);
        assert!(queues.contains("is 3: expected at most 2"), "{queues}");
    }
}
