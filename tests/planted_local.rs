//! The tests of a rank's own kernels can fail: `planted_faults.rs` for their sites.
//! `TILEWEAVE_DEEP=1 cargo test --test planted_local -- --nocapture` prints how many of 50 seeds catch each.

mod common;

use std::sync::Arc;

use common::*;
use tileweave::driver::sim::{SimNode, Site};
use tileweave::local::*;
use tileweave::{Buffer, DType, GroupConfig, Node, Rank, Result};

const F32: DType = DType::F32;

/// What runs: wide enough for sums over a CTA, long enough for more than one turn of each CTA.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// LayerNorm, whose rows are summed twice.
    Norm,
    /// Its gradients of x, and of gamma and beta.
    NormBackward,
    /// Statistics of logits.
    Stats,
    /// A lookup that reports what is outside the vocabulary.
    Lookup,
    /// Attention, in two chunks of columns.
    Attention,
    /// Its gradients.
    AttentionBackward,
    /// An embedding's gradient.
    Embedding,
}

const ALL: [Work; 7] = [
    Work::Norm,
    Work::NormBackward,
    Work::Stats,
    Work::Lookup,
    Work::Attention,
    Work::AttentionBackward,
    Work::Embedding,
];

fn filled(rank: &Rank, count: usize, seed: u64) -> Result<Buffer> {
    let mut rng = Rng(seed);
    let mut buffer = rank.alloc(4 * count)?;
    buffer.upload(&(0..count).map(|_| rng.normal() as f32).collect::<Vec<_>>())?;
    Ok(buffer)
}

/// All that the work leaves.
fn run(rank: &Rank, work: Work, seed: u64) -> Result<Vec<u32>> {
    let of = |count, salt: u64| filled(rank, count, 8 * seed + salt);
    let (m, d) = (9, 600);
    let mut out = Vec::new();
    let mut read = |buffer: &Buffer| -> Result<()> {
        out.extend(buffer.to_vec::<u32>(buffer.len() / 4)?);
        Ok(())
    };
    let numbers: Vec<i64> = (0..2500).map(|i| (i * 7 + seed as i64) % 90).collect();
    let mut words = rank.alloc(8 * numbers.len())?;
    words.upload(&numbers)?;
    match work {
        Work::Norm => {
            let (x, gamma, mut y) = (of(m * d, 0)?, of(d, 1)?, of(m * d, 2)?);
            let (kind, eps, y_at) = (NormKind::Layer, 1e-5, y.mat_mut(m, d, F32)?);
            let (x, gamma) = (x.mat(m, d, F32)?, gamma.mat(1, d, F32)?);
            Norm {
                kind,
                eps,
                x,
                gamma,
                beta: None,
                y: y_at,
                stats: None,
            }
            .launch(rank)?;
            rank.synchronize()?;
            read(&y)?;
        }
        Work::NormBackward => {
            let (x, gamma, stats, dy) = (of(m * d, 0)?, of(d, 1)?, of(m * 2, 2)?, of(m * d, 3)?);
            let [mut dx, mut dgamma, mut dbeta] = [of(m * d, 4)?, of(d, 5)?, of(d, 6)?];
            NormBackward {
                kind: NormKind::Layer,
                x: x.mat(m, d, F32)?,
                gamma: gamma.mat(1, d, F32)?,
                stats: stats.mat(m, 2, F32)?,
                dy: dy.mat(m, d, F32)?,
                add: None,
                dx: Some(dx.mat_mut(m, d, F32)?),
                dgamma: Some(dgamma.mat_mut(1, d, F32)?),
                dbeta: Some(dbeta.mat_mut(1, d, F32)?),
                accumulate: false,
            }
            .launch(rank)?;
            rank.synchronize()?;
            [dx, dgamma, dbeta].iter().try_for_each(read)?;
        }
        Work::Stats => {
            let (logits, mut stats) = (of(m * d, 0)?, of(m * 3, 1)?);
            let (targets, first, stats_at) = (words.ids(m)?, 0, stats.mat_mut(m, 3, F32)?);
            LogitStats {
                logits: logits.mat(m, d, F32)?,
                targets,
                first,
                stats: stats_at,
            }
            .launch(rank)?;
            rank.synchronize()?;
            read(&stats)?;
        }
        Work::Lookup => {
            let (table, mut y, count) = (of(80 * 8, 0)?, of(numbers.len() * 8, 1)?, numbers.len());
            let bad = FirstBad::new(rank)?;
            EmbeddingLookup {
                ids: words.ids(count)?,
                first: 0,
                vocabulary: 89,
                table: table.mat(80, 8, F32)?,
                y: y.mat_mut(count, 8, F32)?,
                bad: Some(&bad),
            }
            .launch(rank)?;
            rank.synchronize()?;
            let (position, id) = bad.get()?.unwrap_or_default();
            out.extend([position as u32, id as u32]);
        }
        Work::Attention | Work::AttentionBackward => {
            let (m, hs) = (70, 72);
            let [q, k, v, mut o, d] = [
                of(m * hs, 0)?,
                of(m * hs, 1)?,
                of(m * hs, 2)?,
                of(m * hs, 3)?,
                of(m * hs, 4)?,
            ];
            let [mut lse, mut delta, mut dq, mut dk, mut dv] =
                [of(m, 5)?, of(m, 6)?, of(m * hs, 7)?, of(m * hs, 0)?, of(m * hs, 0)?];
            let (heads, kv_heads, head_size, seq, scale) = (1, 1, hs, m, 0.1);
            let (q, k, v) = (q.mat(m, hs, F32)?, k.mat(m, hs, F32)?, v.mat(m, hs, F32)?);
            if matches!(work, Work::Attention) {
                let (o_at, lse_at) = (o.mat_mut(m, hs, F32)?, Some(lse.mat_mut(m, 1, F32)?));
                Attention {
                    heads,
                    kv_heads,
                    head_size,
                    seq,
                    scale,
                    q,
                    k,
                    v,
                    o: o_at,
                    lse: lse_at,
                }
                .launch(rank)?;
                rank.synchronize()?;
                [o, lse].iter().try_for_each(read)?;
            } else {
                AttentionBackward {
                    heads,
                    kv_heads,
                    head_size,
                    seq,
                    scale,
                    q,
                    k,
                    v,
                    o: o.mat(m, hs, F32)?,
                    lse: lse.mat(m, 1, F32)?,
                    do_: d.mat(m, hs, F32)?,
                    delta: delta.mat_mut(m, 1, F32)?,
                    dq: dq.mat_mut(m, hs, F32)?,
                    dk: dk.mat_mut(m, hs, F32)?,
                    dv: dv.mat_mut(m, hs, F32)?,
                }
                .launch(rank)?;
                rank.synchronize()?;
                [dq, dk, dv].iter().try_for_each(read)?;
            }
        }
        Work::Embedding => {
            let (dy, mut dtable, count) = (of(numbers.len() * 8, 0)?, of(80 * 8, 1)?, numbers.len());
            EmbeddingBackward {
                ids: words.ids(count)?,
                first: 0,
                dy: dy.mat(count, 8, F32)?,
                dtable: dtable.mat_mut(80, 8, F32)?,
                accumulate: false,
            }
            .launch(rank)?;
            rank.synchronize()?;
            read(&dtable)?;
        }
    }
    Ok(out)
}

fn on(plant: Plant, work: Work, seed: u64) -> Result<Vec<u32>> {
    let mut config = planted(plant, 1, seed);
    config.sms = 2;
    let node = Node::new(Arc::new(SimNode::new(config)?));
    run(&node.group(1, &GroupConfig::default())?.remove(0), work, seed)
}

/// `Some(how)` if the fault is caught.
fn caught(plant: Plant, work: Work, seed: u64) -> Option<String> {
    match on(plant, work, seed) {
        Err(error) => Some(error.to_string()),
        Ok(got) => (got != on(Plant::Nothing, work, seed).unwrap()).then(|| "another result".to_string()),
    }
}

#[test]
fn each_planted_fault_is_caught() {
    let sums = machine(Site::LocalSums);
    let chunk = machine(Site::LocalChunk);
    all_caught(
        &[
            row("no barrier before a row's sums are read", sums, Work::Norm, 2),
            row("nor of gradients, nor of columns", sums, Work::NormBackward, 2),
            row("nor of exponentials", sums, Work::Stats, 2),
            row("nor before the first bad id is chosen", sums, Work::Lookup, 2),
            row("no barriers about a chunk", chunk, Work::Attention, 2),
            row("nor in the backward pass", chunk, Work::AttentionBackward, 2),
            row(
                "no barrier before ids are listed",
                machine(Site::LocalIds),
                Work::Embedding,
                2,
            ),
            row(
                "no barrier behind the list",
                machine(Site::LocalList),
                Work::Embedding,
                2,
            ),
        ],
        caught,
    );
}

#[test]
fn nothing_is_caught_without_a_fault() {
    nothing_caught(&ALL, 4, caught);
}
