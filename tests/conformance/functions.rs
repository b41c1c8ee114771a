//! `csrc/tile/functions.h`, twice: the same arithmetic here, which every machine must match bit for bit, and that arithmetic
//! against f64, within the errors that the header states.

use tileweave::reference::local::normal_distribution;

use crate::common::{Rng, deep};
use crate::expected::{SPECIAL, canonical};
use crate::run::{Case, Setup};

// Coefficients, as bits.
const EXP: [u32; 5] = [0x3eff_fffe, 0x3e2a_aa49, 0x3d2a_ac79, 0x3c09_1d10, 0x3ab5_11f4];
const LOG: [u32; 9] = [
    0x3eaa_aaa4,
    0xbe80_0003,
    0x3e4c_d25b,
    0xbe2a_ae27,
    0x3e11_9bb4,
    0xbdfe_1104,
    0x3df3_7835,
    0xbdef_1e0a,
    0x3d8a_2bd3,
];
const NORMAL: [u32; 11] = [
    0x3f3a_a53b,
    0xbf02_6395,
    0x3e6b_89c3,
    0xbd41_9685,
    0xbc2b_6afe,
    0x3be4_5ebf,
    0x3a86_520c,
    0xba87_55c4,
    0xb980_526a,
    0x3909_a13d,
    0x3864_66c4,
];
const LOG2_E: u32 = 0x3fb8_aa3b;
const DENSITY_0: u32 = 0x3ecc_422a;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

fn polynomial(x: f32, c: &[u32]) -> f32 {
    let mut from_last = c.iter().rev().map(|bits| f32::from_bits(*bits));
    let last = from_last.next().unwrap_or(0.0);
    from_last.fold(last, |y, c| y.mul_add(x, c))
}

fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n.wrapping_add(127)) as u32) << 23)
}

fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let magic = 12582912.0;
    let c = x.clamp(-104.0, 89.0);
    let shifted = c.mul_add(f32::from_bits(LOG2_E), magic);
    let (k, n) = (shifted - magic, shifted.to_bits().wrapping_sub(0x4b40_0000) as i32);
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, c));
    let y = (r * r).mul_add(polynomial(r, &EXP), r) + 1.0;
    y * power_of_two(n >> 1) * power_of_two(n - (n >> 1))
}

fn log(x: f32) -> f32 {
    match x {
        _ if x.is_nan() || x < 0.0 => return f32::NAN,
        0.0 => return f32::NEG_INFINITY,
        f32::INFINITY => return x,
        _ => {}
    }
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = if subnormal { x * 8388608.0 } else { x }.to_bits();
    let n = bits.wrapping_sub(0x3f35_04f3) as i32 >> 23;
    let f = f32::from_bits(bits.wrapping_sub((n as u32) << 23)) - 1.0;
    let k = (n - if subnormal { 23 } else { 0 }) as f32;
    let square = f * f;
    let part = square * f * polynomial(f, &LOG);
    let rest = (-0.5f32).mul_add(square, k.mul_add(LN2_LOW, part));
    k.mul_add(LN2_HIGH, f + rest)
}

fn gauss(x: f32) -> f32 {
    let square = x * x;
    let (lost, y) = (x.mul_add(x, -square), exp(-0.5 * square));
    if square < 256.0 { y.mul_add(-0.5 * lost, y) } else { y }
}

fn normal(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let a = x.abs().min(15.0);
    let by = 1.0 / (a + 3.0);
    let below = polynomial((a - 3.0) * by, &NORMAL) * by * gauss(x);
    if x < 0.0 { below } else { 1.0 - below }
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let part = if x < 0.0 { e } else { 1.0 };
    part / (1.0 + e)
}

fn silu(x: f32) -> f32 {
    let e = exp(-x.abs());
    let part = if x < 0.0 { x * e } else { x };
    part / (1.0 + e)
}

fn silu_slope(x: f32) -> f32 {
    let e = exp(-x.abs());
    let (s, rest) = if x < 0.0 {
        (e / (1.0 + e), 1.0 / (1.0 + e))
    } else {
        (1.0 / (1.0 + e), e / (1.0 + e))
    };
    s * x.mul_add(rest, 1.0)
}

/// In the order in which the case leaves them.
fn all(x: f32) -> [f32; 9] {
    let gelu_slope = (x * gauss(x)).mul_add(f32::from_bits(DENSITY_0), normal(x));
    [
        exp(x),
        log(x),
        gauss(x),
        normal(x),
        sigmoid(x),
        x * normal(x),
        gelu_slope,
        silu(x),
        silu_slope(x),
    ]
}

/// The case, of numbers where something happens, and of any.
pub fn compare(case: &Case) {
    let mut rng = Rng(17);
    let mut x: Vec<u32> = SPECIAL.to_vec();
    // About the ends of exp, of the normal distribution, and of a logarithm's steps.
    for end in [
        -104f32, -103.98, -88.73, -87.4, 88.72, 88.73, 89.0, -14.2, -13.1, -15.0, 15.0, 16.0, 1.0, 0.707, 1.414, -0.75,
        -1.278,
    ] {
        x.extend((0..64).map(|i| end.to_bits() + i - 32));
    }
    x.extend((0..2000).map(|_| rng.next() as u32));
    x.extend((0..6000).map(|_| ((rng.normal() * 12.0) as f32).to_bits()));
    let setup = Setup {
        grid: 3,
        x: &x,
        words: 9 * x.len(),
        prepare: &|params, _| params.m = x.len() as u32,
        ..Setup::default()
    };
    case.run_with(&setup, |out| {
        for (x, got) in x.iter().zip(out.chunks(9)) {
            let want = all(f32::from_bits(*x)).map(canonical);
            assert_eq!(got, want, "of {:e}", f32::from_bits(*x));
        }
    });
}

/// A unit in the last place of the f32 that is nearest.
fn unit(y: f64) -> f64 {
    let exponent = ((y as f32).to_bits() >> 23 & 0xff).max(1) as i32;
    2f64.powi(exponent - 150)
}

/// What csrc/tile/functions.h states, over every 4099th f32.
#[test]
fn errors_are_as_stated() {
    // Units of error, and of what a subnormal factor adds by |x|.
    let stated = [
        ("exp", 1.1, 0.0),
        ("log", 1.0, 0.0),
        ("gauss", 1.5, 0.0),
        ("normal", 5.5, 0.0),
        ("sigmoid", 2.5, 0.0),
        ("gelu", 6.0, 0.5),
        ("gelu_slope", 0.0, 0.0),
        ("silu", 3.0, 0.5),
        ("silu_slope", 0.0, 0.0),
    ];
    let slopes = 2f64.powi(-22);
    let mut worst = [0f64; 9];
    for bits in (0..=u32::MAX).step_by(4099 / deep().min(1000)) {
        let x = f32::from_bits(bits);
        if !x.is_finite() {
            continue;
        }
        let (got, x) = (all(x), f64::from(x));
        let density = (-0.5 * x * x).exp();
        let (phi, s) = (normal_distribution(x), 1.0 / (1.0 + (-x).exp()));
        let rest = 1.0 / (1.0 + x.exp());
        let slope = phi + x * density * 0.3989422804014327;
        let want = [
            x.exp(),
            x.ln(),
            density,
            phi,
            s,
            x * phi,
            slope,
            x * s,
            s * (1.0 + x * rest),
        ];
        for (i, (name, units, lost)) in stated.into_iter().enumerate() {
            let (got, want) = (f64::from(got[i]), want[i]);
            // Beyond f32's range there is infinity; of no number, none.
            let allowed = if units == 0.0 {
                slopes
            } else {
                units * unit(want) + lost * x.abs() * 2f64.powi(-149)
            };
            let same = got == f64::from(want as f32) || (got.is_nan() && want.is_nan());
            assert!(
                same || (got - want).abs() <= allowed,
                "{name} of {x:e} is {got:e}, not {want:e}"
            );
            if (got - want).is_finite() {
                worst[i] = worst[i].max((got - want).abs() / allowed);
            }
        }
    }
    // They are no larger than they need be.
    assert!(worst.iter().all(|worst| *worst > 0.7), "{worst:?}");
}
