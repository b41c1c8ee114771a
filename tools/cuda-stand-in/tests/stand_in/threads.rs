//! Who drives a group: a thread for each rank, none of them attached; and one that polls.

use std::time::{Duration, Instant};

use tileweave::{DType, Op, Path};

use crate::common::{Case, Data, judge};
use crate::support::{cuda_node, group_for, inside, load};

/// Far longer than anything takes: only a hang lasts so long.
const EVER: Duration = Duration::from_secs(100);

inside! {
    fn a_thread_for_each_rank() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 2, 9, 40, 64, DType::Bf16);
        let ranks = group_for(&node, &case);
        let data = Data::new(&case);
        let mut loaded = load(&ranks, &case, &data);
        std::thread::scope(|scope| {
            for (rank, operands) in ranks.iter().zip(&mut loaded) {
                let (rank, case) = (rank.clone(), &case);
                scope.spawn(move || {
                    let plan = rank.plan(&case.spec(rank.rank(), Path::Fused)).unwrap();
                    for round in 0..20 {
                        // One of them is late, now and then.
                        if round % 5 == rank.rank() {
                            std::thread::sleep(Duration::from_millis(3));
                        }
                        operands.launch(&plan, case.m).unwrap();
                        if round % 3 == 0 {
                            rank.synchronize().unwrap();
                        }
                    }
                    rank.synchronize().unwrap();
                });
            }
        });
        let results: Vec<_> = loaded.iter().map(|operands| operands.result().unwrap()).collect();
        judge(&case, &data, &results, "by a thread each");
    }

    fn whoever_polls_sees_the_end() {
        let node = cuda_node();
        let case = Case::new(Op::GemmReduceScatter, 2, 9, 40, 64, DType::Bf16);
        let ranks = group_for(&node, &case);
        let data = Data::new(&case);
        let mut loaded = load(&ranks, &case, &data);
        for (rank, operands) in ranks.iter().zip(&mut loaded) {
            let plan = rank.plan(&case.spec(rank.rank(), Path::Fused)).unwrap();
            operands.launch(&plan, case.m).unwrap();
        }
        let begin = Instant::now();
        for rank in &ranks {
            while !node.driver().stream_wait(rank.stream(), Duration::ZERO).unwrap() {
                assert!(begin.elapsed() < EVER, "nothing goes on unless somebody waits");
                std::thread::yield_now();
            }
            rank.health().unwrap();
        }
        let results: Vec<_> = loaded.iter().map(|operands| operands.result().unwrap()).collect();
        judge(&case, &data, &results, "polled for");
    }
}
