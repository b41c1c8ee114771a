//! Groups: the operations, their bits, virtual ranks, multicast, the probe.

use tileweave::driver::Driver;
use tileweave::{Exchange, GroupConfig, Numerics, Op, Path, Probing};

use crate::common::{Case, Data, judge, run_on};
use crate::support::{cases, config, cuda_node, driver, inside, on_the_node, run_case};

fn all_cases(world: usize) {
    let node = cuda_node();
    for case in cases(world) {
        for path in case.routes() {
            let results = run_case(&node, &case, *path);
            assert_eq!(results, on_the_node(&case, *path), "{case:?} {path:?}");
        }
    }
}

inside! {
    fn two_ranks_have_the_bits_of_the_simulated_node() {
        all_cases(2);
    }

    fn four_ranks_have_the_bits_of_the_simulated_node() {
        all_cases(4);
    }

    fn virtual_ranks_are_green_contexts() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 4, 20, 48, 64, tileweave::DType::Bf16).bias();
        for path in [Path::Fused, Path::Unfused] {
            assert_eq!(run_case(&node, &case, path), on_the_node(&case, path));
        }
        let info = node.driver().place_info(tileweave::driver::Place { device: 0, share: 3, shares: 4 }).unwrap();
        assert_eq!(info.name, "simulated device 0, share 3 of 4 (8 SMs)");
        // Below the smallest partition there are none, and grids are capped.
        let five = Case::new(Op::AllReduce, 5, 9, 32, 0, tileweave::DType::F32);
        assert_eq!(run_case(&node, &five, Path::Unfused), on_the_node(&five, Path::Unfused));
        let info = node.driver().place_info(tileweave::driver::Place { device: 0, share: 0, shares: 5 }).unwrap();
        assert!(info.name.contains("no green contexts"), "{}", info.name);
    }

    fn sums_in_the_switch() {
        let node = cuda_node();
        let case = Case::new(Op::AllReduce, 2, 16, 64, 0, tileweave::DType::Bf16).exchange(Exchange::InSwitch);
        let config = config().numerics(Numerics::InSwitch).heap_bytes(2 << 20);
        let ranks = node.group(2, &config).unwrap();
        let data = Data::new(&case);
        let results = run_on(&ranks, &case, &data, Path::Unfused).unwrap();
        judge(&case, &data, &results, "in the switch");
        assert!(driver().multicast_claim(0).unwrap());
    }

    fn links_are_probed() {
        let node = cuda_node();
        let config = GroupConfig::default().probing(Probing::Always);
        let ranks = node.group(2, &config).unwrap();
        let probe = ranks[0].probe().expect("it was asked for");
        assert_eq!(probe.links.len(), 2);
        for link in &probe.links {
            let ways = [&link.store, &link.load, &link.copy];
            assert!(ways.iter().all(|way| way.outcome.works()) && link.atomics.works(), "{link:?}");
        }
    }
}
