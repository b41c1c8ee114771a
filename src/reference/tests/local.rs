//! The references of a rank's own work: finite differences confirm the gradients, known values the functions.

use crate::reference::local::*;

/// Of splitmix64's numbers, between -1 and 1.
fn draw(seed: u64, n: usize) -> Vec<f64> {
    let number = |i: u64| {
        let z = (seed.wrapping_mul(1 << 32) + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2f64.powi(63) - 1.0
    };
    (1..=n as u64).map(number).collect()
}

/// `gradient` of L = sum of y dy with respect to x, against central differences.
#[track_caller]
fn differs(x: &[f64], dy: &[f64], gradient: &[f64], y: impl Fn(&[f64]) -> Vec<f64>) {
    let loss = |x: &[f64]| y(x).iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>();
    assert_eq!(x.len(), gradient.len());
    for (i, gradient) in gradient.iter().enumerate() {
        // The error of the difference is of the order of step^2, and of 1e-16 / step.
        let step = 1e-5;
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[i] += by;
            loss(&x)
        };
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        assert!(
            (difference - gradient).abs() < 1e-8 * (1.0 + gradient.abs()),
            "{i}: {difference}, not {gradient}"
        );
    }
}

#[test]
fn norms() {
    let (m, d) = (3, 7);
    let (x, gamma, beta, dy) = (draw(1, m * d), draw(2, d), draw(3, d), draw(4, m * d));
    for centred in [false, true] {
        let beta = centred.then_some(beta.as_slice());
        let gradients = norm_backward(&x, &gamma, 1e-3, centred, &dy);
        differs(&x, &dy, &gradients.dx, |x| norm(x, &gamma, beta, 1e-3, centred));
        differs(&gamma, &dy, &gradients.dgamma, |gamma| {
            norm(&x, gamma, beta, 1e-3, centred)
        });
        if let Some(beta) = beta {
            differs(beta, &dy, &gradients.dbeta, |beta| {
                norm(&x, &gamma, Some(beta), 1e-3, centred)
            });
        }
    }
}

#[test]
fn activations() {
    let x: Vec<f64> = draw(5, 60).iter().map(|x| 5.0 * x).collect();
    let dy = draw(6, 60);
    differs(&x, &dy, &gelu_backward(&x, &dy), gelu);
    differs(&x, &dy, &swiglu_backward(&x, &dy[..30]), swiglu);
}

#[test]
fn attentions() {
    for (heads, kv_heads, head_size, seq, batch) in [(1, 1, 3, 4, 1), (4, 2, 2, 3, 2), (3, 1, 2, 5, 1)] {
        let h = Heads {
            heads,
            kv_heads,
            head_size,
            seq,
            scale: 0.7,
        };
        let rows = seq * batch;
        let (q, dy) = (draw(7, rows * heads * head_size), draw(8, rows * heads * head_size));
        let (k, v) = (
            draw(9, rows * kv_heads * head_size),
            draw(10, rows * kv_heads * head_size),
        );
        let gradients = attention_backward(&h, &q, &k, &v, &dy);
        differs(&q, &dy, &gradients.dq, |q| attention(&h, q, &k, &v).0);
        differs(&k, &dy, &gradients.dk, |k| attention(&h, &q, k, &v).0);
        differs(&v, &dy, &gradients.dv, |v| attention(&h, &q, &k, v).0);
        // The first row of a sequence sees itself alone.
        let (o, lse) = attention(&h, &q, &k, &v);
        assert_eq!(o[..head_size], v[..head_size]);
        let score: f64 = (0..head_size).map(|c| q[c] * k[c]).sum();
        assert!((lse[0] - 0.7 * score).abs() < 1e-15);
    }
}

#[test]
fn vocabularies() {
    let (m, v, d) = (5, 6, 3);
    let targets = [0, 5, 3, -100, 2];
    let (x, dloss) = (draw(11, m * v), draw(12, m));
    let gradient = cross_entropy_backward(&x, &targets, v, Some(-100), &dloss);
    differs(&x, &dloss, &gradient, |x| {
        cross_entropy(x, &targets, v, Some(-100)).loss
    });
    assert!(
        cross_entropy(&x, &[0, 6, 0, -1, 0], v, None)
            .loss
            .iter()
            .map(|l| l.is_nan())
            .eq([false, true, false, true, false])
    );
    let (table, dy) = (draw(13, v * d), draw(14, m * d));
    let ids = [2, 2, 9, 0, -1];
    differs(&table, &dy, &embedding_backward(&ids, &dy, v, d), |table| {
        embedding(&ids, table, d)
    });
}

/// To 16 digits, by another's arithmetic (mpmath).
#[test]
fn the_normal_distribution() {
    for (x, value) in [
        (0.0, 0.5),
        (1.0, 0.841_344_746_068_542_9),
        (-1.0, 0.158_655_253_931_457_05),
        (2.8, 0.997_444_869_669_572),
        (-2.8, 0.002_555_130_330_427_932_7),
        (-2.9, 0.001_865_813_300_384_038),
        (-10.0, 7.619_853_024_160_526e-24),
        (-30.0, 4.906_713_927_148_187e-198),
        (40.0, 1.0),
        (f64::NEG_INFINITY, 0.0),
        (f64::INFINITY, 1.0),
    ] {
        let got = normal_distribution(x);
        assert!((got - value).abs() <= 1e-13 * value, "{x}: {got:e}, not {value:e}");
    }
    assert!(normal_distribution(f64::NAN).is_nan());
}
