//! Every backward pass against finite differences of its forward pass, and what the experiment allows.

use super::*;

fn drawn(rows: usize, cols: usize, seed: u64) -> Matrix {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let values = (0..rows * cols).map(|_| 2.0 * (next() + next() + next()));
    Matrix::new(rows, cols, values.collect())
}

/// Names, rows and columns.
type Shapes = Vec<(&'static str, usize, usize)>;

/// Every kind, with tensors of these shapes beside `x` `[6, 4]`.
fn cases() -> Vec<(Kind, Shapes)> {
    let heads = Heads {
        heads: 4,
        kv_heads: 2,
        seq: Some(3),
    };
    let attention = vec![
        ("q_proj.weight", 8, 4),
        ("k_proj.weight", 4, 4),
        ("v_proj.weight", 4, 4),
        ("o_proj.weight", 4, 8),
    ];
    let biases = [
        ("q_proj.bias", 1, 8),
        ("k_proj.bias", 1, 4),
        ("v_proj.bias", 1, 4),
        ("o_proj.bias", 1, 4),
    ];
    let two = vec![
        ("fc1.weight", 5, 4),
        ("fc1.bias", 1, 5),
        ("fc2.weight", 4, 5),
        ("fc2.bias", 1, 4),
    ];
    let three = vec![
        ("gate_proj.weight", 5, 4),
        ("up_proj.weight", 5, 4),
        ("down_proj.weight", 4, 5),
    ];
    let norms = [
        ("input_layernorm.weight", 1, 4),
        ("post_attention_layernorm.weight", 1, 4),
    ];
    let betas = [("input_layernorm.bias", 1, 4), ("post_attention_layernorm.bias", 1, 4)];
    let transformer = Kind::Transformer { heads, eps: 1e-2 };
    vec![
        (Kind::Column, vec![("weight", 5, 4), ("bias", 1, 5)]),
        (Kind::Row, vec![("weight", 5, 4), ("bias", 1, 5)]),
        (Kind::Mlp(Between::Nothing), two.clone()),
        (Kind::Mlp(Between::Gelu), two.clone()),
        (Kind::Mlp(Between::SwiGlu), three.clone()),
        (Kind::Attention(heads), attention.clone()),
        (Kind::Attention(heads), [&attention[..], &biases].concat()),
        (transformer, [&attention[..], &three, &norms].concat()),
        (transformer, [&attention[..], &biases, &two, &norms, &betas].concat()),
        (
            Kind::Norm {
                centred: false,
                eps: 1e-2,
            },
            vec![("weight", 1, 4)],
        ),
        (
            Kind::Norm {
                centred: true,
                eps: 1e-2,
            },
            vec![("weight", 1, 4), ("bias", 1, 4)],
        ),
        (Kind::Embedding, vec![("weight", 5, 4)]),
        (Kind::Loss { ignore: Some(-1) }, vec![("weight", 5, 4)]),
    ]
}

fn given(kind: &Kind, shapes: &[(&str, usize, usize)]) -> Given {
    let mut given = Given {
        ids: vec![4, 0, 4, -1, 2, 3],
        ..Given::default()
    };
    if *kind != Kind::Embedding {
        given.insert("x", drawn(6, 4, 1));
    }
    for (i, (name, rows, cols)) in shapes.iter().enumerate() {
        given.insert(name, drawn(*rows, *cols, 2 + i as u64));
    }
    let y = &passes(kind, &given, &Rounding::Exact)["y"];
    given.insert("dy", drawn(y.rows, y.cols, 99));
    given
}

#[test]
fn gradients_are_slopes() {
    for (kind, shapes) in cases() {
        let given = given(&kind, &shapes);
        let results = passes(&kind, &given, &Rounding::Exact);
        let objective = |given: &Given| -> f64 {
            let y = &passes(&kind, given, &Rounding::Exact)["y"];
            y.values.iter().zip(&given.of("dy").values).map(|(y, dy)| y * dy).sum()
        };
        let wanted = given.tensors.keys().filter(|name| *name != "dy").count();
        assert_eq!(results.len(), wanted + 1, "{kind:?}: {:?}", results.keys());
        for (name, gradient) in results.iter().filter(|(name, _)| *name != "y") {
            let of = &name[1..];
            for (i, gradient) in gradient.values.iter().enumerate() {
                let moved = |by: f64| {
                    let mut matrix = given.of(of).clone();
                    matrix.values[i] += by;
                    let mut moved = given.clone();
                    moved.insert(of, matrix);
                    objective(&moved)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let close = (slope - gradient).abs() < 1e-6 * (1.0 + slope.abs());
                assert!(close, "{kind:?} {name} {i}: {gradient}, but {slope}");
            }
        }
    }
}

/// Other ranks have other partials, and so other roundings: what two round is within the bound of four, and not exact.
#[test]
fn what_ranks_round_is_within_the_bound() {
    for (kind, shapes) in cases() {
        for (dtype, sequence_parallel) in [(DType::Bf16, false), (DType::F16, true), (DType::F32, true)] {
            let mut given = given(&kind, &shapes);
            // As a layer is given them.
            let round = |matrix: &mut Matrix| {
                let bytes = super::super::encode(dtype, &matrix.values);
                matrix.values = super::super::decode(dtype, &bytes);
            };
            given.tensors.values_mut().for_each(round);
            let setting = |world| Setting {
                dtype,
                wire: Wire::Output,
                world,
                sequence_parallel,
            };
            let expected = expect(&kind, &given, &setting(4));
            let results = passes(&kind, &given, &Rounding::Stored(setting(2), 9));
            for (name, result) in &results {
                let wanted = &expected[name];
                let compared = wanted.compare(0..result.rows, 0..result.cols, &result.values);
                assert_eq!(compared.wrong, None, "{kind:?} {dtype} {name}");
            }
            let exact = |name: &str| expected[name].value == results[name].values;
            assert!(
                kind == Kind::Embedding || !exact("y") || !exact("dweight"),
                "{kind:?} {dtype}"
            );
        }
    }
}

#[test]
fn what_leaves_the_types_range_is_free() {
    let mut given = Given::default();
    for (name, rows, cols, value) in [
        ("x", 1, 1, 256.0),
        ("fc1.weight", 1, 1, 256.0),
        ("fc2.weight", 1, 1, 0.0625),
    ] {
        given.insert(name, Matrix::new(rows, cols, vec![value]));
    }
    let setting = |dtype| Setting {
        dtype,
        wire: Wire::Output,
        world: 2,
        sequence_parallel: false,
    };
    let bound = |dtype| expect(&Kind::Mlp(Between::Nothing), &given, &setting(dtype))["y"].bound[0];
    // 65536 is an infinity in f16 alone.
    assert!(bound(DType::F16).is_infinite() && bound(DType::Bf16) < 256.0);
}

/// A sequence of one row: attention gives v, so that nothing depends on q and k, and sums in f32 leave something all the same.
#[test]
fn what_cancels_is_not_exact() {
    let heads = Heads {
        heads: 4,
        kv_heads: 2,
        seq: Some(1),
    };
    let kind = Kind::Attention(heads);
    let (_, shapes) = cases()
        .into_iter()
        .find(|(kind, _)| matches!(kind, Kind::Attention(_)))
        .expect("there");
    let given = given(&kind, &shapes);
    let setting = Setting {
        dtype: DType::F32,
        wire: Wire::Output,
        world: 2,
        sequence_parallel: false,
    };
    let expected = expect(&kind, &given, &setting);
    for name in ["dq_proj.weight", "dk_proj.weight"] {
        let right = &expected[name];
        assert!(
            right.scale() < 1e-12 && (1e-7..2e-4).contains(&right.largest_bound()),
            "{name}: {}",
            right.largest_bound()
        );
    }
    assert!(expected["dv_proj.weight"].scale() > 0.1);
}
