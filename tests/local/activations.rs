//! GELU and SwiGLU.

use proptest::prelude::*;
use tileweave::local::{Activate, ActivateBackward, Activation};
use tileweave::reference::decode;
use tileweave::reference::local::{gelu, gelu_backward, silu, swiglu, swiglu_backward};
use tileweave::{DType, Mat};

use crate::common::Rng;
use crate::support::*;

/// A unit in the last place of an f32, relative to its value, at most.
const ULP: f64 = 2.0 * U;
/// What a function times x loses where the function is subnormal, by |x|.
const LOST: f64 = 1.5e-45;

#[derive(Debug, Clone)]
struct Case {
    activation: Activation,
    m: usize,
    n: usize,
    dtype: DType,
    scale: f64,
    data: u64,
}

prop_compose! {
    fn case()(
        swiglu in any::<bool>(), m in 0usize..20, n in prop_oneof![4 => 0usize..70, 1 => 2000usize..2100], dtype in dtype(),
        scale in prop::sample::select(vec![1.0, 0.01, 30.0]), data in any::<u64>(),
    ) -> Case {
        let activation = if swiglu { Activation::SwiGlu } else { Activation::Gelu };
        Case { activation, m, n, dtype, scale, data }
    }
}

impl Case {
    /// x and dy.
    fn data(&self) -> [Vec<f64>; 2] {
        let mut rng = Rng(self.data);
        let n = self.m * self.n;
        [
            draw(&mut rng, self.activation.inputs(n), self.dtype, self.scale),
            draw(&mut rng, n, self.dtype, 1.0),
        ]
    }

    fn inputs(&self) -> [usize; 2] {
        [self.m, self.activation.inputs(self.n)]
    }

    fn forward(&self, lay: Lay, x: &[f64]) -> Vec<u8> {
        let rank = lay.rank();
        let x = lay.input(&rank, self.inputs(), self.dtype, x);
        let mut y = lay.output(&rank, [self.m, self.n], self.dtype);
        let (activation, x, out) = (self.activation, x.mat().unwrap(), y.mat_mut().unwrap());
        Activate { activation, x, y: out }.launch(&rank).unwrap();
        rank.synchronize().unwrap();
        y.read().unwrap()
    }

    fn backward(&self, lay: Lay, [x, dy]: &[Vec<f64>; 2]) -> Vec<u8> {
        let rank = lay.rank();
        let x = lay.input(&rank, self.inputs(), self.dtype, x);
        let dy = lay.input(&rank, [self.m, self.n], self.dtype, dy);
        let mut dx = lay.output(&rank, self.inputs(), self.dtype);
        ActivateBackward {
            activation: self.activation,
            x: x.mat().unwrap(),
            dy: dy.mat().unwrap(),
            dx: dx.mat_mut().unwrap(),
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        dx.read().unwrap()
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn forward(c in case(), lay in lay()) {
        let [x, _] = c.data();
        let got = c.forward(lay, &x);
        let (want, bound): (_, Box<dyn Fn(usize) -> f64>) = match c.activation {
            Activation::Gelu => {
                let want = gelu(&x);
                let bounds: Vec<_> = want.iter().zip(&x).map(|(y, x)| 6.0 * ULP * y.abs() + LOST * x.abs()).collect();
                (want, Box::new(move |i| bounds[i]))
            }
            Activation::SwiGlu => {
                let want = swiglu(&x);
                let lost: Vec<_> = x.as_chunks().0.iter().map(|[gate, up]| LOST * (gate * up).abs()).collect();
                let bounds: Vec<_> = want.iter().zip(lost).map(|(y, lost)| 4.0 * ULP * y.abs() + lost).collect();
                (want, Box::new(move |i| bounds[i]))
            }
        };
        judge("y", c.dtype, &decode(c.dtype, &got), &want, bound);
        prop_assert!(got == c.forward(PLAIN, &x), "other bits than where all is aligned");
    }

    #[test]
    fn backward(c in case(), lay in lay()) {
        let data = c.data();
        let [x, dy] = &data;
        let got = c.backward(lay, &data);
        // Slopes err by 2^-22, and are 1.13 at most.
        let slope = 2f64.powi(-22) + 2.0 * U;
        let (want, bounds): (_, Vec<f64>) = match c.activation {
            Activation::Gelu => (gelu_backward(x, dy), dy.iter().map(|dy| dy.abs() * slope).collect()),
            Activation::SwiGlu => {
                let pair = |([gate, up], dy): (&[f64; 2], &f64)| {
                    [(dy * up).abs() * (slope + 2.0 * U), (dy * silu(*gate)).abs() * 4.0 * ULP + LOST * (gate * dy).abs()]
                };
                (swiglu_backward(x, dy), x.as_chunks().0.iter().zip(dy).flat_map(pair).collect())
            }
        };
        judge("dx", c.dtype, &decode(c.dtype, &got), &want, |i| bounds[i]);
        prop_assert!(got == c.backward(PLAIN, &data), "other bits than where all is aligned");
    }
}

/// All bf16 numbers, with all that is extreme among them: NaN where the formula has it, and nowhere else.
#[test]
fn every_bf16() {
    let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let x = decode(DType::Bf16, &bits);
    let c = Case {
        activation: Activation::Gelu,
        m: 256,
        n: 256,
        dtype: DType::Bf16,
        scale: 0.0,
        data: 0,
    };
    let got = decode(c.dtype, &c.forward(PLAIN, &x));
    let bound = |i: usize| {
        if x[i].is_finite() {
            6.0 * ULP * want_abs(x[i]) + LOST * x[i].abs()
        } else {
            0.0
        }
    };
    judge("gelu", c.dtype, &got, &gelu(&x), bound);
    assert!(got[0x7f80].is_infinite() && got[0xff80].is_nan() && got[0x7fc0].is_nan());
    assert_eq!(
        got.iter().filter(|y| y.is_nan()).count(),
        2 * 127 + 1,
        "of -infinity and of NaN alone"
    );

    // silu, with an up of 1.
    let pairs: Vec<f64> = x.iter().flat_map(|gate| [*gate, 1.0]).collect();
    let c = Case {
        activation: Activation::SwiGlu,
        ..c
    };
    let got = decode(c.dtype, &c.forward(PLAIN, &pairs));
    let want = swiglu(&pairs);
    judge("silu", c.dtype, &got, &want, |i| {
        if x[i].is_finite() {
            3.0 * ULP * want[i].abs() + LOST * x[i].abs()
        } else {
            0.0
        }
    });
}

fn want_abs(x: f64) -> f64 {
    gelu(&[x])[0].abs()
}

/// The gradient may take the place of what it is made of.
#[test]
fn in_place() {
    for activation in [Activation::Gelu, Activation::SwiGlu] {
        let c = Case {
            activation,
            m: 5,
            n: 72,
            dtype: DType::F16,
            scale: 1.0,
            data: 4,
        };
        let data = c.data();
        let want = c.backward(PLAIN, &data);
        let rank = PLAIN.rank();
        let [rows, cols] = c.inputs();
        let mut x = PLAIN.input(&rank, [rows, cols], c.dtype, &data[0]);
        let dy = PLAIN.input(&rank, [c.m, c.n], c.dtype, &data[1]);
        let dx = x.mat_mut().unwrap();
        // SAFETY: x's buffer lives to the end of this block, and the kernel may read what it writes over.
        let read = unsafe { Mat::from_raw(dx.ptr(), rows, cols, cols, c.dtype) };
        ActivateBackward {
            activation,
            x: read,
            dy: dy.mat().unwrap(),
            dx,
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        assert_eq!(x.read().unwrap(), want, "{activation:?}");
    }
}
