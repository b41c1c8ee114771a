//! Planted faults: how one is planted, what runs over it, and the table of who is caught within how many seeds.

use std::sync::Arc;

use tileweave::driver::sim::{Fault, SimConfig, Site};
use tileweave::{Path, Plan, Rank};

use super::{Case, Data, Loaded, deep, wrong};

/// Operations in a row, with new inputs each: with the same ones a stale half would hold the right answer.
const LAUNCHES: u64 = 3;

/// How a fault is planted.
#[derive(Clone, Copy)]
pub enum Plant {
    Nothing,
    Machine(Fault),
    /// Both parities of staging in one place.
    SingleBuffer,
    /// One rank's epoch, or round, one ahead.
    Ahead {
        at: u64,
    },
}

pub struct Row<W> {
    name: &'static str,
    plant: Plant,
    work: W,
    /// Caught at least once under so many seeds.
    within: u64,
}

/// A node's configuration with the fault, as far as that is the machine's.
pub fn planted(plant: Plant, world: usize, seed: u64) -> SimConfig {
    let mut config = SimConfig::new(world, seed);
    match plant {
        Plant::Machine(fault) => config.faults = vec![fault],
        Plant::SingleBuffer => config.launch_hook = Some(Arc::new(|_, params| params.group.staging_half = 0)),
        Plant::Nothing | Plant::Ahead { .. } => {}
    }
    config
}

/// A row of a table.
pub fn row<W>(name: &'static str, plant: Plant, work: W, within: u64) -> Row<W> {
    Row {
        name,
        plant,
        work,
        within,
    }
}

/// The machine makes no order at `site`.
pub fn machine(site: Site) -> Plant {
    Plant::Machine(Fault::Ignore(site))
}

/// `LAUNCHES` operations one behind the other in the streams; an error says what was caught.
pub fn launches(ranks: &[Rank], case: &Case, path: Path, seed: u64) -> Result<(), String> {
    let text = |error: tileweave::Error| error.to_string();
    let plans: Vec<Plan> = ranks
        .iter()
        .map(|r| r.plan(&case.spec(r.rank(), path)).unwrap())
        .collect();
    let mut all = Vec::new();
    for launch in 0..LAUNCHES {
        let case = case.clone().data(seed * 100 + launch);
        let data = Data::new(&case);
        let loaded: Vec<Loaded> = ranks
            .iter()
            .map(|r| Loaded::new(r, &case, &data))
            .collect::<Result<_, _>>()
            .map_err(text)?;
        all.push((case, data, loaded));
    }
    for (case, _, loaded) in &mut all {
        for (plan, l) in plans.iter().zip(loaded) {
            l.launch(plan, case.m).map_err(text)?;
        }
    }
    let ends: Vec<_> = ranks.iter().map(Rank::synchronize).collect();
    ends.into_iter().collect::<Result<Vec<_>, _>>().map_err(text)?;
    for (case, data, loaded) in &all {
        let results: Vec<_> = loaded
            .iter()
            .map(Loaded::result)
            .collect::<Result<_, _>>()
            .map_err(text)?;
        if let Some(wrong) = wrong(case, data, &results) {
            return Err(wrong);
        }
    }
    Ok(())
}

/// Panics unless `caught` says of every row, within its seeds, how its fault is caught.
pub fn all_caught<W: Copy>(rows: &[Row<W>], caught: impl Fn(Plant, W, u64) -> Option<String>) {
    let print_all = std::env::var("TILEWEAVE_DEEP").is_ok();
    let mut missed = Vec::new();
    for row in rows {
        let seeds = if print_all { 50 * deep() as u64 } else { row.within };
        let (mut hits, mut first, mut how) = (0, None, String::new());
        for seed in 0..seeds {
            if let Some(report) = caught(row.plant, row.work, seed) {
                hits += 1;
                if first.is_none() {
                    (first, how) = (Some(seed), report);
                }
                if !print_all {
                    break;
                }
            }
        }
        println!(
            "{:<45} {hits:>3} of {seeds}: {}",
            row.name,
            how.chars().take(160).collect::<String>()
        );
        if first.is_none_or(|seed| seed >= row.within) {
            missed.push(row.name);
        }
    }
    assert!(missed.is_empty(), "not caught within the stated seeds: {missed:?}");
}

/// Panics if anything is caught where nothing is planted.
pub fn nothing_caught<W: Copy>(all: &[W], seeds: u64, caught: impl Fn(Plant, W, u64) -> Option<String>) {
    for work in all {
        for seed in 0..seeds * deep() as u64 {
            assert_eq!(caught(Plant::Nothing, *work, seed), None, "seed {seed}");
        }
    }
}
