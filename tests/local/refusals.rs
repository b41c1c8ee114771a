//! What cannot be gets an error that names the argument, its value and what would be right, and nothing is enqueued.

use tileweave::local::*;
use tileweave::{Buffer, DType, Error, GroupConfig, Rank, Result};

use crate::common::node;
use crate::support::*;

const F32: DType = DType::F32;

#[track_caller]
fn refused(result: Result<()>, argument: &str, says: &[&str]) {
    let Err(error @ Error::BadArgument { .. }) = result else {
        panic!("{result:?}")
    };
    let Error::BadArgument { name, .. } = &error else {
        unreachable!()
    };
    assert_eq!(name, argument, "{error}");
    let text = error.to_string();
    assert!(
        says.iter().all(|word| text.contains(word)),
        "{text} has not all of {says:?}"
    );
}

/// Buffers of 1024 numbers each.
fn buffers<const N: usize>(rank: &Rank) -> [Buffer; N] {
    [(); N].map(|()| rank.alloc(4096).unwrap())
}

#[test]
fn norms() {
    let rank = PLAIN.rank();
    let [x, gamma, mut y, stats] = buffers(&rank);
    let mut launch = |kind, eps, gamma_cols: usize, beta: bool, dtype| {
        let gamma_at = gamma.mat(1, gamma_cols, dtype)?;
        let beta = if beta { Some(stats.mat(1, 8, F32)?) } else { None };
        let (x, y) = (x.mat(4, 8, F32)?, y.mat_mut(4, 8, F32)?);
        Norm {
            kind,
            eps,
            x,
            gamma: gamma_at,
            beta,
            y,
            stats: None,
        }
        .launch(&rank)
    };
    launch(NormKind::Rms, 1e-5, 8, false, F32).unwrap();
    refused(launch(NormKind::Rms, -1.0, 8, false, F32), "eps", &["-1", "at least 0"]);
    refused(launch(NormKind::Rms, f32::NAN, 8, false, F32), "eps", &["NaN"]);
    refused(
        launch(NormKind::Rms, 0.0, 7, false, F32),
        "gamma",
        &["[1, 7]", "[1, 8] for a norm of [4, 8]"],
    );
    refused(
        launch(NormKind::Rms, 0.0, 8, true, F32),
        "beta",
        &["an RMSNorm adds nothing"],
    );
    refused(
        launch(NormKind::Layer, 0.0, 8, true, DType::Bf16),
        "gamma",
        &["bf16", "f32, x's type"],
    );

    let [mut dx, dy, mut more] = buffers(&rank);
    let mut backward = |of_dx: bool, add: bool, dbeta: bool| {
        NormBackward {
            kind: NormKind::Rms,
            x: x.mat(4, 8, F32)?,
            gamma: gamma.mat(1, 8, F32)?,
            stats: stats.mat(4, 2, F32)?,
            dy: dy.mat(4, 8, F32)?,
            add: if add { Some(dy.mat(4, 8, F32)?) } else { None },
            dx: if of_dx { Some(dx.mat_mut(4, 8, F32)?) } else { None },
            dgamma: None,
            dbeta: if dbeta { Some(more.mat_mut(1, 8, F32)?) } else { None },
            accumulate: false,
        }
        .launch(&rank)
    };
    refused(backward(false, true, false), "add", &["without a dx"]);
    refused(backward(true, false, true), "dbeta", &["an RMSNorm adds nothing"]);
    let wide = NormBackward {
        kind: NormKind::Rms,
        x: x.mat(4, 8, DType::F16).unwrap(),
        gamma: gamma.mat(1, 8, DType::F16).unwrap(),
        stats: stats.mat(4, 2, DType::F16).unwrap(),
        dy: dy.mat(4, 8, DType::F16).unwrap(),
        add: None,
        dx: None,
        dgamma: None,
        dbeta: None,
        accumulate: false,
    };
    refused(wide.launch(&rank), "stats", &["f16", "f32, statistics' type"]);
}

#[test]
fn overlaps() {
    let rank = PLAIN.rank();
    let [mut x, a] = buffers(&rank);
    let ptr = x.mat_mut(1, 1, F32).unwrap().ptr();
    // SAFETY: nothing is launched with them, or within x's buffer, which lives to the end.
    let at = |offset: u64, cols| unsafe { tileweave::Mat::from_raw(ptr + offset, 4, cols, cols, F32) };
    // SAFETY: as above.
    let to = |offset: u64, cols| unsafe { tileweave::MatMut::from_raw(ptr + offset, 4, cols, cols, F32) };
    let add = |from, out| {
        Add {
            a: a.mat(4, 8, F32).unwrap(),
            b: from,
            out,
        }
        .launch(&rank)
    };
    refused(
        add(at(0, 8), to(4, 8)),
        "out",
        &["overlaps b", "the very elements of a or b"],
    );
    refused(
        Copy {
            from: at(0, 8),
            to: to(0, 8),
        }
        .launch(&rank),
        "to",
        &["overlaps from", "memory of its own"],
    );
    let swiglu = Activate {
        activation: Activation::SwiGlu,
        x: at(0, 16),
        y: to(0, 8),
    };
    refused(swiglu.launch(&rank), "y", &["overlaps x"]);
    refused(
        Copy {
            from: at(2, 8),
            to: to(512, 8),
        }
        .launch(&rank),
        "from",
        &["a multiple of 4"],
    );
}

#[test]
fn attention() {
    let rank = PLAIN.rank();
    let [q, k, v, mut o] = buffers(&rank);
    let mut launch = |heads: usize, kv_heads: usize, head_size: usize, seq, scale| {
        let columns = (heads * head_size).min(64);
        Attention {
            heads,
            kv_heads,
            head_size,
            seq,
            scale,
            q: q.mat(12, columns, F32)?,
            k: k.mat(12, (kv_heads * head_size).min(64), F32)?,
            v: v.mat(12, (kv_heads * head_size).min(64), F32)?,
            o: o.mat_mut(12, columns, F32)?,
            lse: None,
        }
        .launch(&rank)
    };
    refused(launch(4, 3, 8, 12, 1.0), "kv_heads", &["3", "divides the 4 heads"]);
    refused(launch(4, 0, 8, 12, 1.0), "kv_heads", &["0"]);
    refused(launch(0, 1, 8, 12, 1.0), "kv_heads", &["the 0 heads"]);
    refused(launch(1, 1, 0, 12, 1.0), "head_size", &["0", "1 to 256"]);
    refused(launch(1, 1, 257, 12, 1.0), "head_size", &["257"]);
    refused(launch(2, 1, 8, 5, 1.0), "seq", &["5", "the 12 rows of q"]);
    refused(launch(2, 1, 8, 0, 1.0), "seq", &["0"]);
    refused(launch(2, 1, 8, 6, f32::INFINITY), "scale", &["inf", "finite"]);
    refused(
        launch(9, 1, 8, 6, 1.0),
        "q",
        &[
            "[12, 64]",
            "[12, 72] for attention of 9 heads of 8 (1 of keys and values) over 12 rows",
        ],
    );
}

#[test]
fn vocabularies() {
    let rank = PLAIN.rank();
    let [words, table, mut y, mut z] = buffers(&rank);
    let other = node(1, 1).group(1, &GroupConfig::default()).unwrap().remove(0);
    let (theirs, their_words) = (FirstBad::new(&other).unwrap(), ids(&other, &[0; 3]));
    let mut look = |ids, first, vocabulary, bad| {
        let (table, y) = (table.mat(10, 8, F32)?, y.mat_mut(3, 8, F32)?);
        EmbeddingLookup {
            ids,
            first,
            vocabulary,
            table,
            y,
            bad,
        }
        .launch(&rank)
    };
    refused(look(words.ids(4).unwrap(), 0, 10, None), "ids", &["4", "3 of them"]);
    refused(
        look(words.ids(3).unwrap(), 1, 10, None),
        "first",
        &["1, of a part of 10", "the vocabulary of 10"],
    );
    refused(look(words.ids(3).unwrap(), -1, 10, None), "first", &["-1"]);
    refused(
        look(words.ids(3).unwrap(), 0, 10, Some(&theirs)),
        "bad",
        &["rank 0, which launches"],
    );
    refused(look(their_words.ids(3).unwrap(), 0, 10, None), "ids", &["another rank"]);
    // SAFETY: nothing is launched with it.
    let odd = unsafe { Ids::from_raw(words.ptr() + 4, 3) };
    refused(look(odd, 0, 10, None), "ids", &["at a multiple of 8"]);
    assert!(words.ids_at(500, 13).is_err() && words.ids_at(500, 12).is_ok() && words.ids(usize::MAX).is_err());

    let mut loss = |world, vocabulary| {
        LossFromStats {
            all: table.mat(3 * world, 3, F32)?,
            world,
            m: 3,
            targets: words.ids(3)?,
            vocabulary,
            ignore: None,
            loss: y.mat_mut(3, 1, F32)?,
            lse: z.mat_mut(3, 1, F32)?,
            bad: None,
        }
        .launch(&rank)
    };
    refused(loss(0, 10), "world", &["at least one part"]);
    refused(loss(2, 0), "vocabulary", &["at least one column"]);
    let [mut stats] = buffers(&rank);
    let narrow = LogitStats {
        logits: table.mat(3, 5, DType::Bf16).unwrap(),
        targets: words.ids(3).unwrap(),
        first: 0,
        stats: stats.mat_mut(3, 2, F32).unwrap(),
    };
    refused(
        narrow.launch(&rank),
        "stats",
        &["[3, 2]", "[3, 3] for statistics of logits [3, 5]"],
    );
}
