//! What the clock and NCCL's model predict, against tables that others published. `docs/prediction.md` tells how to read it.
//!
//! GEMM alone, GEMM + NCCL and all-reduces are judged by their error. Fused kernels of others are not ours: they are judged
//! by the speedup, and by whether fusing pays. `--quick` takes a few small rows of each kind.

mod all_reduce;
mod clock;
mod fused;
mod judge;
#[path = "../tables/mod.rs"]
mod tables;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tileweave::machines::Description;

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let Some((fused, all_reduce)) = tables::read() else {
        return;
    };
    // Words that a row must have: its hardware, algorithm, source.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let wanted = |row: &tables::Row| {
        words
            .iter()
            .all(|word| row.values().any(|cell| cell.contains(word.as_str())))
    };
    let (fused, all_reduce) = (keep(fused, wanted), keep(all_reduce, wanted));
    all_reduce::run(&all_reduce, quick);
    println!();
    fused::run(&fused, quick);
}

fn keep(rows: Vec<tables::Row>, wanted: impl Fn(&tables::Row) -> bool) -> Vec<tables::Row> {
    rows.into_iter().filter(wanted).collect()
}

/// The described machine that a table's words mean, and what has to be said of it.
fn machine(hardware: &str, world: usize) -> Option<(Description, &'static str)> {
    let (name, note) = match hardware {
        "A800 SXM" => ("a800x8", ""),
        "A100 (ndv4)" => ("a100x8", "40 GB, counted as 80"),
        "H800 SXM" => ("h800x8", ""),
        "H100 SXM" | "H100" | "H100 (ndv5)" => ("h100x8", ""),
        "H200" => ("h200x8", ""),
        "L20 PCIe" => ("l20x8", ""),
        "B300" => ("b300x8", ""),
        "GB300" => ("b300x8", "8 of a rack's, counted as a B300 node"),
        "B300/GB300" => ("b300x8", "ranks not told, taken for 8"),
        _ => return None,
    };
    let node = Description::named(name).expect("a described machine");
    (world <= node.gpus as usize).then_some((node, note))
}

/// Tells all answers in order, each as soon as it and those before it are there, by as many threads as there are cores:
/// simulated nodes know nothing of each other.
fn in_parallel<C: Sync, R: Send>(cases: &[C], answer: impl Fn(&C) -> R + Sync, mut tell: impl FnMut(&C, R)) {
    let next = AtomicUsize::new(0);
    let (tells, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (tells, next, answer) = (tells.clone(), &next, &answer);
            scope.spawn(move || {
                while let Some((at, case)) = next_of(cases, next) {
                    tells.send((at, answer(case))).expect("somebody listens");
                }
            });
        }
        drop(tells);
        let mut early = BTreeMap::new();
        for (at, case) in cases.iter().enumerate() {
            let result = loop {
                if let Some(result) = early.remove(&at) {
                    break result;
                }
                let (which, result) = told.recv().expect("every case is answered");
                early.insert(which, result);
            };
            tell(case, result);
        }
    });
}

fn next_of<'a, C>(cases: &'a [C], next: &AtomicUsize) -> Option<(usize, &'a C)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, cases.get(at)?))
}
