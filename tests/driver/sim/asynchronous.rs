//! mbarriers, TMA, bulk copies, clusters and the fences of the asynchronous proxy: misuse, and the right way beside it.

use tileweave::abi::{self, TwTensorMap};
use tileweave::driver::sim::{Copies, SimConfig, SimNode};
use tileweave::driver::{Driver, Launch, TensorMap};
use tileweave::{DType, Error};

use crate::support::{Bench, no_params, place, report};

pub fn matrix(address: u64, rows: u64, box_rows: u32) -> TensorMap {
    TensorMap {
        address,
        dtype: DType::Bf16,
        rank: 2,
        dims: [64, rows, 1, 1],
        strides: [128, 0, 0],
        box_dims: [64, box_rows, 1, 1],
    }
}

/// One cluster of a checking kernel: what each thread wrote.
fn run(kernel: &str, case: u32, cluster: u32, seed: u64) -> Result<Vec<u32>, Error> {
    run_on(SimConfig::new(1, seed), kernel, case, cluster)
}

fn run_on(config: SimConfig, kernel: &str, case: u32, cluster: u32) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(config);
    let (x, out) = (bench.alloc(0, 8192), bench.alloc(0, 4096));
    if !(kernel == "selftest_copies" && [7, 26].contains(&case)) {
        bench.node.fill(x, 1, 8192, bench.streams[0])?;
    }
    let mut p = no_params();
    p.map_x = bench.node.encode_tensor_map(place(0), &matrix(x, 64, 64))?;
    p.map_weight = TwTensorMap::default();
    (p.x, p.out, p.k) = (x, out, case);
    let launch = Launch {
        grid: cluster,
        threads: 64,
        shared: 1024 + 3 * 8192,
        cluster,
    };
    bench.node.launch(kernel, launch, &p, bench.streams[0])?;
    bench.node.stream_synchronize(bench.streams[0])?;
    let mut data = vec![0; 256 * cluster as usize];
    bench.node.peek(&mut data, out)?;
    Ok(data
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect())
}

fn fails(kernel: &str, case: u32, cluster: u32, with: &[&str]) {
    for seed in 0..9 {
        let text = report(run(kernel, case, cluster, seed));
        assert!(
            with.iter().any(|w| text.contains(w)),
            "{kernel} case {case} seed {seed}: {text}"
        );
    }
}

fn passes(kernel: &str, case: u32, cluster: u32) -> Vec<u32> {
    let first = run(kernel, case, cluster, 0).unwrap();
    for seed in 1..9 {
        assert_eq!(
            run(kernel, case, cluster, seed).unwrap(),
            first,
            "{kernel} case {case} seed {seed}"
        );
    }
    first
}

#[test]
fn an_mbarrier_passes_on_what_arrivals_released() {
    assert_eq!(passes("selftest_mbarrier", 0, 1)[32..36], [63, 61, 59, 57]);
    passes("selftest_mbarrier", 12, 1);
    fails("selftest_mbarrier", 15, 1, &["another thread wrote"]);
}

#[test]
fn an_mbarrier_is_initialised_fenced_and_ordered_before_use() {
    fails("selftest_mbarrier", 1, 1, &["nobody has initialised"]);
    fails("selftest_mbarrier", 2, 1, &["missing is mbar_init_fence"]);
    fails(
        "selftest_mbarrier",
        3,
        1,
        &["missing is a barrier behind mbar_init_fence"],
    );
    fails("selftest_mbarrier", 4, 1, &["again while a phase is under way"]);
    fails("selftest_mbarrier", 7, 1, &["8-byte alignment"]);
    fails("selftest_mbarrier", 10, 1, &["stored over by"]);
    fails("selftest_mbarrier", 13, 1, &["room for 64 mbarriers"]);
    fails("selftest_mbarrier", 14, 1, &["for 0 arrivals"]);
}

#[test]
fn arrivals_bytes_and_parities_are_counted() {
    fails("selftest_mbarrier", 5, 1, &["once more than the 63 times"]);
    fails(
        "selftest_mbarrier",
        6,
        1,
        &["counts 1048576 outstanding bytes in phase 0"],
    );
    fails("selftest_mbarrier", 11, 1, &["parity 2"]);
    // The barrier is two phases on: the parity says the same as before, as on hardware.
    fails(
        "selftest_mbarrier",
        9,
        1,
        &["waiting for the phase of parity 0 of the mbarrier at 0x0"],
    );
}

#[test]
fn a_wait_for_ever_names_the_mbarrier() {
    let waits = "thread 63 waiting for the phase of parity 0 of the mbarrier at 0x0, Site::StageFull: phase 0 lacks 1 of 65 \
                 arrivals and 1024 bytes";
    fails("selftest_mbarrier", 8, 1, &[waits]);
}

#[test]
fn loads_are_waited_for() {
    assert_eq!(passes("selftest_copies", 0, 1)[0], 0x0101_0101);
    assert_eq!(passes("selftest_copies", 25, 1)[63], 0x0101_0101);
    fails(
        "selftest_copies",
        1,
        1,
        &["while a TMA load", "on which a TMA load completes"],
    );
    fails("selftest_copies", 22, 1, &["missing is an mbar_wait for it"]);
    fails("selftest_copies", 13, 1, &["stores over shared memory"]);
}

#[test]
fn loads_go_where_nobody_is() {
    fails("selftest_copies", 4, 1, &["issues a TMA load over shared memory"]);
    fails("selftest_copies", 5, 1, &["issues a TMA load over shared memory"]);
    fails("selftest_copies", 6, 1, &["missing is fence_async_shared"]);
    fails("selftest_copies", 8, 1, &["over the mbarrier at 0x0"]);
    fails("selftest_copies", 11, 1, &["1024-byte alignment"]);
    fails("selftest_copies", 14, 1, &["that a bulk copy reads"]);
}

#[test]
fn what_was_loaded_from_unwritten_memory_is_not_read() {
    let from = ["TMA loaded from memory that nobody had written"];
    fails("selftest_copies", 7, 1, &from);
    fails("selftest_copies", 26, 1, &from);
}

#[test]
fn maps_are_looked_at() {
    fails("selftest_copies", 9, 1, &["all zero"]);
    fails("selftest_copies", 10, 1, &["2 dimensions, in an instruction for 4"]);
}

#[test]
fn sources_of_bulk_copies_stay_until_they_are_read() {
    fails("selftest_copies", 2, 1, &["leaves while a bulk copy may still read"]);
    fails("selftest_copies", 3, 1, &["that a bulk copy reads"]);
    fails("selftest_copies", 18, 1, &["that a bulk copy reads"]);
    passes("selftest_copies", 19, 1);
}

#[test]
fn bulk_copies_need_the_writers_fence_and_order_behind_it() {
    fails("selftest_copies", 15, 1, &["missing is fence_async_shared"]);
    fails("selftest_copies", 16, 1, &["another thread wrote"]);
}

#[test]
fn bulk_copies_are_known_behind_the_full_wait_alone() {
    fails(
        "selftest_copies",
        23,
        1,
        &["another thread wrote", "nobody has written"],
    );
    assert_eq!(passes("selftest_copies", 24, 1)[0], 1);
}

#[test]
fn bulk_copies_are_checked() {
    fails("selftest_copies", 12, 1, &["24 bytes: expected a multiple of 16"]);
    fails("selftest_copies", 17, 1, &["both cp.async and bulk copies"]);
    fails("selftest_copies", 21, 1, &["outside any allocation"]);
}

#[test]
fn loads_run_when_the_schedule_says() {
    // A source that is written behind the issue: too late where loads run at issue, always caught where they run last.
    let caught = |seed, copies| {
        let config = SimConfig {
            copies: Some(copies),
            ..SimConfig::new(1, seed)
        };
        match run_on(config, "selftest_copies", 20, 1) {
            Ok(_) => false,
            error => report(error).contains("source of a TMA load was written"),
        }
    };
    assert!((0..20).all(|seed| !caught(seed, Copies::AtIssue)));
    assert!((0..20).all(|seed| caught(seed, Copies::AtWait)));
    let some = (0..40).filter(|seed| caught(*seed, Copies::Mixed)).count();
    assert!((1..40).contains(&some), "{some}");
}

#[test]
fn clusters_meet_and_pass_on() {
    let words = passes("selftest_cluster", 0, 2);
    for t in 0..64 {
        assert_eq!(words[t as usize], 2 + (63 - t) + (127 - t));
        assert_eq!(words[64 + t as usize], 18 + (63 - t) + (127 - t));
    }
    assert_eq!(passes("selftest_cluster", 0, 1)[0], 1 + 63);
}

#[test]
fn clusters_stay_together() {
    fails("selftest_cluster", 1, 2, &["threads that have left the kernel"]);
    fails("selftest_cluster", 2, 2, &["CTA 1 of the cluster, which has left"]);
    fails("selftest_cluster", 3, 2, &["CTA 2 of a cluster of 2"]);
    fails(
        "selftest_cluster",
        4,
        2,
        &["threads of one cluster meet at different barriers"],
    );
    fails("selftest_cluster", 8, 2, &["to the CTAs 0b0 of a cluster of 2"]);
    fails(
        "selftest_cluster",
        10,
        2,
        &["missing is a barrier behind", "nobody has initialised"],
    );
}

#[test]
fn named_barriers() {
    let words = passes("selftest_cluster", 9, 1);
    assert_eq!((words[0], words[40]), (4, 1 + 2 + 4));
    fails("selftest_cluster", 5, 1, &["barrier 0 of 32 threads"]);
    fails("selftest_cluster", 6, 1, &["only some lanes of warp"]);
    fails(
        "selftest_cluster",
        7,
        1,
        &["await different numbers", "at barrier 1, Site::TileBarrier"],
    );
}

#[test]
fn launches_of_clusters_are_checked() {
    let bench = Bench::new(SimConfig::new(1, 0));
    let refused = |grid, cluster, text: &str| {
        let launch = Launch {
            grid,
            threads: 64,
            shared: 32 << 10,
            cluster,
        };
        let result = bench
            .node
            .launch("selftest_cluster", launch, &no_params(), bench.streams[0]);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(3, 2, "grid is 3: expected a multiple of 2");
    refused(4, 0, "cluster is 0: expected 1 to 8 CTAs");
    refused(9, 9, "cluster is 9");
    refused(6, 2, "grid is 6: expected 1 to 4");
}

/// A cluster's CTAs may be on any SMs of a place, but it is whole.
#[test]
fn clusters_are_resident_as_a_whole() {
    let mut config = SimConfig::new(1, 0);
    config.sms = 5;
    let node = SimNode::new(config).unwrap();
    let of = |cluster: u32| {
        let launch = Launch {
            grid: cluster,
            threads: abi::TW_SM90_THREADS,
            shared: abi::TW_SM90_256_SHARED,
            cluster,
        };
        node.resident_ctas("gemm_bf16_256_sm90", launch, place(0)).unwrap()
    };
    assert_eq!((of(1), of(2)), (5, 4));
}
