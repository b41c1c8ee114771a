//! The roles of a Hopper kernel: right on every schedule, and each order that is left out is caught.

use tileweave::driver::sim::{Copies, Fault, SimConfig, Site};
use tileweave::driver::{Driver, Launch, TensorMap};
use tileweave::{DType, Error};

use crate::asynchronous::matrix;
use crate::support::{Bench, STAGING, place, report};

const STEPS: u32 = 5;
const TILE: usize = 64 * 128;

fn launch(grid: u32, cluster: u32) -> Launch {
    Launch {
        grid,
        threads: 128,
        shared: 1024 + 4 * TILE as u32,
        cluster,
    }
}

fn input(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 7 % 251) as u8).collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap()))
}

/// One CTA, or a cluster of two: every word of x, and 1 + the rank in the cluster more. By TMA stores.
fn tma(config: SimConfig, cluster: u32, rows: u64) -> Result<(), Error> {
    let bench = Bench::new(config);
    let data = input(rows as usize * 128);
    let out_bytes = (cluster * STEPS) as usize * TILE;
    let (x, out) = (bench.alloc(0, data.len()), bench.alloc(0, out_bytes));
    bench.node.copy_in(x, &data, bench.streams[0])?;
    let mut p = bench.params(0);
    p.n = STEPS;
    p.map_x = bench.node.encode_tensor_map(place(0), &matrix(x, rows, 32))?;
    p.map_out = bench
        .node
        .encode_tensor_map(place(0), &matrix(out, out_bytes as u64 / 128, 64))?;
    bench
        .node
        .launch("selftest_pipeline", launch(cluster, cluster), &p, bench.streams[0])?;
    let seen = bench.read(0, out, out_bytes)?;
    let mut full = data;
    full.resize(STEPS as usize * TILE, 0);
    for rank in 0..cluster {
        let part = &seen[rank as usize * full.len()..][..full.len()];
        for (i, (seen, x)) in words(part).zip(words(&full)).enumerate() {
            assert_eq!(seen, x + 1 + rank, "rank {rank} word {i}");
        }
    }
    Ok(())
}

/// Several devices, CTAs each: the tiles arrive at the next device, as bulk copies left them.
fn push(config: SimConfig, grid: u32) -> Result<(), Error> {
    let bench = Bench::new(config);
    let ranks = bench.heaps.len();
    let data = input(STEPS as usize * TILE);
    let bytes = grid as usize * data.len();
    let mut outs = Vec::new();
    for d in 0..ranks {
        let (x, out) = (bench.alloc(d, data.len()), bench.alloc(d, bytes));
        bench.node.copy_in(x, &data, bench.streams[d])?;
        let mut p = bench.params(d);
        (p.n, p.k, p.out) = (STEPS, 1, out);
        p.map_x = bench
            .node
            .encode_tensor_map(place(d), &matrix(x, u64::from(STEPS) * 64, 32))?;
        bench
            .node
            .launch("selftest_pipeline", launch(grid, 1), &p, bench.streams[d])?;
        outs.push(out);
    }
    for (d, out) in outs.into_iter().enumerate() {
        let seen = bench.read(d, out, bytes)?;
        for (i, seen) in words(&seen).enumerate() {
            let at = 4 * i % data.len();
            // Chunk c of row r stands at chunk c ^ (r % 8).
            let from = at / 128 * 128 + ((at / 16 % 8) ^ (at / 128 % 8)) * 16 + at % 16;
            let x = words(&data[from..from + 4]).next();
            assert_eq!(Some(seen), x.map(|x| x + 1), "device {d} word {i}");
        }
        let (payload, signals) = bench.node.observed_traffic(place(d)).unwrap();
        if ranks > 1 {
            assert_eq!((payload, signals), (bytes as u64 / 2, u64::from(grid)));
        }
    }
    Ok(())
}

/// Rows pushed by ordinary stores or a bulk copy, acquired, and loaded by TMA.
fn gather(config: SimConfig, bulk: bool) -> Result<(), Error> {
    let bench = Bench::new(config);
    let outs: Vec<_> = (0..bench.heaps.len()).map(|d| bench.alloc(d, TILE)).collect();
    for (d, out) in outs.iter().enumerate() {
        let mut p = bench.params(d);
        (p.out, p.k) = (*out, u32::from(bulk));
        let map = TensorMap {
            address: bench.heaps[d] + STAGING,
            dtype: DType::Bf16,
            rank: 4,
            dims: [64, 64, 2, 2],
            strides: [128, 64 * 128, 2 * 64 * 128],
            box_dims: [64, 64, 1, 1],
        };
        p.map_gathered = bench.node.encode_tensor_map(place(d), &map)?;
        let launch = Launch {
            threads: 96,
            ..launch(1, 1)
        };
        bench.node.launch("selftest_gather", launch, &p, bench.streams[d])?;
    }
    for (d, out) in outs.into_iter().enumerate() {
        let seen = bench.read(d, out, TILE)?;
        let from = (d + bench.heaps.len() - 1) % bench.heaps.len();
        for (i, granule) in seen.chunks_exact(16).enumerate() {
            let at = (i / 8 * 128 + ((i % 8) ^ (i / 8 % 8)) * 16) as u32;
            let expected = [from as u32, at, at + 1, at + 2];
            assert!(words(granule).eq(expected), "device {d} granule {i}");
        }
    }
    Ok(())
}

fn with(gpus: usize, seed: u64, fault: Fault) -> SimConfig {
    SimConfig {
        faults: vec![fault],
        ..SimConfig::new(gpus, seed)
    }
}

/// The fault is reported on every one of 30 seeds, in one of these words.
fn caught(text: &[&str], run: impl Fn(u64) -> Result<(), Error>) {
    for seed in 0..30 {
        let report = report(run(seed));
        assert!(text.iter().any(|t| report.contains(t)), "seed {seed}: {report}");
    }
}

#[test]
fn right_on_every_schedule() {
    for seed in 0..40 {
        tma(SimConfig::new(1, seed), 1, 64 * u64::from(STEPS)).unwrap();
        tma(SimConfig::new(1, seed), 2, 64 * u64::from(STEPS)).unwrap();
        push(SimConfig::new(2, seed), 2).unwrap();
        gather(SimConfig::new(3, seed), false).unwrap();
        gather(SimConfig::new(2, seed), true).unwrap();
    }
}

#[test]
fn beyond_the_matrix_is_zero_and_not_written() {
    // The last tile has 13 rows.
    for seed in 0..6 {
        tma(SimConfig::new(1, seed), 2, 64 * u64::from(STEPS) - 51).unwrap();
    }
}

#[test]
fn one_device_is_its_own_peer() {
    for seed in 0..6 {
        push(SimConfig::new(1, seed), 3).unwrap();
    }
}

#[test]
fn same_seed_same_run() {
    let digest = |seed, copies| {
        let config = SimConfig {
            copies,
            ..SimConfig::new(2, seed)
        };
        let bench = Bench::new(config);
        let x = bench.alloc(0, STEPS as usize * TILE);
        bench.node.fill(x, 3, STEPS as usize * TILE, bench.streams[0]).unwrap();
        let mut p = bench.params(0);
        (p.n, p.k, p.out) = (STEPS, 0, x);
        p.map_x = bench
            .node
            .encode_tensor_map(place(0), &matrix(x, 64 * u64::from(STEPS), 32))
            .unwrap();
        p.map_out = bench
            .node
            .encode_tensor_map(place(0), &matrix(bench.heaps[0] + STAGING, 128 * u64::from(STEPS), 64))
            .unwrap();
        bench
            .node
            .launch("selftest_pipeline", launch(2, 2), &p, bench.streams[0])
            .unwrap();
        bench.node.stream_synchronize(bench.streams[0]).unwrap();
        bench.node.schedule_digest().unwrap()
    };
    for copies in [Copies::AtIssue, Copies::Mixed, Copies::AtWait].map(Some) {
        assert_eq!(digest(1, copies), digest(1, copies));
        assert_ne!(digest(1, copies), digest(2, copies));
    }
}

#[test]
fn a_stage_read_before_it_is_there() {
    let rows = 64 * u64::from(STEPS);
    for fault in [Fault::Ignore(Site::StageFull), Fault::WrongPhase(Site::StageFull)] {
        caught(
            &[
                "missing is an mbar_wait for it",
                "nobody has written",
                "waiting for the phase",
            ],
            |seed| tma(with(1, seed, fault), 1, rows),
        );
    }
}

#[test]
fn a_stage_loaded_before_it_is_given_back() {
    let rows = 64 * u64::from(STEPS);
    for fault in [Fault::Ignore(Site::StageEmpty), Fault::WrongPhase(Site::StageEmpty)] {
        for cluster in [1, 2] {
            caught(
                &[
                    "issues a TMA load over shared memory",
                    "waiting for the phase",
                    "once more than",
                ],
                |seed| tma(with(1, seed, fault), cluster, rows),
            );
        }
    }
}

#[test]
fn a_wrong_count_of_bytes() {
    let rows = 64 * u64::from(STEPS);
    for delta in [-4096, -16, 16, 4096] {
        let fault = Fault::TxCount {
            site: Site::StageFull,
            delta,
        };
        caught(
            &[
                "missing is an mbar_wait for it",
                "waiting for the phase",
                "once more than",
            ],
            |seed| tma(with(1, seed, fault), 1, rows),
        );
    }
}

#[test]
fn a_missing_fence_on_either_side() {
    caught(&["missing is fence_async_shared"], |seed| {
        tma(with(1, seed, Fault::Ignore(Site::ChunkFence)), 1, 64 * u64::from(STEPS))
    });
    for bulk in [false, true] {
        caught(&["missing is its fence_async_global"], |seed| {
            gather(with(2, seed, Fault::Ignore(Site::RowsFence)), bulk)
        });
    }
}

#[test]
fn rows_that_were_not_acquired() {
    caught(
        &["another thread wrote", "nobody had written", "about to overwrite"],
        |seed| gather(with(2, seed, Fault::Ignore(Site::TileAcquire)), false),
    );
}

#[test]
fn a_chunk_sent_before_it_is_full() {
    caught(&["another thread wrote", "nobody has written"], |seed| {
        tma(with(1, seed, Fault::Ignore(Site::ChunkFull)), 1, 64 * u64::from(STEPS))
    });
}

#[test]
fn a_chunk_overwritten_while_it_is_read() {
    caught(&["that a bulk copy reads"], |seed| {
        push(with(2, seed, Fault::Ignore(Site::ChunkRead)), 1)
    });
    // Workers may be so early that they overwrite what is not on its way yet, or that the storer misses a phase.
    let early = [
        "that a bulk copy reads",
        "another thread wrote",
        "waiting for the phase",
    ];
    for fault in [Fault::Ignore(Site::ChunkEmpty), Fault::WrongPhase(Site::ChunkEmpty)] {
        caught(&early, |seed| push(with(2, seed, fault), 1));
    }
}

#[test]
fn a_signal_before_the_bulk_copies_are_written() {
    let early = [
        "another thread wrote",
        "nobody has written",
        "about to overwrite",
        "nobody had written",
    ];
    for fault in [Fault::Ignore(Site::BulkWait), Fault::ReadForFull(Site::BulkWait)] {
        caught(&early, |seed| push(with(2, seed, fault), 1));
    }
    caught(&early, |seed| {
        gather(with(2, seed, Fault::ReadForFull(Site::BulkWait)), true)
    });
}

#[test]
fn mbarriers_used_before_the_barrier_that_shows_them() {
    let rows = 64 * u64::from(STEPS);
    for (site, cluster) in [(Site::SetupBarrier, 1), (Site::ClusterStart, 2)] {
        caught(
            &[
                "missing is a barrier behind",
                "missing is mbar_init_fence",
                "nobody has initialised",
            ],
            |seed| tma(with(1, seed, Fault::Ignore(site)), cluster, rows),
        );
    }
}

#[test]
fn workers_that_do_not_wait_for_each_other() {
    caught(
        &["another thread wrote", "nobody has written", "about to overwrite"],
        |seed| push(with(2, seed, Fault::Ignore(Site::TileAcquired)), 1),
    );
}
