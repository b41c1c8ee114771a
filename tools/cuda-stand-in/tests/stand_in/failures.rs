//! Failures as on a GPU: deadlines are of the wall clock, and the context stays.

use std::time::Duration;

use tileweave::{DType, Error, Op, Path};

use crate::common::{Case, Data, judge, run_on};
use crate::support::{config, cuda_node, group_for, inside, load};

inside! {
    fn a_rank_that_never_launches_is_named() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 2, 9, 40, 64, DType::Bf16);
        let config = config().deadline(Duration::from_millis(300)).sized_for(&case.all_specs(), 2).unwrap();
        let ranks = node.group(2, &config).unwrap();
        let data = Data::new(&case);
        let mut loaded = load(&ranks, &case, &data);
        let plan = ranks[1].plan(&case.spec(1, Path::Fused)).unwrap();
        loaded[1].launch(&plan, case.m).unwrap();
        let error = ranks[1].synchronize().unwrap_err();
        assert!(matches!(error, Error::Wait { .. }), "{error}");
        assert!(error.to_string().contains("rank 0"), "{error}");
        drop((plan, loaded, ranks));
        // Another group on the same contexts.
        let ranks = group_for(&node, &case);
        let results = run_on(&ranks, &case, &data, Path::Fused).unwrap();
        judge(&case, &data, &results, "after a failure");
    }

    fn an_abort_ends_what_runs() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 2, 9, 40, 64, DType::Bf16);
        let ranks = group_for(&node, &case);
        let data = Data::new(&case);
        let mut loaded = load(&ranks, &case, &data);
        let plan = ranks[0].plan(&case.spec(0, Path::Fused)).unwrap();
        loaded[0].launch(&plan, case.m).unwrap();
        // It waits for a peer that has not launched, with a deadline of minutes.
        std::thread::sleep(Duration::from_millis(20));
        ranks[0].abort("told to");
        let error = ranks[0].synchronize().unwrap_err();
        assert!(error.to_string().contains("told to"), "{error}");
        assert!(matches!(loaded[0].launch(&plan, case.m), Err(Error::Poisoned(_))));
    }
}
