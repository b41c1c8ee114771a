//! Every operation, type and number of ranks from 1 to 16 at least once, on every route. Random cases reach the corners of
//! shapes; this reaches the corners of the table: nothing here is left to a draw. Shapes are tiny and follow from the
//! index: ragged, fewer rows than ranks, K = 0 now and then.

mod common;

use common::*;
use tileweave::{DType, GroupConfig, Mainloop, Op, OpSpec, Operands, Path, Wire};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

/// M by index: under, at, and over the number of ranks, then over a tile of 64.
fn rows(index: usize, world: usize) -> usize {
    match index % 5 {
        0 => world / 2,
        1 => world,
        2 => 2 * world + 1,
        3 => 1,
        _ => 67,
    }
}

/// Every operation x type x number of ranks. Consecutive indices are coprime with what they select, so that each
/// operation meets each option with each type.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for world in 1..=16 {
        for op in Op::ALL {
            for dtype in DTYPES {
                let i = all.len();
                let n = [1, 3, 17, 66, 8, 31, 130][i % 7];
                let k = [5, 33, 0, 16, 70, 1, 40, 8, 19, 3, 64][i % 11];
                let mut c = Case::new(op, world, rows(i + world, world), n, k, dtype).data(i as u64);
                let reduces = matches!(op, Op::GemmReduceScatter | Op::GemmAllReduce);
                // Bits of the number of ranks: with any operation and type, all eight combinations occur.
                c.bias = op.has_gemm() && world & 1 == 0;
                c.addend = reduces && world & 2 == 0;
                c.wire = if reduces && world & 4 == 0 {
                    Wire::F32
                } else {
                    Wire::Output
                };
                c.gap = [0, 0, 1, 8][i % 4];
                all.push(c);
            }
        }
    }
    all
}

/// The same for the Hopper mainloop, where it is asked for: rows of K in whole vectors.
fn hopper_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for world in 1..=16 {
        for op in [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm] {
            for dtype in [DType::Bf16, DType::F16] {
                let i = all.len();
                let n = [1, 3, 40, 66, 8, 31, 130][i % 7];
                let reduces = op != Op::AllGatherGemm;
                let k = [8, 16, 72, 128, 24][i % 5] * if reduces { world } else { 1 };
                let mut c = Case::new(op, world, rows(i + world, world), n, k, dtype).data(i as u64);
                c.bias = i & 1 == 0;
                c.addend = reduces && world & 2 == 0;
                c.wire = if reduces && world & 4 == 0 {
                    Wire::F32
                } else {
                    Wire::Output
                };
                c.gap = [0, 8][i % 2];
                all.push(c.mainloop(Mainloop::Hopper));
            }
        }
    }
    all
}

/// One group for each number of ranks: operations of every kind follow each other in it.
#[test]
fn every_operation_type_and_number_of_ranks() {
    sweep(&cases());
}

#[test]
fn every_operation_of_hopper_type_and_number_of_ranks() {
    sweep(&hopper_cases());
}

fn sweep(all: &[Case]) {
    for cases in all.chunk_by(|a, b| a.world == b.world) {
        let world = cases[0].world;
        let specs: Vec<OpSpec> = cases.iter().flat_map(Case::all_specs).collect();
        let config = GroupConfig::default().one_shot_bytes(8 << 10);
        let node = node(world, world as u64);
        let ranks = node.group(world, &config.sized_for(&specs, world).unwrap()).unwrap();
        for c in cases {
            let data = Data::new(c);
            let mut first: Option<Vec<Vec<u8>>> = None;
            for path in c.routes() {
                let results = run_on(&ranks, c, &data, *path).unwrap_or_else(|e| panic!("{path}: {c:?}: {e}"));
                judge(c, &data, &results, &path.to_string());
                match &first {
                    Some(first) => assert!(*first == results, "{path} differs from fused: {c:?}"),
                    None => first = Some(results),
                }
            }
        }
        check_traffic(&node, &ranks);
    }
}

/// All-reduce over its own input gives the bits that it gives elsewhere. One-shot and two-shot messages, with gaps, where
/// rows are visited, and without, where elements are.
#[test]
fn all_reduce_in_place() {
    for world in 1..=16 {
        let shapes = |i: usize| [(rows(i + world, world), 33), (17, 130 + i)];
        let cases: Vec<Case> = (0..DTYPES.len())
            .flat_map(|i| shapes(i).map(|(m, n)| (i, Case::new(Op::AllReduce, world, m, n, 0, DTYPES[i]))))
            .map(|(i, c)| c.gap([0, 3][(world + i) % 2]).data((world * 3 + i) as u64))
            .collect();
        let specs: Vec<OpSpec> = cases.iter().flat_map(Case::all_specs).collect();
        let config = GroupConfig::default().one_shot_bytes(2 << 10);
        let node = node(world, world as u64);
        let ranks = node.group(world, &config.sized_for(&specs, world).unwrap()).unwrap();
        for c in &cases {
            let data = Data::new(c);
            let elsewhere = run_on(&ranks, c, &data, Path::Unfused).unwrap();
            let mut slabs: Vec<Slab> = ranks
                .iter()
                .map(|r| Slab::new(r, c.m, c.n, c.gap, c.dtype, Some(&data.inputs[r.rank()])).unwrap())
                .collect();
            for (rank, slab) in ranks.iter().zip(&mut slabs) {
                let plan = rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap();
                plan.launch(&Operands::in_place(c.m, slab.mat_mut().unwrap())).unwrap();
            }
            for rank in &ranks {
                rank.synchronize().unwrap();
            }
            let results: Vec<Vec<u8>> = slabs.iter().map(|s| s.read().unwrap()).collect();
            judge(c, &data, &results, "in place");
            assert!(elsewhere == results, "in place differs: {c:?}");
        }
        check_traffic(&node, &ranks);
    }
}
