//! Where an operation's time goes: what every CTA and role of its kernels did and when, as they stamped it themselves
//! (`docs/timeline.md`).
//!
//! A [`Recorder`] is a rank's memory for stamps; [`Plan::launch_recorded`](crate::Plan::launch_recorded) launches with it, and a
//! [`Timeline`] reads back what the last such launch, or its last replay in a graph, left on every rank.

mod phases;
mod read;
mod recorder;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::abi;
use crate::driver::Kind as Machine;
use crate::error::{Result, WaitKind};

pub use phases::{Phases, Summary};
pub use recorder::Recorder;

/// Who stamps: a role of a CTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// All threads of a CTA: of the portable kernels, and of CTAs that only reduce.
    Cta,
    /// Loads operands; waits for gathered rows.
    Loader,
    /// Sends what was computed: to the output, or to its owner.
    Storer,
    /// Pushes rows, or reduces and collects; begins and ends the operation.
    Communicator,
    /// Multiplies.
    Math,
}

impl Role {
    /// All of them, in the order of their tracks.
    pub const ALL: [Role; abi::TW_ROLES as usize] =
        [Role::Cta, Role::Loader, Role::Storer, Role::Communicator, Role::Math];
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Cta => "CTA",
            Role::Loader => "loader",
            Role::Storer => "storer",
            Role::Communicator => "communicator",
            Role::Math => "math",
        })
    }
}

/// What a role did in a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// The mainloop of a block, from its first operands on.
    Math,
    /// A partial on its way to its owner, or rows on their way to all peers.
    Push,
    /// A product leaves the threads that computed it, for the output or for who sends it.
    Store,
    /// A wait for words of a rank; `peer` is who was late, `None` where nobody was.
    Wait(WaitKind),
    /// Partials are added, and the result goes out.
    Reduce,
    /// Another rank's result, or its rows, are taken in.
    Collect,
    /// The residual and the norm behind an all-reduce.
    Tail,
    /// The rank's last CTA ends the operation.
    End,
}

impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Activity::Math => "math",
            Activity::Push => "push",
            Activity::Store => "store",
            Activity::Wait(_) => "wait",
            Activity::Reduce => "reduce",
            Activity::Collect => "collect",
            Activity::Tail => "tail",
            Activity::End => "end",
        })
    }
}

/// One thing that a role did. Nanoseconds of the rank's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub activity: Activity,
    /// The number of the block in the operation's order; of a wait, what its record would say ([`WaitRecord`](crate::WaitRecord));
    /// of split-K's products, the number of the item.
    pub tile: u32,
    /// Of a push its receiver, of a wait who was late, of a collection whose it is; the own rank where a role waits for others
    /// of its own. `None`: all of them, or nobody.
    pub peer: Option<usize>,
    /// Its begin.
    pub start_ns: u64,
    /// Its end, not before its begin.
    pub end_ns: u64,
}

/// What one role of one CTA did, from its begin to its end: spans in the order of time, none of which overlaps another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Which of the launch's kernels, an index into [`RankTimeline::kernels`].
    pub kernel: usize,
    /// Of the grid.
    pub cta: usize,
    /// Of the CTA.
    pub role: Role,
    /// When the role began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What it did.
    pub spans: Vec<Span>,
    /// Stamps for which there was no room.
    pub dropped: u64,
}

/// What one rank's kernels did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankTimeline {
    /// The rank.
    pub rank: usize,
    /// Ranks of the group.
    pub world: usize,
    /// The kernels by name, in the order of the launch. NCCL's are not among them: they write no stamps.
    pub kernels: Vec<&'static str>,
    /// By kernel, CTA and role.
    pub tracks: Vec<Track>,
}

impl RankTimeline {
    /// When its first role began; 0 without a track.
    pub fn start_ns(&self) -> u64 {
        self.tracks.iter().map(|track| track.start_ns).min().unwrap_or(0)
    }

    /// When its last role ended; 0 without a track.
    pub fn end_ns(&self) -> u64 {
        self.tracks.iter().map(|track| track.end_ns).max().unwrap_or(0)
    }

    /// When the first role of each kernel began, and its last ended.
    pub fn kernel_times(&self) -> Vec<Range<u64>> {
        let of_kernel = |kernel: usize| {
            let tracks = || self.tracks.iter().filter(move |track| track.kernel == kernel);
            let start = tracks().map(|track| track.start_ns).min();
            start.unwrap_or(0)..tracks().map(|track| track.end_ns).max().unwrap_or(0)
        };
        (0..self.kernels.len()).map(of_kernel).collect()
    }

    /// Stamps for which there was no room: where there are any, later spans are missing, and what is made of them is too small.
    pub fn dropped(&self) -> u64 {
        self.tracks.iter().map(|track| track.dropped).sum()
    }

    /// All spans of all roles.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.tracks.iter().flat_map(|track| &track.spans)
    }

    /// Of every kernel the tracks that tell what hid what: all roles of the CTA that was the last to multiply, or to end where
    /// none did; and of roles that it has not, the last to end.
    pub fn telling(&self) -> Vec<&Track> {
        let mut chosen: Vec<&Track> = Vec::new();
        for kernel in 0..self.kernels.len() {
            let tracks = || self.tracks.iter().filter(move |track| track.kernel == kernel);
            let multiplied = |track: &&Track| {
                track
                    .spans
                    .iter()
                    .rfind(|span| span.activity == Activity::Math)
                    .map(|span| span.end_ns)
            };
            let Some(cta) = tracks()
                .max_by_key(|track| (multiplied(track), track.end_ns))
                .map(|track| track.cta)
            else {
                continue;
            };
            for role in Role::ALL {
                let of_role = || tracks().filter(|track| track.role == role);
                let here = of_role().find(|track| track.cta == cta);
                chosen.extend(here.or_else(|| of_role().max_by_key(|track| track.end_ns)));
            }
        }
        chosen
    }

    fn shift(&mut self, by: i128) {
        let moved = |ns: &mut u64| *ns = u64::try_from(i128::from(*ns) + by).unwrap_or(0);
        for track in &mut self.tracks {
            moved(&mut track.start_ns);
            moved(&mut track.end_ns);
            for span in &mut track.spans {
                moved(&mut span.start_ns);
                moved(&mut span.end_ns);
            }
        }
    }
}

/// What a launch of every rank did, on one axis of time that begins at 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// In the order in which they were given.
    pub ranks: Vec<RankTimeline>,
    /// Whether all ranks read one clock. GPUs have one each: then every rank's time begins with its own kernel's begin, which
    /// hides by how much it launched later than others.
    pub one_clock: bool,
}

impl Timeline {
    /// What the last recorded launch left on each recorder's rank. Blocks until it is done.
    ///
    /// # Errors
    /// As [`Recorder::read`].
    pub fn read<'a>(recorders: impl IntoIterator<Item = &'a Recorder>) -> Result<Timeline> {
        let mut ranks = Vec::new();
        let (mut simulated, mut devices) = (true, Vec::new());
        for recorder in recorders {
            ranks.push(recorder.read()?);
            simulated &= recorder.rank().node().driver().kind() == Machine::Sim;
            devices.push(recorder.rank().place().device);
        }
        let one_clock = simulated || devices.windows(2).all(|pair| pair[0] == pair[1]);
        Ok(Timeline::of(ranks, one_clock))
    }

    /// Of ranks that were read one by one, as in processes of their own.
    pub fn of(mut ranks: Vec<RankTimeline>, one_clock: bool) -> Timeline {
        let starts: Vec<u64> = ranks.iter().map(RankTimeline::start_ns).collect();
        let running = ranks.iter().zip(&starts).filter(|(rank, _)| !rank.tracks.is_empty());
        let first = running.map(|(_, start)| *start).min().unwrap_or(0);
        for (rank, start) in ranks.iter_mut().zip(starts) {
            rank.shift(-i128::from(if one_clock { first } else { start }));
        }
        Timeline { ranks, one_clock }
    }

    /// The end of the last role of all.
    pub fn end_ns(&self) -> u64 {
        self.ranks.iter().map(RankTimeline::end_ns).max().unwrap_or(0)
    }
}
