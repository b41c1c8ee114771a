//! What is left behind.

use tileweave::{DType, Op, Path};

use crate::common::{Case, Data, run_on};
use crate::support::{cuda_node, group_for, inside};

/// The stand-in's own counts: contexts, streams, events, pools, graphs, allocations, physical handles, reservations.
pub fn live() -> [usize; 8] {
    // SAFETY: the stand-in is loaded already, and has no initialisers of its own.
    let library = unsafe { libloading::Library::new("libcuda.so") }.unwrap();
    let mut counts = [0; 8];
    // SAFETY: the function takes a pointer to eight counts and returns a code.
    let code = unsafe {
        let call = library
            .get::<unsafe extern "C" fn(*mut [usize; 8]) -> u32>(b"tileweave_stand_in_live")
            .unwrap();
        call(&mut counts)
    };
    assert_eq!(code, 0);
    counts
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

inside! {
    fn groups_leave_nothing_behind() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 2, 9, 40, 64, DType::Bf16);
        let data = Data::new(&case);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let ranks = group_for(&node, &case);
            run_on(&ranks, &case, &data, Path::Fused).unwrap();
            drop(ranks);
            seen.push((live(), descriptors()));
        }
        assert!(seen[1..].iter().all(|now| *now == seen[1]), "{seen:?}");
        drop(node);
        assert_eq!(live(), [0; 8], "contexts, streams, events, pools, graphs, allocations, handles, reservations");
    }
}
