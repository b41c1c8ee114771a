//! Embedding, cross-entropy and norms: every value, every bit that is promised, every byte, what bad numbers get.

use proptest::prelude::*;
use tileweave::layer::*;
use tileweave::local::NormKind;
use tileweave::reference::local as right;
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Rank, chunk, reference};

use super::DTYPES;
use super::common::Rng;
use super::common::*;

#[derive(Debug, Clone)]
struct Words {
    world: usize,
    vocabulary: usize,
    hidden: usize,
    options: Options,
    /// Within the vocabulary.
    ids: Vec<i64>,
    gap: usize,
    data_seed: u64,
}

prop_compose! {
    fn words()(
        world in 1usize..=8, more in 0usize..60, hidden in 1usize..50, m in 0usize..40, dtype in prop::sample::select(DTYPES.to_vec()),
        sequence_parallel in any::<bool>(), gap in 0usize..3, data_seed in any::<u64>(),
    ) -> Words {
        let vocabulary = world + more;
        let mut rng = Rng(data_seed);
        let ids = (0..m).map(|_| rng.below(vocabulary) as i64).collect();
        let options = Options::new(m + gap, dtype).sequence_parallel(sequence_parallel);
        Words { world, vocabulary, hidden, options, ids, gap, data_seed }
    }
}

fn group(world: usize, operations: &[OpSpec], seed: u64) -> (Node, Vec<Rank>) {
    let node = node(world, seed);
    let config = GroupConfig::default()
        .one_shot_bytes(0)
        .sized_for(operations, world)
        .unwrap();
    let ranks = node.group(world, &config).unwrap();
    (node, ranks)
}

fn round(dtype: DType, values: &[f64]) -> Vec<f64> {
    reference::decode(dtype, &reference::encode(dtype, values))
}

fn draw(rng: &mut Rng, dtype: DType, count: usize) -> Vec<f64> {
    let drawn: Vec<f64> = (0..count).map(|_| rng.normal()).collect();
    round(dtype, &drawn)
}

fn upload(rank: &Rank, ids: &[i64]) -> Buffer {
    let mut buffer = rank.alloc(ids.len() * 8).unwrap();
    buffer.upload(ids).unwrap();
    buffer
}

/// The bytes that ranks have sent since they were asked last.
struct Counter(Vec<u64>);

impl Counter {
    fn new(ranks: &[Rank]) -> Counter {
        Counter(ranks.iter().map(|r| r.stats().bytes_sent()).collect())
    }

    fn check(&mut self, ranks: &[Rank], stated: &dyn Fn(usize) -> Vec<Sends>) {
        ranks.iter().for_each(|r| r.synchronize().unwrap());
        for (r, (rank, before)) in ranks.iter().zip(&self.0).enumerate() {
            assert_eq!(
                Sends::total(&stated(r)),
                Some(rank.stats().bytes_sent() - before),
                "rank {r}"
            );
        }
        *self = Counter::new(ranks);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30 * deep() as u32, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Forward the very rows of the table; backward every bit of a sum in f32, tokens in order, rounded once.
    #[test]
    fn embedding(c in words(), seed in any::<u64>()) {
        let (m, d, dtype) = (c.ids.len(), c.hidden, c.options.dtype);
        let spec = EmbeddingSpec::new(c.vocabulary, d, c.options);
        let (node, ranks) = &group(c.world, &spec.operations(), seed);
        let mut rng = Rng(c.data_seed ^ 1);
        let (table, dy) = (draw(&mut rng, dtype, c.vocabulary * d), draw(&mut rng, dtype, m * d));
        let rows = |r: usize| if c.options.sequence_parallel { chunk(m, c.world, r) } else { 0..m };
        let slab = |rank: &Rank, rows: std::ops::Range<usize>, values: Option<&[f64]>| {
            let values = values.map(|values| Data::part(values, d, rows.clone(), 0..d));
            Slab::new(rank, rows.len(), d, c.gap, dtype, values.as_deref()).unwrap()
        };
        let mut counter = Counter::new(ranks);
        let layers: Vec<_> = ranks.iter().map(|r| VocabParallelEmbedding::new(r, &spec).unwrap()).collect();
        let mut spaces: Vec<_> = layers.iter().map(|l| l.workspace().unwrap()).collect();
        let ids: Vec<Buffer> = ranks.iter().map(|r| upload(r, &c.ids)).collect();
        let mut ys = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let (part, mut y) = (slab(rank, spec.part(c.world, r), Some(&table)), slab(rank, rows(r), None));
            let pass = EmbeddingForward { ids: ids[r].ids(m).unwrap(), table: part.mat().unwrap(), y: y.mat_mut().unwrap() };
            layers[r].forward(pass, &mut spaces[r]).unwrap();
            ys.push(y);
        }
        if c.gap == 0 || c.options.sequence_parallel {
            counter.check(ranks, &|r| layers[r].forward_sends(m));
        }
        ranks.iter().for_each(|r| r.synchronize().unwrap());
        counter = Counter::new(ranks);
        let want = right::embedding(&c.ids, &table, d);
        for (r, y) in ys.iter().enumerate() {
            let got = reference::decode(dtype, &y.read().unwrap());
            prop_assert_eq!(got, Data::part(&want, d, rows(r), 0..d), "rank {} of {:?}", r, c);
        }

        let mut gradients = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let (dy, mut dtable) = (slab(rank, rows(r), Some(&dy)), slab(rank, spec.part(c.world, r), None));
            let (dy, dtable_mat) = (dy.mat().unwrap(), dtable.mat_mut().unwrap());
            let pass = EmbeddingBackward { ids: ids[r].ids(m).unwrap(), dy, dtable: dtable_mat, accumulate: false };
            layers[r].backward(pass, &mut spaces[r]).unwrap();
            gradients.push(dtable);
        }
        counter.check(ranks, &|r| layers[r].backward_sends(m));
        check_traffic(node, ranks);
        let mut sums = vec![0f32; c.vocabulary * d];
        for (id, dy) in c.ids.iter().zip(dy.chunks_exact(d)) {
            let row = &mut sums[*id as usize * d..][..d];
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += *dy as f32);
        }
        let want = round(dtype, &sums.into_iter().map(f64::from).collect::<Vec<_>>());
        for (r, dtable) in gradients.iter().enumerate() {
            let got = reference::decode(dtype, &dtable.read().unwrap());
            prop_assert_eq!(got, Data::part(&want, d, spec.part(c.world, r), 0..d), "rank {} of {:?}", r, c);
        }
    }

    /// The same loss on every rank, and each rank's columns of the gradient; three numbers a row travel.
    #[test]
    fn cross_entropy(c in words(), large in any::<bool>(), ignored in prop::option::of(-100i64..4), seed in any::<u64>()) {
        let (m, v, dtype) = (c.ids.len(), c.vocabulary, c.options.dtype);
        let spec = CrossEntropySpec::new(v, c.options).ignore_index(ignored);
        let (node, ranks) = &group(c.world, &spec.operations(c.world), seed);
        let mut rng = Rng(c.data_seed ^ 2);
        let scale = if large { 300.0 } else { 2.0 };
        let logits: Vec<f64> = draw(&mut rng, dtype, m * v).iter().map(|x| x * scale).collect();
        let (logits, dloss) = (round(dtype, &logits), draw(&mut rng, DType::F32, m));
        let part = |r: usize| spec.part(c.world, r);
        let slab = |rank: &Rank, cols, values: Option<&[f64]>, dtype| Slab::new(rank, m, cols, c.gap, dtype, values).unwrap();
        let mut counter = Counter::new(ranks);
        let layers: Vec<_> = ranks.iter().map(|r| VocabParallelCrossEntropy::new(r, &spec).unwrap()).collect();
        let mut saved: Vec<_> = layers.iter().map(|l| l.saved().unwrap()).collect();
        let ids: Vec<Buffer> = ranks.iter().map(|r| upload(r, &c.ids)).collect();
        let own: Vec<Slab> = (ranks.iter().enumerate())
            .map(|(r, rank)| slab(rank, part(r).len(), Some(&Data::part(&logits, v, 0..m, part(r))), dtype))
            .collect();
        let mut losses = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let mut loss = slab(rank, 1, None, DType::F32);
            let pass = CrossEntropyForward { logits: own[r].mat().unwrap(), targets: ids[r].ids(m).unwrap(), loss: loss.mat_mut().unwrap() };
            layers[r].forward(pass, &mut saved[r], &mut layers[r].workspace().unwrap()).unwrap();
            losses.push(loss);
        }
        counter.check(ranks, &|r| layers[r].forward_sends(m));
        for layer in &layers {
            assert_eq!(Sends::total(&layer.forward_sends(m)), Some(12 * (c.world as u64 - 1) * m as u64));
        }
        let want = right::cross_entropy(&logits, &c.ids, v, ignored).loss;
        let first = losses[0].read().unwrap();
        let got = reference::decode(DType::F32, &first);
        // Of f32: a logit may be as large as 4 * 300, and its distance to the log-sum-exp is rounded there.
        let largest = logits.iter().fold(1.0f64, |most, x| most.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            prop_assert!((got - want).abs() <= 2f64.powi(-20) * (largest + 5.0), "{} {} of {:?}", got, want, c);
        }
        for loss in &losses {
            prop_assert_eq!(&loss.read().unwrap(), &first);
        }

        let mut gradients = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let (dloss, mut dlogits) = (slab(rank, 1, Some(&dloss), DType::F32), slab(rank, part(r).len(), None, dtype));
            let pass = CrossEntropyBackward {
                logits: own[r].mat().unwrap(),
                targets: ids[r].ids(m).unwrap(),
                dloss: dloss.mat().unwrap(),
                dlogits: dlogits.mat_mut().unwrap(),
            };
            layers[r].backward(pass, &mut saved[r]).unwrap();
            gradients.push(dlogits);
        }
        counter.check(ranks, &|r| layers[r].backward_sends(m));
        check_traffic(node, ranks);
        let want = right::cross_entropy_backward(&logits, &c.ids, v, ignored, &dloss);
        for (r, dlogits) in gradients.iter().enumerate() {
            let got = reference::decode(dtype, &dlogits.read().unwrap());
            let want = Data::part(&want, v, 0..m, part(r));
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                let row = at / part(r).len();
                let u = dtype.unit_roundoff();
                let bound = 2.0 * u * want.abs() + 2f64.powi(-20) * (largest + 5.0) * dloss[row].abs() + 2f64.powi(-24);
                prop_assert!((got - want).abs() <= bound, "{} {} at {} of {:?}", got, want, at, c);
            }
        }
    }

    /// Whole rows or shards: the same rows; gradients of parameters summed over the shards.
    #[test]
    fn norms(
        world in 1usize..=8, m in 0usize..40, hidden in 1usize..70, dtype in prop::sample::select(DTYPES.to_vec()),
        sequence_parallel in any::<bool>(), layer_norm in any::<bool>(), gap in 0usize..3, data_seed in any::<u64>(), seed in any::<u64>(),
    ) {
        let options = Options::new(m + gap, dtype).sequence_parallel(sequence_parallel);
        let kind = if layer_norm { NormKind::Layer } else { NormKind::Rms };
        let spec = NormSpec::new(kind, hidden, options).eps(1e-3);
        let (node, ranks) = &group(world, &spec.operations(), seed);
        let mut rng = Rng(data_seed);
        let [x, dy] = [0; 2].map(|_| draw(&mut rng, dtype, m * hidden));
        let [gamma, beta] = [0; 2].map(|_| draw(&mut rng, dtype, hidden));
        let rows = |r: usize| if sequence_parallel { chunk(m, world, r) } else { 0..m };
        let slab = |rank: &Rank, rows: std::ops::Range<usize>, values: Option<&[f64]>| {
            let values = values.map(|values| Data::part(values, hidden, rows.clone(), 0..hidden));
            Slab::new(rank, rows.len(), hidden, gap, dtype, values.as_deref()).unwrap()
        };
        let mut counter = Counter::new(ranks);
        let layers: Vec<_> = ranks.iter().map(|r| ParallelNorm::new(r, &spec).unwrap()).collect();
        let mut results = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let (layer, mut saved) = (&layers[r], layers[r].saved().unwrap());
            let (x, dy) = (slab(rank, rows(r), Some(&x)), slab(rank, rows(r), Some(&dy)));
            let (gamma, beta) = (slab(rank, 0..1, Some(&gamma)), slab(rank, 0..1, Some(&beta)));
            let [mut y, mut dx] = [0; 2].map(|_| slab(rank, rows(r), None));
            let [mut dgamma, mut dbeta] = [0; 2].map(|_| slab(rank, 0..1, None));
            let parameters = NormParameters { gamma: gamma.mat().unwrap(), beta: layer_norm.then(|| beta.mat().unwrap()) };
            layer.forward(NormForward { m, x: x.mat().unwrap(), parameters, y: y.mat_mut().unwrap() }, &mut saved).unwrap();
            let pass = NormBackward {
                m,
                x: x.mat().unwrap(),
                parameters,
                dy: dy.mat().unwrap(),
                add: None,
                dx: Some(dx.mat_mut().unwrap()),
                gradients: NormGradients {
                    gamma: Some(dgamma.mat_mut().unwrap()),
                    beta: if layer_norm { Some(dbeta.mat_mut().unwrap()) } else { None },
                },
                accumulate: false,
            };
            layer.backward(pass, &mut saved).unwrap();
            results.push([y, dx, dgamma, dbeta]);
        }
        counter.check(ranks, &|_| Vec::new());
        for (r, [_, _, dgamma, dbeta]) in results.iter_mut().enumerate() {
            let gradients = NormGradients {
                gamma: Some(dgamma.mat_mut().unwrap()),
                beta: if layer_norm { Some(dbeta.mat_mut().unwrap()) } else { None },
            };
            layers[r].finish_gradients(gradients, &mut layers[r].workspace().unwrap()).unwrap();
        }
        counter.check(ranks, &|r| layers[r].finish_sends());
        check_traffic(node, ranks);
        let eps = f64::from(spec.eps);
        let y = right::norm(&x, &gamma, layer_norm.then_some(&beta), eps, layer_norm);
        let right::NormGradients { dx, dgamma, dbeta } = right::norm_backward(&x, &gamma, eps, layer_norm, &dy);
        let steepest = x.chunks(hidden).map(|row| right::norm_stats(row, eps, layer_norm).1).fold(1.0, f64::max);
        // Rounded once for each shard and once for their sum; what f32 loses on the way is in the last term.
        let u = dtype.unit_roundoff();
        for (r, got) in results.iter().enumerate() {
            let names = [("y", &y, rows(r)), ("dx", &dx, rows(r)), ("dgamma", &dgamma, 0..1), ("dbeta", &dbeta, 0..1)];
            for ((name, want, rows), got) in names.into_iter().zip(got).take(if layer_norm { 4 } else { 3 }) {
                let largest = want.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                let scale = if name.len() > 2 { 4.0 * (1.0 + m as f64) } else { 4.0 * steepest };
                let bound = (2.0 + world as f64) * u * largest.max(if name.len() > 2 { scale } else { 0.0 }) + 2f64.powi(-17) * (largest + scale);
                let want = Data::part(want, hidden, rows, 0..hidden);
                let got = reference::decode(dtype, &got.read().unwrap());
                for (got, want) in got.iter().zip(&want) {
                    prop_assert!((got - want).abs() <= bound, "{} of rank {}: {} {}, bound {}", name, r, got, want, bound);
                }
            }
        }
        for name in [2, 3].into_iter().take(if layer_norm { 2 } else { 1 }) {
            let all: Vec<Vec<u8>> = results.iter().map(|got| got[name].read().unwrap()).collect();
            prop_assert!(all.windows(2).all(|two| two[0] == two[1]), "ranks differ");
        }
    }
}

/// An id that no rank holds gives zeros, and is heard of with its place; then all is well again.
#[test]
fn ids_outside() {
    for sequence_parallel in [false, true] {
        let options = Options::new(5, DType::F32).sequence_parallel(sequence_parallel);
        let spec = EmbeddingSpec::new(7, 3, options);
        let loss_spec = CrossEntropySpec::new(7, options);
        let operations = [spec.operations(), loss_spec.operations(3)].concat();
        let (_, ranks) = group(3, &operations, 1);
        let mut embeddings: Vec<_> = ranks
            .iter()
            .map(|r| VocabParallelEmbedding::new(r, &spec).unwrap())
            .collect();
        let mut losses: Vec<_> = ranks
            .iter()
            .map(|r| VocabParallelCrossEntropy::new(r, &loss_spec).unwrap())
            .collect();
        for (ids, bad) in [([0, 6, 7, -1, 3], true), ([0, 6, 5, 1, 3], false)] {
            let mut outputs = Vec::new();
            for (r, rank) in ranks.iter().enumerate() {
                let table = Slab::new(rank, spec.part(3, r).len(), 3, 0, DType::F32, Some(&[1.0; 9])).unwrap();
                let rows = if sequence_parallel { chunk(5, 3, r) } else { 0..5 };
                let mut y = Slab::new(rank, rows.len(), 3, 0, DType::F32, None).unwrap();
                let buffer = upload(rank, &ids);
                let pass = EmbeddingForward {
                    ids: buffer.ids(5).unwrap(),
                    table: table.mat().unwrap(),
                    y: y.mat_mut().unwrap(),
                };
                embeddings[r]
                    .forward(pass, &mut embeddings[r].workspace().unwrap())
                    .unwrap();
                let logits = Slab::new(rank, 5, spec.part(3, r).len(), 0, DType::F32, Some(&[1.0; 15])).unwrap();
                let mut loss = Slab::new(rank, 5, 1, 0, DType::F32, None).unwrap();
                let pass = CrossEntropyForward {
                    logits: logits.mat().unwrap(),
                    targets: buffer.ids(5).unwrap(),
                    loss: loss.mat_mut().unwrap(),
                };
                losses[r].infer(pass, &mut losses[r].workspace().unwrap()).unwrap();
                outputs.push((rows, y, loss));
            }
            for (r, (rows, y, loss)) in outputs.iter().enumerate() {
                let found = [embeddings[r].check_ids(), losses[r].check_targets()]
                    .map(|check| check.map_err(|e| e.to_string()));
                let expected = match bad {
                    true => [
                        Err("ids[2] is 7: expected an id within the vocabulary, 0..7".to_string()),
                        Err("targets[2] is 7: expected within the vocabulary, 0..7, or -100".to_string()),
                    ],
                    false => [Ok(()), Ok(())],
                };
                assert_eq!(found, expected, "rank {r}");
                let y = reference::decode(DType::F32, &y.read().unwrap());
                let want: Vec<f64> = rows
                    .clone()
                    .flat_map(|i| [if (0..7).contains(&ids[i]) { 1.0 } else { 0.0 }; 3])
                    .collect();
                assert_eq!(y, want);
                let loss = reference::decode(DType::F32, &loss.read().unwrap());
                assert!(
                    loss.iter()
                        .zip(ids)
                        .all(|(loss, id)| loss.is_nan() != (0..7).contains(&id)),
                    "{loss:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_refused() {
    let ranks = node(4, 0)
        .group(4, &GroupConfig::default().heap_bytes(4 << 20))
        .unwrap();
    let rank = &ranks[2];
    let options = Options::new(8, DType::F32);
    let text = |error: tileweave::Error| error.to_string();
    let few = "vocabulary is 3: expected at least the 4 ranks";
    assert_eq!(
        text(VocabParallelEmbedding::new(rank, &EmbeddingSpec::new(3, 8, options)).unwrap_err()),
        few
    );
    assert_eq!(
        text(VocabParallelCrossEntropy::new(rank, &CrossEntropySpec::new(3, options)).unwrap_err()),
        few
    );
    let spec = NormSpec::new(NormKind::Rms, 8, options);
    assert_eq!(
        text(ParallelNorm::new(rank, &spec.bias(true)).unwrap_err()),
        "bias is true: expected false: an RMSNorm has no beta"
    );
    let wrong = ParallelNorm::new(rank, &spec.eps(-1.0)).unwrap_err();
    assert_eq!(text(wrong), "eps is -1: expected a finite number, at least 0");
    let inference = ParallelNorm::new(rank, &NormSpec::new(NormKind::Rms, 8, options.training(false))).unwrap();
    let wrong = "the backward pass is of a layer for inference: expected a layer made with training(true)";
    assert_eq!(text(inference.saved().unwrap_err()), wrong);
    // Some ranks have none of a small vocabulary, and that is fine.
    let spec = EmbeddingSpec::new(5, 8, options);
    assert_eq!((0..4).map(|r| spec.part(4, r).len()).collect::<Vec<_>>(), [2, 2, 1, 0]);
    assert_eq!(
        VocabParallelEmbedding::new(rank, &spec).unwrap().forward_sends(8)[0].op,
        Op::AllReduce
    );
}
