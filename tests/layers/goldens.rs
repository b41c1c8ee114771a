//! Layers against what PyTorch's DTensor computed: `tests/layers/goldens`, written by `tools/goldens/make.py`, which tells what they hold.
//!
//! PyTorch rounds where it likes, and so do layers, each within a bound B of the f64 layer (`reference::layer`, `docs/numerics.md`). So
//! PyTorch's numbers have to be within B of f64, and ours within B of f64 and within 2 B of PyTorch's, whatever number of ranks either used.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};
use tileweave::layer::*;
use tileweave::local::{Activation, NormKind};
use tileweave::reference::layer::{Between, Given, Heads, Kind, Matrix, Setting, expect};
use tileweave::{DType, Wire, reference};

use super::block::{Block, Case, OnRank, Tensors, Whole};
use super::small;

/// Of the norms.
const EPS: f32 = 1e-5;

struct Golden {
    given: Tensors,
    ids: Vec<i64>,
    /// By the number of PyTorch's processes.
    theirs: BTreeMap<usize, Tensors>,
}

impl Golden {
    fn read(name: &str, dtype: DType) -> Golden {
        let path = format!(
            "{}/tests/layers/goldens/{name}.{dtype}.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut golden = Golden {
            given: Tensors::new(),
            ids: Vec::new(),
            theirs: BTreeMap::new(),
        };
        for (full, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let of = full.strip_prefix('p').and_then(|rest| rest.split_once('.'));
            let of = of.and_then(|(world, rest)| Some((world.parse::<usize>().ok()?, rest)));
            let (d, bare) = match of {
                Some((_, rest)) => rest.strip_prefix('d').map_or(("", rest), |bare| ("d", bare)),
                None => ("", full),
            };
            // Modules within modules: names are those of the innermost.
            let modules = ["self_attn.", "mlp.", "norm.", "embedding.", "lm_head."];
            let bare = modules
                .iter()
                .find_map(|module| bare.strip_prefix(module))
                .unwrap_or(bare);
            let is = match view.dtype() {
                Dtype::I64 => {
                    let ids = view.data().as_chunks().0.iter();
                    golden.ids = ids.map(|raw| i64::from_le_bytes(*raw)).collect();
                    continue;
                }
                Dtype::F32 => DType::F32,
                _ => DType::Bf16,
            };
            let (rows, cols) = match (view.shape(), bare) {
                // Of every token one.
                ([rows], "y" | "dy") => (*rows, 1),
                ([cols], _) => (1, *cols),
                (shape, _) => (shape[0], shape[1]),
            };
            let values = reference::decode(is, view.data());
            let to = match of {
                Some((world, _)) => golden.theirs.entry(world).or_default(),
                None => &mut golden.given,
            };
            to.insert(format!("{d}{bare}"), Whole { rows, cols, values });
        }
        assert!(!golden.theirs.is_empty(), "{path}");
        golden
    }

    fn of_reference(&self) -> Given {
        let mut given = Given::of_ids(self.ids.clone());
        for (name, whole) in &self.given {
            given.insert(name, Matrix::new(whole.rows, whole.cols, whole.values.clone()));
        }
        given
    }
}

/// Runs a layer on `worlds` ranks, with and without sequence parallelism, in both types.
fn compare(name: &str, kind: Kind, worlds: &[usize], run: impl Fn(&Golden, usize, Options) -> Tensors) {
    for dtype in [DType::F32, DType::Bf16] {
        let golden = Golden::read(name, dtype);
        let given = golden.of_reference();
        let expected = |world, sequence_parallel| {
            let wire = Wire::Output;
            expect(
                &kind,
                &given,
                &Setting {
                    dtype,
                    wire,
                    world,
                    sequence_parallel,
                },
            )
        };
        for (world, theirs) in &golden.theirs {
            let expected = expected(*world, *world == 4);
            assert!(theirs.keys().eq(expected.keys()), "{name}: {:?}", theirs.keys());
            for (tensor, theirs) in theirs {
                let wrong = expected[tensor]
                    .compare(0..theirs.rows, 0..theirs.cols, &theirs.values)
                    .wrong;
                assert_eq!(wrong, None, "PyTorch's {tensor} of {name} in {dtype} on {world}");
            }
        }
        let m = golden.given.get("dy").unwrap().rows;
        for world in worlds {
            for sequence_parallel in [false, true] {
                let options = Options::new(m, dtype).sequence_parallel(sequence_parallel);
                let ours = run(&golden, *world, options);
                let what = format!("of {name} in {dtype} on {world}, sequence parallel {sequence_parallel}");
                let expected = expected(*world, sequence_parallel);
                assert!(ours.keys().eq(expected.keys()), "{what}: {:?}", ours.keys());
                for (tensor, ours) in &ours {
                    let right = &expected[tensor];
                    let wrong = right.compare(0..ours.rows, 0..ours.cols, &ours.values).wrong;
                    assert_eq!(wrong, None, "{tensor} {what}");
                    for (their_world, theirs) in &golden.theirs {
                        let theirs = &theirs[tensor];
                        assert_eq!((ours.rows, ours.cols), (theirs.rows, theirs.cols), "{tensor} {what}");
                        let both = ours.values.iter().zip(&theirs.values).zip(&right.bound);
                        for (at, ((ours, theirs), bound)) in both.enumerate() {
                            let near = (ours - theirs).abs() <= 2.0 * bound;
                            assert!(
                                near,
                                "{tensor}[{at}] {what}: {ours}, PyTorch on {their_world}: {theirs}, bound {bound}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A block on a group of its own, both passes, and what follows a step.
fn block(golden: &Golden, world: usize, of: impl Fn(Options) -> Block, options: Options) -> Tensors {
    let case = Case {
        block: of(options),
        world,
        m: options.max_m,
        seq: options.max_m,
        gap: 0,
        data_seed: 0,
    };
    let group = case.group(world as u64, 0);
    let mut ranks: Vec<OnRank> = group
        .ranks
        .iter()
        .map(|r| case.load(r, &golden.given).unwrap())
        .collect();
    case.on_all(&group, &mut ranks, OnRank::forward_sends, |l| case.forward(l, case.m));
    case.on_all(&group, &mut ranks, OnRank::backward_sends, |l| {
        case.backward(l, case.m, false)
    });
    case.on_all(&group, &mut ranks, OnRank::finish_sends, |l| case.finish(l));
    case.results(&ranks, true)
}

fn cols(golden: &Golden, name: &str) -> usize {
    golden.given[name].cols
}

#[test]
fn a_pair_of_linear_layers() {
    let kind = Kind::Mlp(Between::Nothing);
    compare("linear_pair", kind, &[2, 4, 5], |golden, world, options| {
        small::pair(&golden.given, world, options)
    });
}

#[test]
fn mlps() {
    for (name, between, activation) in [
        ("mlp_gelu", Between::Gelu, Activation::Gelu),
        ("mlp_swiglu", Between::SwiGlu, Activation::SwiGlu),
    ] {
        compare(name, Kind::Mlp(between), &[2, 3, 4], |golden, world, options| {
            let second = if between == Between::Gelu {
                "fc2.weight"
            } else {
                "down_proj.weight"
            };
            let (hidden, intermediate) = (cols(golden, "x"), cols(golden, second));
            let of = |options| Block::Mlp(MlpSpec::new(hidden, intermediate, activation, options));
            block(golden, world, of, options)
        });
    }
}

/// Query heads, KV heads.
fn heads(heads: usize, kv_heads: usize) -> Heads {
    Heads {
        heads,
        kv_heads,
        seq: None,
    }
}

/// Also on more ranks than there are KV heads, and on three.
#[test]
fn attention() {
    for (name, of, worlds) in [
        ("attention", heads(8, 4), [2, 4, 8]),
        ("attention_odd", heads(6, 3), [1, 3, 6]),
    ] {
        compare(name, Kind::Attention(of), &worlds, |golden, world, options| {
            let size = golden.given["q_proj.weight"].rows / of.heads;
            let spec = |options| AttentionSpec::new(cols(golden, "x"), of.heads, of.kv_heads, options).head_size(size);
            block(golden, world, |options| Block::Attention(spec(options)), options)
        });
    }
}

#[test]
fn a_transformer_layer() {
    let (of, eps) = (heads(8, 4), f64::from(EPS));
    compare(
        "transformer",
        Kind::Transformer { heads: of, eps },
        &[1, 2, 4, 8],
        |golden, world, options| {
            let (hidden, intermediate) = (cols(golden, "x"), cols(golden, "down_proj.weight"));
            let size = golden.given["q_proj.weight"].rows / of.heads;
            let spec = |options| TransformerSpec::new(hidden, of.heads, of.kv_heads, intermediate, options);
            block(
                golden,
                world,
                |options| Block::Transformer(spec(options).head_size(size).eps(EPS)),
                options,
            )
        },
    );
}

#[test]
fn norms() {
    for (name, centred, kind) in [
        ("rms_norm", false, NormKind::Rms),
        ("layer_norm", true, NormKind::Layer),
    ] {
        let eps = f64::from(EPS);
        compare(
            name,
            Kind::Norm { centred, eps },
            &[2, 4, 5],
            |golden, world, options| {
                let spec = NormSpec::new(kind, cols(golden, "x"), options).eps(EPS);
                small::norm(&golden.given, world, &spec)
            },
        );
    }
}

#[test]
fn an_embedding() {
    compare("embedding", Kind::Embedding, &[2, 3, 4], |golden, world, options| {
        let table = &golden.given["weight"];
        let spec = EmbeddingSpec::new(table.rows, table.cols, options);
        small::embedding(&golden.given, &golden.ids, world, &spec)
    });
}

#[test]
fn a_loss_over_split_logits() {
    let ignore = Some(-100);
    compare(
        "cross_entropy",
        Kind::Loss { ignore },
        &[2, 3, 4],
        |golden, world, options| {
            let spec = CrossEntropySpec::new(golden.given["weight"].rows, options).ignore_index(ignore);
            small::loss(&golden.given, &golden.ids, world, &spec)
        },
    );
}
