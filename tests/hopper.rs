//! The Hopper mainloop: on random shapes, cut and placed in every way that its kernels know, within the bound of the f64
//! reference and with the promised bits. A failing case prints itself and shrinks; `TILEWEAVE_DEEP=10` runs ten times as many.

mod common;

use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Mainloop, Node, Op, Path, Plan, Rank, Wire};

const GEMMS: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];

/// A node of devices with `sms` SMs.
fn node_of(world: usize, sms: u32, seed: u64) -> Node {
    let mut config = SimConfig::new(world, seed);
    config.sms = sms;
    Node::new(Arc::new(SimNode::new(config).unwrap()))
}

/// Ranks whose heap holds `c` in one round, or, with `several`, its smallest round and no more.
fn group_of(node: &Node, c: &Case, path: Path, max_ctas: u32, several: bool) -> Vec<Rank> {
    let config = GroupConfig::default().one_shot_bytes(0).max_ctas(max_ctas);
    let config = match several {
        true => config.heap_bytes(smallest_heap(node, c, path)),
        false => config.sized_for(&c.all_specs(), c.world).unwrap(),
    };
    node.group(c.world, &config).unwrap()
}

prop_compose! {
    /// Rows of x and of the weight are what TMA can address: each rank's K is a multiple of 8, and so are gaps.
    fn case()(
        op in prop::sample::select(GEMMS.to_vec()), world in prop_oneof![4 => 1usize..=4, 1 => 5usize..=8, 1 => 9usize..=16],
        m in prop_oneof![2 => 1usize..=130, 3 => 1usize..=400, 1 => 400usize..=700],
        n in prop_oneof![1 => 1usize..=20, 3 => 1usize..=300, 1 => prop::sample::select(vec![63usize, 64, 65, 127, 128, 129, 256, 257])],
        eights in 1usize..=24, shorter in any::<bool>(), dtype in prop::sample::select(vec![DType::Bf16, DType::F16]),
        f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(), gap in 0usize..3, data_seed in any::<u64>(),
    ) -> Case {
        let reduces = op != Op::AllGatherGemm;
        // Bounded in all: many ranks have less each.
        let (m, n) = if world > 4 { (m.min(300), n.min(150)) } else { (m, n) };
        let k = match reduces {
            // Among more than 8 ranks the last one may have 8 less: chunks stay whole.
            true => 8 * (eights * world - usize::from(shorter && world > 8 && eights > 1)),
            false => 8 * eights,
        };
        let mut c = Case::new(op, world, m, n, k, dtype).gap(8 * gap).data(data_seed).mainloop(Mainloop::Hopper);
        c.bias = bias;
        c.addend = addend && reduces;
        c.wire = if f32_wire && reduces { Wire::F32 } else { Wire::Output };
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// The contract, on few SMs or with few CTAs, in one round or in as many as the smallest heap makes of it, twice in a
    /// group: fused equal to unfused, and the first time to the second.
    #[test]
    fn right_on_every_route(c in case(), seed in any::<u64>(), sms in 2u32..=6, few in 2u32..=5, several in any::<bool>()) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            let node = node_of(c.world, sms, seed.wrapping_add(i as u64));
            let max_ctas = if seed.is_multiple_of(2) { few } else { 0 };
            let ranks = group_of(&node, &c, *path, max_ctas, several);
            for _ in 0..2 {
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                judge(&c, &data, &results, &path.to_string());
                if let Some(first) = &first {
                    prop_assert!(*first == results, "{path} differs from fused");
                }
                first.get_or_insert(results);
            }
            check_traffic(&node, &ranks);
        }
    }
}

#[test]
fn tmp_rounds() {
    for (op, m) in [(Op::AllGatherGemm, 1100), (Op::GemmReduceScatter, 700), (Op::GemmAllReduce, 900)] {
        let c = Case::new(op, 2, m, 130, 128, DType::Bf16).mainloop(Mainloop::Hopper);
        for seed in 0..6 {
            let mut config = SimConfig::new(2, seed);
            config.sms = 6;
            config.launch_hook = Some(Arc::new(move |l, p| println!("{} grid {} panels {} cluster {}", l.kernel, l.launch.grid, p.panels, p.cluster)));
            let node = Node::new(Arc::new(SimNode::new(config).unwrap()));
            let ranks = group_of(&node, &c, Path::Fused, 0, true);
            println!("{:?}", run_on(&ranks, &c, &Data::new(&c), Path::Fused).map(|_| ()));
        }
    }
}
