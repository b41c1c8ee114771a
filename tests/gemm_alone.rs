//! A plan's GEMM alone has the bits that the unfused path's has, on both mainloops and where K is split; and it leaves the
//! group as it was: operations before and after it count as if it had not been there.

use tileweave::driver::sim::SimConfig;
use tileweave::reference::encode;
use tileweave::{Buffer, DType, GroupConfig, Mainloop, Node, Op, OpSpec, Operands, Path, Rank, Want};

const BF16: DType = DType::Bf16;

fn filled(rank: &Rank, elements: usize, salt: usize) -> Buffer {
    let values: Vec<f64> = (0..elements).map(|i| (i * salt % 31) as f64 / 16.0 - 1.0).collect();
    let mut buffer = rank.alloc(elements * 2).unwrap();
    buffer.upload(&encode(BF16, &values)).unwrap();
    buffer
}

fn compare([m, n, k]: [usize; 3], mainloop: Mainloop, kernel: &str) {
    // One rank's gather is its own x, so the whole operation is this GEMM of it.
    let spec = OpSpec::new(Op::AllGatherGemm, n, k, m, BF16)
        .route(Want::Exactly(Path::Unfused))
        .mainloop(mainloop);
    let config = GroupConfig::default()
        .sized_for(std::slice::from_ref(&spec), 1)
        .unwrap();
    let rank = Node::sim(SimConfig::new(1, 3))
        .unwrap()
        .group(1, &config)
        .unwrap()
        .remove(0);
    let plan = rank.plan(&spec).unwrap();
    assert!(plan.route(m).kernel.ends_with(kernel), "{}", plan.route(m));
    let (x, weight) = (filled(&rank, m * k, 7), filled(&rank, n * k, 5));
    let mut results = Vec::new();
    for alone in [false, true, false] {
        let mut out = rank.alloc(m * n * 2).unwrap();
        out.fill(0xff).unwrap();
        let (x, weight) = (x.mat(m, k, BF16).unwrap(), weight.mat(n, k, BF16).unwrap());
        let mut into = out.mat_mut(m, n, BF16).unwrap();
        if alone {
            plan.launch_gemm(m, x, weight, &mut into).unwrap();
        } else {
            plan.launch(&Operands::gemm(m, x, weight, into)).unwrap();
        }
        rank.synchronize().unwrap();
        results.push(out.to_vec::<u16>(m * n).unwrap());
    }
    assert!(results[0].iter().any(|bits| *bits != 0) && results[0] == results[1] && results[1] == results[2]);
    assert_eq!(rank.stats().operations(), 2);
}

#[test]
fn the_bits_of_the_unfused_path() {
    compare([300, 200, 136], Mainloop::Hopper, "gemm_bf16_128_sm90");
    compare([300, 200, 136], Mainloop::Portable, "gemm_bf16_64");
    compare([5, 72, 1600], Mainloop::Portable, "gemm_bf16_64");
}
