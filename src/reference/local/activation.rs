//! GELU (Hendrycks and Gimpel, 2016), exactly, and SwiGLU (Shazeer, 2020), whose gate and up are neighbours.

use std::f64::consts::PI;

/// The density of the standard normal distribution.
fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// The standard normal distribution: how likely a value up to x is. Right to some 1e-14 of itself, in the left tail too.
///
/// About 0 by `1/2 + density(x) (x + x^3 / 3 + x^5 / (3 5) + ..)`, beyond by the continued fraction `density(x) / (x + 1 / (x + 2 / (x +
/// ..)))` (Abramowitz and Stegun, 26.2.11 and 26.2.14).
pub fn normal_distribution(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.8 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        return 0.5 + density(x) * sum;
    }
    if x.is_nan() {
        return x;
    }
    let fraction = (1..=200).rev().fold(a, |below, n| a + f64::from(n) / below);
    let tail = if a.is_finite() { density(a) / fraction } else { 0.0 };
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `x Phi(x)`.
pub fn gelu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x * normal_distribution(*x)).collect()
}

/// `dy (Phi(x) + x density(x))`.
pub fn gelu_backward(x: &[f64], dy: &[f64]) -> Vec<f64> {
    let slope = |x: f64| normal_distribution(x) + x * density(x);
    x.iter().zip(dy).map(|(x, dy)| dy * slope(*x)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x / (1 + exp(-x))`.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `silu(gate) up`: half as many columns as x, whose columns 2j and 2j + 1 are gate and up.
pub fn swiglu(x: &[f64]) -> Vec<f64> {
    x.as_chunks().0.iter().map(|[gate, up]| silu(*gate) * up).collect()
}

/// The gradient of x: `dy up silu'(gate)` and `dy silu(gate)` by turns.
pub fn swiglu_backward(x: &[f64], dy: &[f64]) -> Vec<f64> {
    let slope = |x: f64| sigmoid(x) * (1.0 + x * sigmoid(-x));
    let pair = |([gate, up], dy): (&[f64; 2], &f64)| [dy * up * slope(*gate), dy * silu(*gate)];
    x.as_chunks().0.iter().zip(dy).flat_map(pair).collect()
}
