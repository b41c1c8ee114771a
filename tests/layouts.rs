//! GEMMs in every layout: the same bits from the same numbers, wherever they lie, within the bound of the f64 reference; of
//! a rank's own, and within the operations.

mod common;

use common::*;
use proptest::prelude::*;
use tileweave::reference;
use tileweave::{DType, Gemm, Layout, Mainloop, Op, Rank, Result};

const LAYOUTS: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];
const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

/// What it leaves, the operands laid out so.
fn run_in(rank: &Rank, c: &Own, data: &Numbers, layout: Layout) -> Result<Vec<u8>> {
    Ok(run_own(rank, &c.clone().layout(layout), data, false)?.0)
}

fn right(c: &Own, data: &Numbers, out: &[u8], what: &str) {
    let compared = data
        .product(c)
        .compare(0..c.m, 0..c.n, &reference::decode(c.dtype, out));
    assert!(compared.wrong.is_none(), "{c:?} {what}: {:?}", compared.wrong);
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0usize..12, 3 => 0usize..140, 1 => prop::sample::select(vec![63usize, 64, 65, 127, 128, 129, 200, 260])]
}

prop_compose! {
    fn own()(
        m in extent(), n in extent(), k in prop_oneof![3 => extent(), 1 => 260usize..1100],
        dtype in prop::sample::select(DTYPES.to_vec()), bias in any::<bool>(), accumulate in any::<bool>(),
        gap in prop_oneof![2 => Just(0usize), 1 => Just(8usize), 1 => 1usize..9],
        moved in prop_oneof![2 => Just([false; 4]), 1 => any::<[bool; 4]>()], data_seed in any::<u64>(),
    ) -> Own {
        Own { bias, accumulate, gap, moved, data_seed, ..Own::new(m, n, k, dtype) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60 * deep() as u32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Within the bound; and the portable mainloop's bits do not depend on the layout, on how operands are aligned, or
    /// on whether there is room for the products of splits.
    #[test]
    fn one_product_one_set_of_bits(c in own(), seed in any::<u64>()) {
        let data = Numbers::new(&c);
        let c = Own { mainloop: Some(Mainloop::Portable), ..c };
        let (roomy, bare) = (alone(seed, 32 << 20), alone(seed, 64 << 10));
        let first = run_in(&roomy, &c, &data, Layout::Nt).unwrap();
        right(&c, &data, &first, "NT");
        for layout in LAYOUTS {
            prop_assert!(run_in(&roomy, &c, &data, layout).unwrap() == first, "{layout}");
            prop_assert!(run_in(&bare, &c, &data, layout).unwrap() == first, "{layout} without scratch");
        }
        let aligned = Own { gap: 0, moved: [false; 4], ..c };
        prop_assert!(run_in(&roomy, &aligned, &data, Layout::Tn).unwrap() == first, "aligned");
    }
}

/// Large tiles of the portable mainloop.
#[test]
fn large_tiles() {
    for dtype in [DType::Bf16, DType::F16] {
        let c = Own {
            accumulate: true,
            mainloop: Some(Mainloop::Portable),
            ..Own::new(1030, 1090, 70, dtype)
        };
        let (data, rank) = (Numbers::new(&c), alone(7, 1 << 20));
        let first = run_in(&rank, &c, &data, Layout::Nt).unwrap();
        right(&c, &data, &first, "NT");
        for layout in [Layout::Nn, Layout::Tn] {
            assert!(run_in(&rank, &c, &data, layout).unwrap() == first, "{dtype} {layout}");
        }
    }
}

/// Hopper's mainloop takes NT, also over what was there, and refuses the others by name where it is asked for.
#[test]
fn hopper_has_one_layout() {
    let c = Own {
        accumulate: true,
        bias: true,
        mainloop: Some(Mainloop::Hopper),
        ..Own::new(300, 200, 136, DType::Bf16)
    };
    let (data, rank) = (Numbers::new(&c), alone(3, 1 << 20));
    right(&c, &data, &run_in(&rank, &c, &data, Layout::Nt).unwrap(), "NT");
    for layout in [Layout::Nn, Layout::Tn] {
        let error = run_in(&rank, &c, &data, layout).unwrap_err().to_string();
        assert!(error.contains("K is not contiguous"), "{error}");
        let free = Own {
            mainloop: None,
            ..c.clone()
        };
        right(
            &free,
            &data,
            &run_in(&rank, &free, &data, layout).unwrap(),
            "crate's choice",
        );
    }
}

/// Operations whose weight is `[k, n]` have the bits of those whose weight is `[n, k]`, on every route and tile.
#[test]
fn operations_take_the_weight_either_way() {
    let cases = [
        Case::new(Op::GemmAllReduce, 3, 70, 130, 300, DType::Bf16)
            .bias()
            .addend(),
        Case::new(Op::GemmAllReduce, 2, 3, 72, 1500, DType::F16),
        Case::new(Op::GemmReduceScatter, 4, 201, 75, 170, DType::F32).gap(3),
        Case::new(Op::GemmReduceScatter, 2, 300, 2100, 40, DType::Bf16).unaligned(1),
        Case::new(Op::AllGatherGemm, 3, 520, 150, 100, DType::F16).bias(),
        Case::new(Op::AllGatherGemm, 4, 37, 75, 67, DType::F32),
    ];
    for c in cases.map(|c| c.mainloop(Mainloop::Portable)) {
        let data = Data::new(&c);
        for path in c.routes() {
            let plain = run(&c, *path, 5).unwrap();
            judge(&c, &data, &plain, &path.to_string());
            let turned = run(&c.clone().layout(Layout::Nn), *path, 6).unwrap();
            assert!(plain == turned, "{c:?} {path}");
        }
    }
}

#[test]
fn what_is_refused() {
    let rank = alone(1, 1 << 20);
    let slab = |rows: usize, cols: usize| Slab::new(&rank, rows, cols, 0, DType::F32, None).unwrap();
    let (x, weight, mut out) = (slab(4, 6), slab(6, 5), slab(4, 5));
    let refused = |layout: Layout, weight: &Slab, out: &mut Slab| {
        let gemm = Gemm::new(layout, x.mat().unwrap(), weight.mat().unwrap(), out.mat_mut().unwrap());
        rank.gemm(&gemm).unwrap_err().to_string()
    };
    assert_eq!(
        refused(Layout::Nt, &weight, &mut out),
        "weight is [6, 5]: expected [5, 6] for a GEMM NT of x [4, 6] on rank 0 of 1"
    );
    assert_eq!(
        refused(Layout::Tn, &weight, &mut out),
        "out is [4, 5]: expected [6, 5] for a GEMM TN of x [4, 6] on rank 0 of 1"
    );
    let spec = |op: Op, layout: Layout| {
        let k = if op.has_gemm() { 8 } else { 0 };
        let spec = tileweave::OpSpec::new(op, 8, k, 8, DType::F32).layout(layout);
        rank.plan(&spec).unwrap_err().to_string()
    };
    assert!(spec(Op::GemmAllReduce, Layout::Tn).starts_with("layout is TN: expected NT or NN"));
    assert_eq!(
        spec(Op::AllReduce, Layout::Nn),
        "layout is NN: expected NT: all-reduce has no GEMM"
    );
}
