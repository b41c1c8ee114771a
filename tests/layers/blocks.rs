//! MLP, attention and a whole layer: against f64, by finite differences, bit for bit, byte for byte.

use proptest::prelude::*;
use tileweave::layer::*;
use tileweave::local::Activation;
use tileweave::reference::layer::{Between, Given, Heads, Kind, Matrix, Setting, expect};
use tileweave::{DType, GroupConfig, Op, Path, Want, Wire};

use super::DTYPES;
use super::block::{Block, Case, OnRank, Tensors, Whole};
use super::common::{Rng, deep, node};

/// Sizes of one layer that all kinds of blocks take their part of.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: usize,
    head_size: usize,
    /// Query heads for each KV head.
    group: usize,
    kv_heads: usize,
    intermediate: usize,
}

fn mlp(s: Sizes, activation: Activation, options: Options) -> Block {
    Block::Mlp(MlpSpec::new(s.hidden, s.intermediate, activation, options))
}

fn attention(s: Sizes, options: Options) -> AttentionSpec {
    AttentionSpec::new(s.hidden, s.group * s.kv_heads, s.kv_heads, options).head_size(s.head_size)
}

fn transformer(s: Sizes, options: Options) -> Block {
    let spec = TransformerSpec::new(s.hidden, s.group * s.kv_heads, s.kv_heads, s.intermediate, options);
    Block::Transformer(spec.head_size(s.head_size))
}

/// GPT's layer: LayerNorm, GELU, biases everywhere.
fn gpt(s: Sizes, options: Options) -> Block {
    let spec = TransformerSpec::gpt(s.hidden, s.group * s.kv_heads, s.intermediate, options);
    Block::Transformer(spec.head_size(s.head_size))
}

/// Worlds with the number of KV heads that they have: fewer ranks than heads, as many, more.
fn heads() -> impl Strategy<Value = (usize, usize, usize)> {
    let all = [
        (1, 1, 3),
        (1, 3, 2),
        (2, 2, 1),
        (2, 4, 2),
        (2, 1, 2),
        (3, 3, 2),
        (3, 1, 3),
        (4, 2, 2),
        (4, 4, 1),
        (5, 5, 1),
        (6, 2, 3),
        (7, 7, 1),
        (8, 2, 4),
        (8, 8, 2),
    ];
    prop::sample::select(all.to_vec())
}

prop_compose! {
    fn case()(
        kind in 0usize..5, (world, kv_heads, group) in heads(), hidden in 1usize..40, head_size in 1usize..20,
        intermediate in 1usize..50, seq in 2usize..14, sequences in 0usize..4, dtype in prop::sample::select(DTYPES.to_vec()),
        sequence_parallel in any::<bool>(), f32_wire in any::<bool>(), gap in 0usize..3, data_seed in any::<u64>(),
    ) -> Case {
        let m = seq * sequences;
        let options = Options::new(m + gap, dtype)
            .sequence_parallel(sequence_parallel)
            .wire(if f32_wire { Wire::F32 } else { Wire::Output });
        let s = Sizes { hidden, head_size, group, kv_heads, intermediate };
        let block = match kind {
            0 => mlp(s, Activation::Gelu, options),
            1 => mlp(s, Activation::SwiGlu, options),
            2 => Block::Attention(attention(s, options).bias(gap == 1)),
            3 => transformer(s, options),
            _ => gpt(s, options),
        };
        Case { block, world, m, seq, gap, data_seed }
    }
}

fn heads_of(c: &Case, spec: &AttentionSpec) -> Heads {
    Heads {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        seq: Some(c.seq),
    }
}

/// Results within the bound of `docs/layers.md`.
fn judge(c: &Case, results: &Tensors) {
    let options = c.options();
    let kind = match &c.block {
        Block::Mlp(spec) if spec.activation == Activation::Gelu => Kind::Mlp(Between::Gelu),
        Block::Mlp(_) => Kind::Mlp(Between::SwiGlu),
        Block::Attention(spec) => Kind::Attention(heads_of(c, spec)),
        Block::Transformer(spec) => Kind::Transformer {
            heads: heads_of(c, &spec.attention),
            eps: f64::from(spec.norm.eps),
        },
    };
    let mut given = Given::default();
    for (name, whole) in c.tensors() {
        given.insert(&name, Matrix::new(whole.rows, whole.cols, whole.values));
    }
    let setting = Setting {
        dtype: options.dtype,
        wire: options.wire,
        world: c.world,
        sequence_parallel: options.sequence_parallel,
    };
    let mut expected = expect(&kind, &given, &setting);
    // k's bias moves all scores of a row alike, and softmax nowhere: its gradient is what roundings of dk leave, and those scale
    // as the weight's gradient does.
    let scale = expected.get("dk_proj.weight").map_or(0.0, |weight| weight.scale());
    if let Some(bias) = expected.get_mut("dk_proj.bias") {
        let slack = 8.0 * options.dtype.unit_roundoff() * scale;
        bias.bound.iter_mut().for_each(|bound| *bound += slack);
    }
    for (name, got) in results {
        let right = &expected[name.as_str()];
        let verdict = right.compare(0..got.rows, 0..got.cols, &got.values);
        assert!(
            verdict.wrong.is_none() && got.rows == right.rows,
            "{name} of {c:?}: {:?}",
            verdict.wrong
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48 * deep() as u32, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn against_f64(c in case(), one_shot in any::<bool>(), seed in any::<u64>()) {
        let (results, _) = c.train(seed, if one_shot { 8 << 10 } else { 0 });
        judge(&c, &results);
    }
}

const SMALL: Sizes = Sizes {
    hidden: 12,
    head_size: 5,
    group: 2,
    kv_heads: 2,
    intermediate: 10,
};

/// Every kind of block, with every option of its own.
fn every_block(s: Sizes, options: Options) -> [Block; 7] {
    let multi_query = Sizes {
        kv_heads: 1,
        group: 4,
        ..s
    };
    [
        mlp(s, Activation::Gelu, options),
        Block::Mlp(
            MlpSpec::new(s.hidden, s.intermediate, Activation::SwiGlu, options)
                .bias(true)
                .residual(true),
        ),
        Block::Attention(attention(s, options).bias(true).residual(true)),
        Block::Attention(attention(multi_query, options).bias(true)),
        transformer(s, options),
        transformer(multi_query, options),
        gpt(s, options),
    ]
}

fn on_two(block: Block, m: usize, seq: usize) -> Case {
    Case {
        block,
        world: 2,
        m,
        seq,
        gap: 0,
        data_seed: 11,
    }
}

/// Along a random direction of each tensor: what the layer's own outputs do, and what its gradients say.
#[test]
fn finite_differences() {
    for sequence_parallel in [false, true] {
        let options = Options::new(6, DType::F32).sequence_parallel(sequence_parallel);
        for block in every_block(SMALL, options) {
            let c = on_two(block, 6, 3);
            let (results, _) = c.train(1, 0);
            let (group, tensors) = (c.group(2, 0), c.tensors());
            let objective = |tensors: &Tensors| -> f64 {
                let mut ranks: Vec<OnRank> = group.ranks.iter().map(|r| c.load(r, tensors).unwrap()).collect();
                ranks.iter_mut().for_each(|l| c.infer(l).unwrap());
                group.ranks.iter().for_each(|r| r.synchronize().unwrap());
                let y = &c.results(&ranks, false)["y"].values;
                y.iter().zip(&tensors["dy"].values).map(|(y, dy)| y * dy).sum()
            };
            let mut rng = Rng(3);
            for (name, whole) in tensors
                .iter()
                .filter(|(name, _)| !["dy", "residual"].contains(&name.as_str()))
            {
                let direction: Vec<f64> = whole.values.iter().map(|_| rng.normal()).collect();
                let moved = |by: f64| {
                    let mut moved = tensors.clone();
                    let values = &mut moved.get_mut(name).unwrap().values;
                    values
                        .iter_mut()
                        .zip(&direction)
                        .for_each(|(value, along)| *value += by * along);
                    objective(&moved)
                };
                let step = 2e-3;
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let gradient = &results[&format!("d{name}")].values;
                let said: f64 = gradient.iter().zip(&direction).map(|(g, along)| g * along).sum();
                assert!(
                    (slope - said).abs() < 2e-2 * (1.0 + said.abs()),
                    "{name} of {c:?}: {said}, but {slope}"
                );
            }
        }
    }
}

/// The same bits on every rank that has a value (`Case::results` compares), under every schedule, on both routes, and of the stream
/// with sequence parallelism as without.
#[test]
fn bits() {
    for dtype in [DType::Bf16, DType::F32] {
        for (kind, block) in every_block(SMALL, Options::new(30, dtype)).into_iter().enumerate() {
            let c = Case {
                world: [2, 4][kind % 2],
                ..on_two(block, 27, 9)
            };
            let mut first: [Option<Tensors>; 2] = [None, None];
            for round in 0..4 * deep() {
                let (sequence_parallel, fused) = (round % 2 == 1, round / 2 % 2 == 0);
                let route = Want::Exactly(if fused { Path::Fused } else { Path::Unfused });
                let c = c.with(|options| options.sequence_parallel(sequence_parallel).route(route));
                let (results, _) = c.train(round as u64, 0);
                let known = first[round % 2].get_or_insert_with(|| results.clone());
                assert!(*known == results, "{c:?} {round}");
                let stream = |results: &Tensors| ["y", "dx"].map(|name| results[name].clone());
                let known = first[0].as_ref().unwrap();
                assert!(stream(known) == stream(&results), "{c:?} {round}");
            }
        }
    }
}

/// Two all-reduces in each direction, or two all-gathers and two reduce-scatters; half of that for a block; the textbook's bytes, the same
/// with sequence parallelism as without, every byte as stated (`Case::on_all` compares).
#[test]
fn collectives_and_bytes() {
    for (world, m) in [(2, 64), (4, 50), (8, 37)] {
        let s = Sizes {
            hidden: 48,
            head_size: 8,
            group: 4,
            kv_heads: 2,
            intermediate: 70,
        };
        let options = Options::new(m, DType::Bf16);
        let blocks = [
            (mlp(s, Activation::Gelu, options), 1),
            (mlp(s, Activation::SwiGlu, options), 1),
            (Block::Attention(attention(s, options)), 1),
            (transformer(s, options), 2),
        ];
        for (block, sums) in blocks {
            let textbook = sums * 2 * (world as u64 - 1) * (m * s.hidden * 2) as u64;
            for sequence_parallel in [false, true] {
                let c = Case {
                    world,
                    ..on_two(block, m, m)
                }
                .with(|options| options.sequence_parallel(sequence_parallel));
                let (_, passes) = c.train(1, 0);
                let direction: [Vec<Op>; 2] = match sequence_parallel {
                    false => [vec![Op::GemmAllReduce], vec![Op::GemmAllReduce]],
                    true => [
                        vec![Op::AllGather, Op::GemmReduceScatter],
                        vec![Op::AllGather, Op::GemmReduceScatter],
                    ],
                };
                for (pass, ops) in passes.iter().zip(direction) {
                    assert_eq!(pass.iter().map(|sent| sent.bytes).sum::<u64>(), textbook, "{c:?}");
                    for sent in pass {
                        let said: Vec<Op> = sent.stated.iter().map(|sends| sends.op).collect();
                        assert_eq!(said, ops.repeat(sums as usize), "{c:?}");
                    }
                }
            }
        }
    }
}

/// A layer for inference: the same y as in training, the same bytes, no memory to save in, no backward pass.
#[test]
fn inference() {
    for sequence_parallel in [false, true] {
        let options = Options::new(20, DType::Bf16).sequence_parallel(sequence_parallel);
        for block in every_block(SMALL, options) {
            let c = on_two(block, 18, 6);
            let (trained, _) = c.train(1, 0);
            let c = c.with(|options| options.training(false));
            let (group, tensors) = (c.group(2, 0), c.tensors());
            let mut ranks: Vec<OnRank> = group.ranks.iter().map(|r| c.load(r, &tensors).unwrap()).collect();
            c.on_all(&group, &mut ranks, OnRank::forward_sends, |l| c.infer(l));
            assert!(c.results(&ranks, false)["y"] == trained["y"], "{c:?}");
            for l in &ranks {
                assert!(l.saved.is_none() && l.backward_sends(18).is_empty() && l.finish_sends(0).is_empty());
            }
        }
    }
}

/// Two micro-batches into one gradient, then one sum over ranks.
#[test]
fn micro_batches() {
    for sequence_parallel in [false, true] {
        let options = Options::new(6, DType::F32).sequence_parallel(sequence_parallel);
        for block in every_block(SMALL, options) {
            let c = on_two(block, 6, 3);
            let (once, _) = c.train(1, 0);
            let (group, tensors) = (c.group(2, 0), c.tensors());
            let mut ranks: Vec<OnRank> = group.ranks.iter().map(|r| c.load(r, &tensors).unwrap()).collect();
            for accumulate in [false, true] {
                ranks.iter_mut().for_each(|l| c.forward(l, 6).unwrap());
                ranks.iter_mut().for_each(|l| c.backward(l, 6, accumulate).unwrap());
            }
            ranks.iter_mut().for_each(|l| c.finish(l).unwrap());
            group.ranks.iter().for_each(|r| r.synchronize().unwrap());
            let twice = c.results(&ranks, true);
            for (name, Whole { values, .. }) in &once {
                let times = if ["y", "dx"].contains(&name.as_str()) { 1.0 } else { 2.0 };
                let largest = values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                for (once, got) in values.iter().zip(&twice[name].values) {
                    assert!(
                        (times * once - got).abs() <= 1e-6 * largest,
                        "{name} of {c:?}: {got}, not {}",
                        times * once
                    );
                }
            }
        }
    }
}

#[test]
fn backward_needs_its_forward() {
    for block in every_block(SMALL, Options::new(8, DType::F32)) {
        let c = Case {
            world: 1,
            ..on_two(block, 6, 3)
        };
        let (group, tensors) = (c.group(2, 0), c.tensors());
        let mut l = c.load(&group.ranks[0], &tensors).unwrap();
        let text = |result: tileweave::Result<()>| result.unwrap_err().to_string();
        let empty = "saved is empty: expected what a forward pass of 6 rows leaves, once for each backward pass";
        assert_eq!(text(c.backward(&mut l, 6, false)), empty);
        c.forward(&mut l, 6).unwrap();
        assert_eq!(l.saved.as_ref().unwrap().m(), Some(6));
        let wrong = text(c.backward(&mut l, 7, false));
        assert_eq!(wrong, "x is [6, 12]: expected [7, 12] at M = 7 on rank 0 of 1");
        // It is still there.
        c.backward(&mut l, 6, false).unwrap();
        assert_eq!(text(c.backward(&mut l, 6, false)), empty);
        let mut shorter = c;
        (shorter.m, shorter.seq) = (3, 3);
        let mut other = shorter.load(&group.ranks[0], &shorter.tensors()).unwrap();
        std::mem::swap(&mut other.saved, &mut l.saved);
        let wrong = text(shorter.forward(&mut other, 3));
        assert_eq!(
            wrong,
            "saved is of another layer: expected what this layer's saved() made"
        );
        std::mem::swap(&mut other.saved, &mut l.saved);
        other = shorter.load(&group.ranks[0], &shorter.tensors()).unwrap();
        shorter.forward(&mut other, 3).unwrap();
        let mut longer = c.load(&group.ranks[0], &tensors).unwrap();
        std::mem::swap(&mut longer, &mut other);
        longer.lend_operands(&mut other);
        let wrong = text(c.backward(&mut longer, 6, false));
        assert_eq!(
            wrong,
            "saved is of a forward pass of 3 rows: expected of one of 6, as the backward pass has"
        );
        group.ranks[0].synchronize().unwrap();
    }
}

#[test]
fn what_is_refused() {
    let ranks = node(4, 0)
        .group(4, &GroupConfig::default().heap_bytes(4 << 20))
        .unwrap();
    let rank = &ranks[1];
    let options = Options::new(8, DType::F32);
    let attention = |heads, kv| {
        let spec = AttentionSpec::new(24, heads, kv, options).head_size(4);
        ParallelAttention::new(rank, &spec).unwrap_err().to_string()
    };
    assert_eq!(attention(10, 5), "heads is 10: expected a multiple of the 4 ranks");
    assert_eq!(attention(8, 3), "heads is 8: expected a multiple of the 3 KV heads");
    assert_eq!(
        attention(12, 6),
        "kv_heads is 6: expected a multiple of the 4 ranks, or a divisor of 4"
    );
    assert_eq!(
        attention(12, 3),
        "kv_heads is 3: expected a multiple of the 4 ranks, or a divisor of 4"
    );
    assert_eq!(attention(0, 1), "heads is 0: expected at least 1");
    let mlp = ParallelMlp::new(rank, &MlpSpec::new(8, 0, Activation::Gelu, options));
    assert_eq!(mlp.unwrap_err().to_string(), "intermediate is 0: expected at least 1");
    let mut spec = TransformerSpec::new(24, 4, 4, 8, options);
    spec.mlp.hidden = 25;
    let layer = TransformerLayer::new(rank, &spec);
    assert_eq!(
        layer.unwrap_err().to_string(),
        "mlp.hidden is 25: expected attention's, 24"
    );

    let c = Case {
        world: 1,
        ..on_two(transformer(SMALL, options), 6, 4)
    };
    let (group, tensors) = (c.group(1, 0), c.tensors());
    let mut l = c.load(&group.ranks[0], &tensors).unwrap();
    let wrong = c.forward(&mut l, 6).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "seq is 4: expected a sequence's length, at least 1, of which M = 6 is a multiple"
    );
    let wrong = c.forward(&mut l, 9).unwrap_err().to_string();
    assert_eq!(wrong, "m is 9: expected at most the layer's max_m, 8");
    l.lend_small_workspace(&group.ranks[0]);
    let need = l.workspace_bytes();
    let wrong = c.infer(&mut l).unwrap_err().to_string();
    assert!(wrong.starts_with("seq is 4"), "{wrong}");
    let c = Case { seq: 3, ..c };
    let wrong = c.infer(&mut l).unwrap_err().to_string();
    let expected = format!("the workspace is 100 bytes: expected at least the layer's workspace_bytes(), {need}");
    assert_eq!(wrong, expected);
    let layer = c.with(|options| options.training(false));
    let mut l = layer.load(&layer.group(1, 0).ranks[0], &tensors).unwrap();
    assert!(l.saved.take().is_none());
}
