//! Copies, sums, fills: every bit is known.

use proptest::prelude::*;
use tileweave::Mat;
use tileweave::local::{Add, Copy, Fill};
use tileweave::reference::encode;

use crate::common::Rng;
use crate::support::*;

fn shape() -> impl Strategy<Value = [usize; 2]> {
    (0usize..30, prop_oneof![4 => 0usize..70, 1 => 2000usize..2100]).prop_map(|(m, n)| [m, n])
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn moves([m, n] in shape(), dtype in dtype(), lay in lay(), from in lay(), data in any::<u64>(), value in any::<f32>()) {
        let rank = lay.rank();
        let mut rng = Rng(data);
        let [a, b] = [0, 1].map(|_| draw(&mut rng, m * n, dtype, 1.0));
        let [a_at, b_at] = [from.input(&rank, [m, n], dtype, &a), lay.input(&rank, [m, n], dtype, &b)];
        let mut out = lay.output(&rank, [m, n], dtype);
        let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(*a as f32 + *b as f32)).collect();

        Copy { from: a_at.mat().unwrap(), to: out.mat_mut().unwrap() }.launch(&rank).unwrap();
        rank.synchronize().unwrap();
        prop_assert!(out.read().unwrap() == encode(dtype, &a));

        Add { a: a_at.mat().unwrap(), b: b_at.mat().unwrap(), out: out.mat_mut().unwrap() }.launch(&rank).unwrap();
        rank.synchronize().unwrap();
        prop_assert!(out.read().unwrap() == encode(dtype, &sum));

        Fill { value, out: out.mat_mut().unwrap() }.launch(&rank).unwrap();
        rank.synchronize().unwrap();
        prop_assert!(out.read().unwrap() == encode(dtype, &vec![f64::from(value); m * n]));
    }
}

/// A copy moves bits, those of NaN too; a sum may take the place of either operand.
#[test]
fn bits_and_places() {
    for dtype in DTYPES {
        let (rank, n) = (PLAIN.rank(), 40);
        // NaN of many kinds among them.
        let bytes: Vec<u8> = (0..n * dtype.size())
            .map(|i| [0xff, 0x7f, 0xc1, i as u8][i % 4])
            .collect();
        let (mut a, mut b) = (rank.alloc(bytes.len()).unwrap(), rank.alloc(bytes.len() + 8).unwrap());
        a.upload(&bytes).unwrap();
        Copy {
            from: a.mat(5, 8, dtype).unwrap(),
            to: b.mat_mut_at(1, 5, 8, 8, dtype).unwrap(),
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        assert_eq!(
            b.to_vec::<u8>(bytes.len() + dtype.size()).unwrap()[dtype.size()..],
            bytes,
            "{dtype}"
        );

        a.upload(&encode(dtype, &vec![1.5; n])).unwrap();
        b.upload(&encode(dtype, &vec![2.0; n])).unwrap();
        for place in [a.ptr(), b.ptr()] {
            // SAFETY: both buffers live to the end of this block, and the kernel may read what it writes over.
            let (out, [left, right]) = unsafe {
                let at = |ptr| Mat::from_raw(ptr, 5, 8, 8, dtype);
                (
                    tileweave::MatMut::from_raw(place, 5, 8, 8, dtype),
                    [at(a.ptr()), at(b.ptr())],
                )
            };
            Add { a: left, b: right, out }.launch(&rank).unwrap();
        }
        rank.synchronize().unwrap();
        assert_eq!(
            a.to_vec::<u8>(bytes.len()).unwrap(),
            encode(dtype, &vec![3.5; n]),
            "{dtype}"
        );
        assert_eq!(
            b.to_vec::<u8>(bytes.len()).unwrap(),
            encode(dtype, &vec![5.5; n]),
            "{dtype}"
        );
    }
}
