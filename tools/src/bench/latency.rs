//! An all-reduce alone: from the last rank's first instruction to the last rank's last, by the GPU's global timer.
//!
//! The kernels note both in their control blocks (`started_ns`, `finished_ns` of `csrc/abi.h`); the host reads them after each
//! launch. Starts are staggered by what the host takes to launch on every rank, which is why the last start counts.

use std::mem::offset_of;

use tileweave::abi::TwControl;
use tileweave::{Op, OpSpec, Operands, Plan, Rank, Result};

use super::operands::{DTYPE, Pool, Rotating};

/// Launches before the first that counts.
const WARMUP: usize = 5;

/// Microseconds of each launch.
pub struct Latency {
    pub kernel: String,
    pub samples: Vec<f64>,
}

pub fn spec(elements: usize) -> OpSpec {
    OpSpec::new(Op::AllReduce, elements, 0, 1, DTYPE)
}

/// Every rank's plan, input and output.
pub fn lanes(ranks: &[Rank], elements: usize, pool: &Pool) -> Result<Vec<(Plan, Rotating, Rotating)>> {
    let lane = |rank: &Rank| {
        let x = Rotating::new(rank, 1, elements, 1, Some(pool))?;
        let lane = (
            rank.plan(&spec(elements))?,
            x,
            Rotating::new(rank, 1, elements, 1, None)?,
        );
        rank.synchronize()?;
        Ok(lane)
    };
    ranks.iter().map(lane).collect()
}

pub fn measure(ranks: &[Rank], elements: usize, samples: usize, pool: &Pool) -> Result<Latency> {
    let mut lanes = lanes(ranks, elements, pool)?;
    let kernel = lanes[0].0.route(1).kernel;
    let mut all = Vec::with_capacity(samples);
    for turn in 0..WARMUP + samples {
        for (plan, x, out) in &mut lanes {
            plan.launch(&Operands::plain(1, x.mat(0)?, out.mat_mut(0)?))?;
        }
        ranks.iter().try_for_each(Rank::synchronize)?;
        let times = ranks.iter().map(times).collect::<Result<Vec<_>>>()?;
        if turn >= WARMUP {
            all.push(between(&times));
        }
    }
    Ok(Latency { kernel, samples: all })
}

/// When a rank's last operation began and ended, in nanoseconds of a clock that is one for the device.
fn times(rank: &Rank) -> Result<(u64, u64)> {
    let node = rank.node();
    let word = |offset: usize| {
        let mut bytes = [0; 8];
        node.driver().peek(&mut bytes, rank.heap_address() + offset as u64)?;
        Ok(u64::from_le_bytes(bytes))
    };
    Ok((
        word(offset_of!(TwControl, started_ns))?,
        word(offset_of!(TwControl, finished_ns))?,
    ))
}

/// Microseconds from the last start to the last end. The timer's steps may make it 0, never less.
fn between(times: &[(u64, u64)]) -> f64 {
    let started = times.iter().map(|(started, _)| *started).max().unwrap_or(0);
    let finished = times.iter().map(|(_, finished)| *finished).max().unwrap_or(0);
    finished.saturating_sub(started) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use tileweave::driver::sim::SimConfig;
    use tileweave::{GroupConfig, Node};

    use super::*;

    /// The kernels' own words, by the simulated clock: each launch begins behind the one before, and takes a while.
    #[test]
    fn kernels_note_when_they_began_and_ended() {
        let ranks = Node::sim(SimConfig::new(3, 5))
            .and_then(|node| node.group(3, &GroupConfig::default()))
            .expect("a group");
        let pool = Pool::new(1000);
        let mut before = 0;
        for _ in 0..3 {
            let measured = measure(&ranks, 4096, 2, &pool).expect("a healthy run");
            assert_eq!((measured.kernel.as_str(), measured.samples.len()), ("all_reduce1", 2));
            assert!(measured.samples.iter().all(|us| *us > 0.0), "{:?}", measured.samples);
            for rank in &ranks {
                let (started, finished) = times(rank).expect("two words");
                assert!(before < started && started < finished, "{before} {started} {finished}");
            }
            before = ranks
                .iter()
                .map(|rank| times(rank).expect("two words").1)
                .max()
                .unwrap_or(0);
        }
    }

    #[test]
    fn the_last_of_each_counts() {
        assert_eq!(between(&[(1000, 9000), (4000, 8000), (2000, 8500)]), 5.0);
        assert_eq!(between(&[(5000, 4999)]), 0.0);
    }
}
