//! Tensor-parallel layers on the simulated node: forward and backward against the f64 layer on one rank, for every
//! number of ranks and ragged batches, with and without sequence parallelism; finite differences; what they send against what they
//! said that they would.

mod block;
mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod dealt;
mod goldens;
mod linear;
mod mapping;
mod reference;
mod small;
mod vocabulary;

use common::*;
use linear::{Linear, Passes};
use proptest::prelude::*;
use tileweave::layer::{Backward, ColumnParallelLinear, Forward, LinearSpec, RowParallelLinear, Split};
use tileweave::{DType, Epilogue, GroupConfig, Wire};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 1usize..12, 3 => 1usize..140, 1 => prop::sample::select(vec![63usize, 64, 65, 128, 200])]
}

prop_compose! {
    fn linear()(
        split in prop::sample::select(vec![Split::Column, Split::Row]),
        world in prop::sample::select(vec![1usize, 2, 3, 4, 8]), m in prop_oneof![1 => Just(0usize), 9 => extent()],
        inputs in extent(), outputs in extent(), dtype in prop::sample::select(DTYPES.to_vec()), bias in any::<bool>(),
        sequence_parallel in any::<bool>(), f32_wire in any::<bool>(), accumulate in any::<bool>(), gap in 0usize..4,
        whole in prop::bool::weighted(0.3), end in 0usize..3, data_seed in any::<u64>(),
    ) -> Linear {
        let (column, row) = (split == Split::Column, split == Split::Row);
        let epilogue = [Epilogue::None, Epilogue::Gelu, Epilogue::SwiGlu][if column && !whole { end } else { 0 }];
        let outputs = if epilogue == Epilogue::SwiGlu { 2 * outputs } else { outputs };
        let spec = LinearSpec::new(inputs, outputs, m + gap, dtype)
            .bias(bias)
            .sequence_parallel(sequence_parallel && !whole)
            .gather_output(whole && column)
            .split_input(whole && row)
            .epilogue(epilogue)
            .residual(row && end == 1)
            .wire(if f32_wire { Wire::F32 } else { Wire::Output });
        Linear { split, world, m, spec, accumulate, gap, data_seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60 * deep() as u32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Every value within the bound that the contract implies for it; every byte as stated; twice on one group, and for dx alone.
    #[test]
    fn forward_and_backward(c in linear(), one_shot in any::<bool>(), seed in any::<u64>()) {
        let group = c.group(seed, if one_shot { 8 << 10 } else { 0 });
        for passes in [Passes::Training, Passes::Training, Passes::Inference] {
            let results = c.run(&group, passes);
            c.judge(&results);
        }
    }
}

/// What a layer leaves is the same on every rank that has it, under every schedule, and with sequence parallelism as without.
#[test]
fn bits() {
    for split in [Split::Column, Split::Row] {
        for dtype in DTYPES {
            let mut first = None;
            for (seed, sequence_parallel) in (0..6 * deep() as u64).zip([false, true].into_iter().cycle()) {
                let spec = LinearSpec::new(70, 90, 40, dtype).sequence_parallel(sequence_parallel);
                let (world, m) = (3, 37);
                let c = Linear {
                    split,
                    world,
                    m,
                    spec,
                    accumulate: false,
                    gap: 0,
                    data_seed: 5,
                };
                let results = c.run(&c.group(seed, 0), Passes::Training).whole(&c);
                assert!(*first.get_or_insert_with(|| results.clone()) == results, "{c:?} {seed}");
            }
        }
    }
}

/// A block, column then row, sends the textbook's bytes in each direction, the same with sequence parallelism as without.
#[test]
fn equal_totals() {
    for (world, m, d) in [(2, 64, 96), (3, 50, 70), (4, 130, 64), (8, 37, 40)] {
        let textbook = 2 * (world as u64 - 1) * (m * d * 2) as u64;
        for sequence_parallel in [false, true] {
            let spec =
                |inputs, outputs| LinearSpec::new(inputs, outputs, m, DType::Bf16).sequence_parallel(sequence_parallel);
            let linear = |split, spec| Linear {
                split,
                world,
                m,
                spec,
                accumulate: false,
                gap: 0,
                data_seed: 3,
            };
            let first = linear(Split::Column, spec(d, 4 * d));
            let second = linear(Split::Row, spec(4 * d, d));
            for passes in [Passes::Training, Passes::Inference] {
                let [mut forward, mut backward] = [0, 0];
                for layer in [&first, &second] {
                    let results = layer.run(&layer.group(1, 0), passes);
                    forward += results.forward_bytes.iter().sum::<u64>();
                    backward += results.backward_bytes.iter().sum::<u64>();
                }
                assert_eq!(
                    [forward, backward],
                    [textbook; 2],
                    "{world} {m} {d} {sequence_parallel} {passes:?}"
                );
            }
        }
    }
}

/// The derivative of the sum of y's elements, each times dy's, by each input and each parameter.
#[test]
fn finite_differences() {
    for split in [Split::Column, Split::Row] {
        for sequence_parallel in [false, true] {
            let spec = LinearSpec::new(5, 7, 6, DType::F32).sequence_parallel(sequence_parallel);
            let c = Linear {
                split,
                world: 3,
                m: 6,
                spec,
                accumulate: false,
                gap: 0,
                data_seed: 8,
            };
            let numbers = reference::Numbers::new(&c);
            let results = c.run(&c.group(2, 0), Passes::Training).whole(&c);
            let close = |name: &str, got: &[u8], of: fn(&mut reference::Numbers) -> &mut Vec<f64>| {
                let got = tileweave::reference::decode(DType::F32, got);
                for (at, got) in got.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut moved = numbers.clone();
                        of(&mut moved)[at] += by;
                        moved.objective(&c)
                    };
                    let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                    assert!((slope - got).abs() < 1e-4, "{c:?} {name} {at}: {got}, but {slope}");
                }
            };
            close("dx", &results.dx, |n| &mut n.x);
            close("dweight", &results.dweight, |n| &mut n.weight);
            close("dbias", &results.dbias, |n| &mut n.bias);
        }
    }
}

#[test]
fn what_is_refused() {
    let config = GroupConfig::default().heap_bytes(1 << 20);
    let rank = node(1, 0).group(1, &config).unwrap().remove(0);
    let slab = |rows: usize, cols: usize| Slab::new(&rank, rows, cols, 0, DType::F32, None).unwrap();
    let none = LinearSpec::new(0, 4, 8, DType::F32);
    let error = ColumnParallelLinear::new(&rank, &none).unwrap_err().to_string();
    assert_eq!(error, "in_features is 0: expected at least 1");
    let spec = LinearSpec::new(3, 5, 8, DType::F32);
    let column = |spec: LinearSpec| ColumnParallelLinear::new(&rank, &spec).unwrap_err().to_string();
    let row = |spec: LinearSpec| RowParallelLinear::new(&rank, &spec).unwrap_err().to_string();
    let with_rows = "true: expected false with sequence parallelism, which splits what lies between layers by rows";
    assert_eq!(
        column(spec.clone().gather_output(true).sequence_parallel(true)),
        format!("gather_output is {with_rows}")
    );
    assert_eq!(
        row(spec.clone().split_input(true).sequence_parallel(true)),
        format!("split_input is {with_rows}")
    );
    assert_eq!(
        column(spec.clone().epilogue(Epilogue::SwiGlu)),
        "out_features is 5: expected an even number: SwiGLU takes gates and ups in turn"
    );
    assert_eq!(
        column(spec.clone().residual(true)),
        "residual is true: expected false: a column-parallel layer sums nothing over ranks"
    );
    assert_eq!(
        row(spec.clone().epilogue(Epilogue::Gelu)),
        "epilogue is GELU: expected none: a row-parallel layer's product is a part of a sum"
    );

    let spec = LinearSpec::new(3, 4, 8, DType::F32).bias(false);
    let mut column = ColumnParallelLinear::new(&rank, &spec).unwrap();
    let (x, weight, mut y) = (slab(8, 3), slab(4, 3), slab(8, 4));
    let (x, weight) = (x.mat().unwrap(), weight.mat().unwrap());
    let mut forward = |m: usize, x, bias| {
        let y = y.mat_mut().unwrap();
        let pass = Forward {
            bias,
            ..Forward::new(m, x, weight, y)
        };
        column.forward(pass).unwrap_err().to_string()
    };
    assert_eq!(forward(9, x, None), "m is 9: expected at most the layer's max_m, 8");
    assert_eq!(
        forward(7, x, None),
        "x is [8, 3]: expected [7, 3] at M = 7 on rank 0 of 1"
    );
    assert_eq!(
        forward(8, x, Some(weight)),
        "bias is given: expected as the layer was made, with bias = false"
    );

    let (dy, mut dweight) = (slab(8, 4), slab(4, 3));
    let mut backward = |spec: &LinearSpec| {
        let mut row = RowParallelLinear::new(&rank, spec).unwrap();
        let pass = Backward {
            weight: Some(weight),
            dweight: Some(dweight.mat_mut().unwrap()),
            ..Backward::new(8, dy.mat().unwrap())
        };
        row.backward(pass).unwrap_err().to_string()
    };
    assert_eq!(backward(&spec), "x is missing: expected a matrix: dweight needs it");
    assert_eq!(
        backward(&spec.training(false)),
        "the backward pass is of a layer for inference: expected a layer made with training(true)"
    );
}
