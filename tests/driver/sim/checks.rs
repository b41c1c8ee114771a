//! What a kernel must not do, and that the right way beside it passes.

use tileweave::driver::sim::SimConfig;
use tileweave::driver::{Driver, Place};

use crate::support::{Bench, grid, no_params, place, report};

/// One CTA of a checking kernel: what each thread wrote, four words each.
fn check(kernel: &str, case: u32, x_bytes: usize, seed: u64) -> Result<Vec<u32>, tileweave::Error> {
    let bench = Bench::new(SimConfig::new(1, seed));
    let (x, out) = (bench.alloc(0, 4096), bench.alloc(0, 1024));
    if x_bytes > 0 {
        bench.node.fill(x, 1, x_bytes, bench.streams[0])?;
    }
    let mut p = no_params();
    (p.x, p.out, p.k) = (x, out, case);
    bench.node.launch(kernel, grid(1, 64, 1024), &p, bench.streams[0])?;
    bench.node.stream_synchronize(bench.streams[0])?;
    let mut data = vec![0; 1024];
    bench.node.peek(&mut data, out)?;
    Ok(data
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect())
}

fn fails(kernel: &str, case: u32, x_bytes: usize, with: &str) {
    for seed in 0..6 {
        let text = report(check(kernel, case, x_bytes, seed));
        assert!(text.contains(with), "{kernel} case {case} seed {seed}: {text}");
    }
}

fn passes(kernel: &str, case: u32, x_bytes: usize) -> Vec<u32> {
    let first = check(kernel, case, x_bytes, 0).unwrap();
    for seed in 1..6 {
        assert_eq!(
            check(kernel, case, x_bytes, seed).unwrap(),
            first,
            "{kernel} case {case} seed {seed}"
        );
    }
    first
}

#[test]
fn global_reads() {
    assert_eq!(passes("selftest_read", 0, 1024)[0], 0x0101_0101);
    fails("selftest_read", 0, 1008, "nobody has written");
    fails("selftest_read", 1, 1024, "4-byte alignment");
    fails("selftest_read", 2, 0, "reads 16 bytes that");
    assert_eq!(passes("selftest_read", 3, 0)[0], 1);
    fails("selftest_read", 4, 1024, "nobody has written");
    assert_eq!(passes("selftest_read", 5, 0)[4], 1);
    // Whichever of the two comes first.
    fails("selftest_read", 7, 0, "discarded");
}

#[test]
fn shared_reads() {
    assert_eq!(passes("selftest_shared", 0, 0)[0], 33);
    fails("selftest_shared", 1, 0, "nobody has written");
    fails("selftest_shared", 2, 0, "read");
    fails("selftest_shared", 3, 1024, "read");
    assert_eq!(passes("selftest_shared", 4, 1024)[0], 0x0101_0101);
    fails("selftest_shared", 5, 0, "outside any allocation");
    fails("selftest_shared", 6, 0, "ldmatrix reads a row");
}

#[test]
fn warps() {
    let words = passes("selftest_warp", 0, 0);
    for t in 0..64u32 {
        let warp_sum: u32 = (0..32).map(|l| t / 32 * 32 + l).sum();
        assert_eq!(
            words[4 * t as usize..][..4],
            [(t ^ 1) * 3, warp_sum, t / 32 * 32 + 5, t % 32]
        );
    }
    fails("selftest_warp", 1, 0, "read");
}

#[test]
fn barriers() {
    assert_eq!(passes("selftest_barrier", 0, 0)[0], 1 + 8);
    fails("selftest_barrier", 1, 0, "have left the kernel");
    fails("selftest_barrier", 2, 0, "a partly arrived warp");
    fails("selftest_barrier", 3, 0, "different barriers");
}

#[test]
fn a_deadlock_names_who_waits_for_what() {
    for seed in 0..6 {
        let text = report(check("selftest_barrier", 4, 16, seed));
        for part in [
            "nothing can run any more",
            "CTA 0: thread 0 and 62 more at the CTA barrier Site::TileAcquired",
            "CTA 0: thread 7 waiting for a word",
            "wanted 0x2a at Site::TilePoll",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}

#[test]
fn memory_of_others() {
    let bench = Bench::new(SimConfig::new(2, 0));
    let theirs = bench.alloc(1, 4096);
    let run = |case: u32, x: u64| {
        let bench = &bench;
        let mut p = no_params();
        (p.x, p.k) = (x, case);
        bench
            .node
            .launch("selftest_read", grid(1, 64, 0), &p, bench.streams[0])?;
        bench.node.stream_synchronize(bench.streams[0])
    };
    // Mapped for all: a store to the peer's heap is fine, and a thread sees its own.
    run(6, bench.heaps[1]).unwrap();
    run(5, bench.heaps[1]).unwrap();
    // Ordinary memory is its device's alone.
    let text = report(run(6, theirs));
    assert!(text.contains("not mapped for its own device"), "{text}");
    // The node is dead, with the same report; memory can still be looked at.
    assert_eq!(report(run(0, bench.heaps[0])), text);
    bench.node.peek(&mut [0; 16], theirs).unwrap();
}

#[test]
fn beyond_the_end_and_after_the_free() {
    for freed in [false, true] {
        let bench = Bench::new(SimConfig::new(1, 0));
        let x = bench.alloc(0, if freed { 1024 } else { 1008 });
        bench.node.fill(x, 0, 1008, bench.streams[0]).unwrap();
        if freed {
            bench.node.free_async(x, bench.streams[0]).unwrap();
        }
        let mut p = no_params();
        p.x = x;
        bench
            .node
            .launch("selftest_read", grid(1, 64, 0), &p, bench.streams[0])
            .unwrap();
        let text = report(bench.node.stream_synchronize(bench.streams[0]));
        assert!(text.contains("outside any allocation"), "{text}");
    }
}

#[test]
fn bad_arguments_are_named() {
    let bench = Bench::new(SimConfig::new(1, 0));
    let (node, stream) = (&bench.node, bench.streams[0]);
    let says = |result: Result<(), tileweave::Error>, part: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(part), "{part:?} in {text}");
    };
    let p = no_params();
    says(node.launch("nothing", grid(1, 32, 0), &p, stream), "kernel is nothing");
    says(
        node.launch("selftest_fill", grid(33, 128, 0), &p, stream),
        "grid is 33: expected 1 to 32",
    );
    says(node.launch("selftest_fill", grid(0, 128, 0), &p, stream), "grid is 0");
    says(
        node.launch("selftest_fill", grid(1, 100, 0), &p, stream),
        "threads is 100: expected a multiple of 32",
    );
    says(
        node.launch("selftest_fill", grid(1, 128, 240 << 10), &p, stream),
        "at most 232448 bytes",
    );
    // 100 KB each: two of them on each of the four SMs.
    says(
        node.launch("selftest_fill", grid(9, 128, 100 << 10), &p, stream),
        "expected 1 to 8",
    );
    says(node.copy_in(12, &[0; 4], stream), "dst is 0xc");
    says(node.place_info(place(1)).map(drop), "device is 1: expected below 1");
    says(
        node.place_info(Place {
            device: 0,
            share: 2,
            shares: 2,
        })
        .map(drop),
        "share is 2 of 2",
    );
    says(node.physical_create(place(0), 1000).map(drop), "a multiple of 65536");
    says(
        tileweave::driver::sim::SimNode::new(SimConfig::new(17, 0)).map(drop),
        "gpus is 17: expected 1 to 16",
    );
}

#[test]
fn sites_are_those_of_the_kernels() {
    let header = include_str!("../../../csrc/machine/site.h");
    let names: Vec<String> = header
        .lines()
        .skip_while(|line| !line.contains("enum class Site"))
        .skip(1)
        .map_while(|line| {
            line.split("//")
                .next()?
                .split([',', '='])
                .next()
                .map(|name| name.trim().to_string())
        })
        .take_while(|name| name != "Count")
        .filter(|name| !name.is_empty())
        .collect();
    let ours: Vec<String> = tileweave::driver::sim::Site::ALL
        .iter()
        .map(|site| format!("{site:?}"))
        .collect();
    assert_eq!(ours, names);
}
