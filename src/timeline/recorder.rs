//! A rank's memory for stamps.
//!
//! It has room for the two kernels that a launch has at most, each as `csrc/abi.h` lays it out: tracks, then rings of stamps. A
//! recorded launch first clears the tracks, in the stream's order and so in every replay of a graph, too. So what stands
//! there is of one launch, whatever was recorded before, and rings need no clearing: a track tells how much of its ring counts.

use std::sync::{Mutex, PoisonError};

use super::read::{TRACK_WORDS, track};
use super::{RankTimeline, Role};
use crate::abi::{self, TwParams, TwStamp, TwTrack};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::Buffer;
use crate::op::Step;

/// Kernels of a launch.
const KERNELS: usize = 2;
/// More would take gigabytes.
const MOST_STAMPS: usize = 1 << 16;

/// A rank's memory for the stamps of one launch: made once, used as often as wanted, by one launch at a time. A launch without
/// one stamps nothing and costs nothing.
///
/// It must live as long as launches, and graphs, that were recorded with it.
#[derive(Debug)]
pub struct Recorder {
    rank: Rank,
    memory: Buffer,
    ctas: usize,
    stamps: usize,
    /// Of the last launch.
    kernels: Mutex<Vec<&'static str>>,
}

impl Recorder {
    /// With room for so many stamps for each role of each CTA, 16 bytes each; what is more is counted, and dropped. A block takes a
    /// role two or three stamps; of a block that it reduces, a role takes three more, and one for each rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no stamp, or more than 65536; the driver's, where there is not that much memory.
    pub fn new(rank: &Rank, stamps: usize) -> Result<Recorder> {
        if stamps == 0 || stamps > MOST_STAMPS {
            let expected = format!("1 to {MOST_STAMPS} stamps for each role of a CTA");
            return Err(Error::bad_argument("stamps", stamps, expected));
        }
        let ctas = rank.facts().ctas.values().max().copied().unwrap_or(1).max(1) as usize;
        let recorder = Recorder {
            rank: rank.clone(),
            memory: rank.alloc(KERNELS * region(ctas, stamps))?,
            ctas,
            stamps,
            kernels: Mutex::new(Vec::new()),
        };
        recorder.begin()?;
        Ok(recorder)
    }

    /// The rank whose launches it records.
    pub fn rank(&self) -> &Rank {
        &self.rank
    }

    /// Bytes of device memory that it takes.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// What the last recorded launch did, or its last replay; blocks until that is done. Without one: no kernel and no track. After
    /// a failure of the group: what its kernels did until they gave up.
    ///
    /// # Errors
    /// [`Error::Driver`] where memory cannot be read, as while the rank's stream captures.
    pub fn read(&self) -> Result<RankTimeline> {
        self.rank.finish_nccl()?;
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tracks = Vec::new();
        for kernel in 0..kernels.len().min(KERNELS) {
            let places = self.ctas * Role::ALL.len();
            let heads = self.words(self.region(kernel), places * TRACK_WORDS)?;
            for (place, head) in heads.chunks_exact(TRACK_WORDS).enumerate() {
                let [written, began, ended] = [head[0], head[1], head[2]];
                // A role that never began; and one that never ended, on a device that was lost.
                if began == 0 && ended == 0 {
                    continue;
                }
                let kept = written.min(self.stamps as u64) as usize;
                let stamps = self.words(self.ring(kernel, place), kept * size_of::<TwStamp>() / 8)?;
                let (cta, role) = (place / Role::ALL.len(), Role::ALL[place % Role::ALL.len()]);
                tracks.push(track((kernel, cta, role), (began, ended), written, &stamps));
            }
        }
        Ok(RankTimeline {
            rank: self.rank.rank(),
            world: self.rank.world(),
            kernels,
            tracks,
        })
    }

    /// A launch comes: nothing is left of the one before. Behind the work in the rank's stream.
    pub(crate) fn begin(&self) -> Result<()> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        (0..KERNELS).try_for_each(|kernel| {
            let (at, bytes) = (self.region(kernel), heads(self.ctas));
            self.rank.driver().fill(at, 0, bytes, self.rank.stream())
        })
    }

    /// The launch's next kernel will stamp here.
    pub(crate) fn kernel(&self, step: &Step, params: &mut TwParams) -> Result<()> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if kernels.len() == KERNELS || step.launch.grid as usize > self.ctas {
            let value = format!("room for {KERNELS} kernels of {} CTAs", self.ctas);
            let expected = format!("room for kernel {} of {} CTAs", kernels.len() + 1, step.launch.grid);
            return Err(Error::bad_argument("the recorder", value, expected));
        }
        params.stamps = self.region(kernels.len());
        (params.stamp_ctas, params.stamp_capacity) = (self.ctas as u32, self.stamps as u32);
        kernels.push(step.kernel.name());
        Ok(())
    }

    fn region(&self, kernel: usize) -> u64 {
        self.memory.ptr() + (kernel * region(self.ctas, self.stamps)) as u64
    }

    fn ring(&self, kernel: usize, place: usize) -> u64 {
        self.region(kernel) + (heads(self.ctas) + place * self.stamps * size_of::<TwStamp>()) as u64
    }

    fn words(&self, at: u64, count: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; count * 8];
        if count != 0 {
            self.rank.driver().copy_out(&mut bytes, at, self.rank.stream())?;
        }
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Ok(bytes.chunks_exact(8).map(word).collect())
    }
}

/// Bytes of a kernel's tracks.
fn heads(ctas: usize) -> usize {
    ctas * abi::TW_ROLES as usize * size_of::<TwTrack>()
}

/// Bytes of a kernel's tracks and stamps.
fn region(ctas: usize, stamps: usize) -> usize {
    heads(ctas) + ctas * abi::TW_ROLES as usize * stamps * size_of::<TwStamp>()
}
