//! Rows by number, and their gradients: every bit is known.

use proptest::prelude::*;
use tileweave::DType;
use tileweave::local::{EmbeddingBackward, EmbeddingLookup, FirstBad};
use tileweave::reference::local::{embedding, embedding_backward};
use tileweave::reference::{decode, encode};

use crate::common::Rng;
use crate::support::*;

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    d: usize,
    /// Rows of the table.
    rows: usize,
    first: i64,
    vocabulary: i64,
    /// Few words, often.
    hot: bool,
    dtype: DType,
    data: u64,
}

prop_compose! {
    fn case()(
        m in prop_oneof![4 => 0usize..60, 1 => 1000usize..1100], d in prop_oneof![4 => 1usize..70, 1 => 250usize..300],
        rows in prop_oneof![1 => Just(0usize), 6 => 1usize..40, 3 => 60usize..150], first in 0i64..30, more in 0i64..30, hot in any::<bool>(),
        dtype in dtype(), data in any::<u64>(),
    ) -> Case {
        let d = if m > 100 { d.min(40) } else { d };
        Case { m, d, rows, first, vocabulary: first + rows as i64 + more, hot, dtype, data }
    }
}

impl Case {
    fn ids(&self, rng: &mut Rng) -> Vec<i64> {
        let words = if self.hot { 3 } else { self.vocabulary.max(1) as usize };
        (0..self.m)
            .map(|_| (rng.below(words) as i64 * 7 + self.first) % self.vocabulary.max(1))
            .collect()
    }

    fn own(&self, ids: &[i64]) -> Vec<i64> {
        ids.iter().map(|id| id.saturating_sub(self.first)).collect()
    }
}

proptest! {
    #![proptest_config(cases(50))]

    #[test]
    fn lookup(c in case(), lay in lay(), bad in prop::option::of((0usize..60, prop::sample::select(vec![-1i64, i64::MIN, i64::MAX])))) {
        let (rank, mut rng) = (lay.rank(), Rng(c.data));
        let mut words = c.ids(&mut rng);
        let bad = bad.filter(|(at, _)| *at < c.m && c.vocabulary > 0);
        if let Some((at, id)) = bad {
            words[at] = id;
            words[c.m - 1] = if at == c.m - 1 { id } else { c.vocabulary };
        }
        let table = draw(&mut rng, c.rows * c.d, c.dtype, 1.0);
        let numbers = ids(&rank, &words);
        let table_at = lay.input(&rank, [c.rows, c.d], c.dtype, &table);
        let mut y = lay.output(&rank, [c.m, c.d], c.dtype);
        let first_bad = FirstBad::new(&rank).unwrap();
        let lookup = EmbeddingLookup {
            ids: numbers.ids(c.m).unwrap(),
            first: c.first,
            vocabulary: c.vocabulary,
            table: table_at.mat().unwrap(),
            y: y.mat_mut().unwrap(),
            bad: Some(&first_bad),
        };
        lookup.launch(&rank).unwrap();
        rank.synchronize().unwrap();
        let want = embedding(&c.own(&words), &table, c.d);
        prop_assert!(y.read().unwrap() == encode(c.dtype, &want));
        let expected = if c.vocabulary == 0 { words.first().map(|id| (0, *id)) } else { bad };
        prop_assert_eq!(first_bad.get().unwrap(), expected);
    }

    #[test]
    fn backward(c in case(), lay in lay(), accumulate in any::<bool>()) {
        let (rank, mut rng) = (lay.rank(), Rng(c.data));
        let words = c.ids(&mut rng);
        let numbers = ids(&rank, &words);
        let (dy, before) = (draw(&mut rng, c.m * c.d, c.dtype, 1.0), draw(&mut rng, c.rows * c.d, c.dtype, 1.0));
        let dy_at = lay.input(&rank, [c.m, c.d], c.dtype, &dy);
        let mut dtable = lay.slab(&rank, [c.rows, c.d], c.dtype, accumulate.then_some(&before));
        EmbeddingBackward {
            ids: numbers.ids(c.m).unwrap(),
            first: c.first,
            dy: dy_at.mat().unwrap(),
            dtable: dtable.mat_mut().unwrap(),
            accumulate,
        }
        .launch(&rank)
        .unwrap();
        let got = values(&rank, &dtable, c.dtype);
        // In f32, token after token.
        let mut want = vec![0f32; c.rows * c.d];
        for (id, dy) in c.own(&words).iter().zip(dy.chunks(c.d)) {
            if let Some(row) = usize::try_from(*id).ok().filter(|row| *row < c.rows) {
                want[row * c.d..].iter_mut().zip(dy).for_each(|(sum, dy)| *sum += *dy as f32);
            }
        }
        if accumulate {
            want.iter_mut().zip(&before).for_each(|(sum, before)| *sum += *before as f32);
        }
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        prop_assert!(got == decode(c.dtype, &encode(c.dtype, &want)));
        if !accumulate {
            let exact = embedding_backward(&c.own(&words), &dy, c.rows, c.d);
            let sizes = embedding_backward(&c.own(&words), &dy.iter().map(|dy| dy.abs()).collect::<Vec<_>>(), c.rows, c.d);
            judge("dtable", c.dtype, &got, &exact, |i| c.m as f64 * U * sizes[i]);
        }
    }
}

/// More tokens of one block of rows than a list has room for, over several blocks of columns.
#[test]
fn long_lists() {
    let (m, d, rows, dtype) = (9000, 264, 70, DType::F32);
    let rank = PLAIN.rank();
    let words: Vec<i64> = (0..m as i64).map(|i| if i % 3 == 0 { 2 + i % 2 } else { 5 }).collect();
    let dy: Vec<f64> = (0..m * d).map(|i| ((i / d * 31 + i % d * 7) % 64) as f64).collect();
    let (numbers, dy_at) = (ids(&rank, &words), PLAIN.input(&rank, [m, d], dtype, &dy));
    let mut dtable = PLAIN.output(&rank, [rows, d], dtype);
    EmbeddingBackward {
        ids: numbers.ids(m).unwrap(),
        first: 0,
        dy: dy_at.mat().unwrap(),
        dtable: dtable.mat_mut().unwrap(),
        accumulate: false,
    }
    .launch(&rank)
    .unwrap();
    // Sums of whole numbers below 2^24 are exact.
    assert_eq!(values(&rank, &dtable, dtype), embedding_backward(&words, &dy, rows, d));
}

/// The first of all launches is kept until it is cleared.
#[test]
fn the_first_bad_id_is_kept() {
    let rank = PLAIN.rank();
    let table = PLAIN.input(&rank, [4, 8], DType::F32, &[1.0; 32]);
    let mut bad = FirstBad::new(&rank).unwrap();
    let look = |words: &[i64], bad: &FirstBad| {
        let (numbers, mut y) = (ids(&rank, words), PLAIN.output(&rank, [words.len(), 8], DType::F32));
        let lookup = EmbeddingLookup {
            ids: numbers.ids(words.len()).unwrap(),
            first: 0,
            vocabulary: 4,
            table: table.mat().unwrap(),
            y: y.mat_mut().unwrap(),
            bad: Some(bad),
        };
        lookup.launch(&rank).unwrap();
    };
    look(&[0, 3, 1], &bad);
    assert_eq!(bad.get().unwrap(), None);
    look(&[0, 4, -7], &bad);
    look(&[9, 0], &bad);
    assert_eq!(bad.get().unwrap(), Some((1, 4)));
    bad.clear().unwrap();
    look(&[0, 1, -7], &bad);
    assert_eq!(bad.get().unwrap(), Some((2, -7)));
}
