//! A rank's own kernels on the node with a clock: each runs, takes time, and longer where there is more to do.

use std::sync::Arc;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::local::*;
use tileweave::{Buffer, DType, GroupConfig, Node, Rank};

use super::measure::{BF16, named};

const F32: DType = DType::F32;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Norm(NormKind),
    NormBackward,
    Activate(Activation),
    ActivateBackward(Activation),
    Attention,
    AttentionBackward,
    Lookup,
    Embedding,
    Stats,
    Loss,
    LossBackward,
    Copy,
    Add,
    Fill,
}

const ALL: [Kernel; 17] = [
    Kernel::Norm(NormKind::Rms),
    Kernel::Norm(NormKind::Layer),
    Kernel::NormBackward,
    Kernel::Activate(Activation::Gelu),
    Kernel::Activate(Activation::SwiGlu),
    Kernel::ActivateBackward(Activation::Gelu),
    Kernel::ActivateBackward(Activation::SwiGlu),
    Kernel::Attention,
    Kernel::AttentionBackward,
    Kernel::Lookup,
    Kernel::Embedding,
    Kernel::Stats,
    Kernel::Loss,
    Kernel::LossBackward,
    Kernel::Copy,
    Kernel::Add,
    Kernel::Fill,
];

/// Enqueues it: `m` rows of `d` values, heads of 64, a vocabulary of 1024.
fn launch(rank: &Rank, kernel: Kernel, [m, d]: [usize; 2]) -> tileweave::Result<()> {
    let of = |rows: usize, cols: usize| -> tileweave::Result<Buffer> {
        let mut buffer = rank.alloc(rows * cols * 4)?;
        buffer.fill(0)?;
        Ok(buffer)
    };
    let (a, b, row, stats) = (of(m, 2 * d)?, of(m, 2 * d)?, of(1, d)?, of(m, 16)?);
    let (mut out, mut more, mut rest) = (of(m, 2 * d)?, of(m, d)?, of(m, d)?);
    let (mut small, mut other) = (of(m, 16)?, of(m, 16)?);
    let (x, y, gamma, wide) = (
        a.mat(m, d, BF16)?,
        b.mat(m, d, BF16)?,
        row.mat(1, d, BF16)?,
        a.mat(m, 2 * d, BF16)?,
    );
    let numbers: Vec<i64> = (0..m as i64).map(|i| i * 37 % 1024).collect();
    let mut words = rank.alloc(8 * m)?;
    words.upload(&numbers)?;
    let ids = words.ids(m)?;
    let to = out.mat_mut(m, d, BF16)?;
    let (heads, kv_heads, head_size, seq, scale) = (d / 64, d / 64, 64, m, 0.125);
    match kernel {
        Kernel::Norm(kind) => Norm {
            kind,
            eps: 1e-5,
            x,
            gamma,
            beta: None,
            y: to,
            stats: None,
        }
        .launch(rank),
        Kernel::NormBackward => NormBackward {
            kind: NormKind::Rms,
            x,
            gamma,
            stats: stats.mat(m, 2, F32)?,
            dy: y,
            add: None,
            dx: Some(to),
            dgamma: Some(more.mat_mut(1, d, BF16)?),
            dbeta: None,
            accumulate: false,
        }
        .launch(rank),
        Kernel::Activate(activation) => {
            let x = if activation == Activation::SwiGlu { wide } else { x };
            Activate { activation, x, y: to }.launch(rank)
        }
        Kernel::ActivateBackward(activation) => {
            let inputs = activation.inputs(d);
            let (x, dx) = (a.mat(m, inputs, BF16)?, out.mat_mut(m, inputs, BF16)?);
            ActivateBackward {
                activation,
                x,
                dy: y,
                dx,
            }
            .launch(rank)
        }
        Kernel::Attention => Attention {
            heads,
            kv_heads,
            head_size,
            seq,
            scale,
            q: x,
            k: y,
            v: y,
            o: to,
            lse: None,
        }
        .launch(rank),
        Kernel::AttentionBackward => AttentionBackward {
            heads,
            kv_heads,
            head_size,
            seq,
            scale,
            q: x,
            k: y,
            v: y,
            o: y,
            lse: stats.mat(m, 16, F32)?,
            do_: y,
            delta: small.mat_mut(m, 16, F32)?,
            dq: to,
            dk: more.mat_mut(m, d, BF16)?,
            dv: rest.mat_mut(m, d, BF16)?,
        }
        .launch(rank),
        Kernel::Lookup => {
            let bad = FirstBad::new(rank)?;
            EmbeddingLookup {
                ids,
                first: 0,
                vocabulary: 1024,
                table: x,
                y: to,
                bad: Some(&bad),
            }
            .launch(rank)
        }
        Kernel::Embedding => EmbeddingBackward {
            ids,
            first: 0,
            dy: x,
            dtable: to,
            accumulate: false,
        }
        .launch(rank),
        Kernel::Stats => LogitStats {
            logits: x,
            targets: ids,
            first: 0,
            stats: small.mat_mut(m, 3, F32)?,
        }
        .launch(rank),
        Kernel::Loss => LossFromStats {
            all: a.mat(8 * m, 3, F32)?,
            world: 8,
            m,
            targets: ids,
            vocabulary: 8192,
            ignore: None,
            loss: small.mat_mut(m, 1, F32)?,
            lse: other.mat_mut(m, 1, F32)?,
            bad: None,
        }
        .launch(rank),
        Kernel::LossBackward => LossBackward {
            logits: x,
            targets: ids,
            first: 0,
            ignore: None,
            lse: stats.mat(m, 1, F32)?,
            dloss: stats.mat(m, 1, F32)?,
            dlogits: to,
        }
        .launch(rank),
        Kernel::Copy => Copy { from: x, to }.launch(rank),
        Kernel::Add => Add { a: x, b: y, out: to }.launch(rank),
        Kernel::Fill => Fill { value: 1.0, out: to }.launch(rank),
    }
}

/// Nanoseconds, without the launch's own.
fn ns(kernel: Kernel, shape: [usize; 2]) -> f64 {
    took(kernel, shape, SimConfig::clocked(&named("h100x8"), 1)).expect("no fault")
}

/// The same on any node with a clock.
fn took(kernel: Kernel, shape: [usize; 2], config: SimConfig) -> tileweave::Result<f64> {
    let launches = config
        .clock
        .as_ref()
        .map_or(0.0, |node| node.host.launch_us.value * 1e3);
    let sim = Arc::new(SimNode::new(config).expect("a node"));
    let rank = Node::new(sim.clone())
        .group(1, &GroupConfig::default())
        .expect("a group")
        .remove(0);
    let driver = rank.node();
    let driver = driver.driver();
    let [begin, end] = [(); 2].map(|()| driver.event_create(rank.place()).expect("an event"));
    driver.event_record(begin, rank.stream()).expect("recorded");
    launch(&rank, kernel, shape)?;
    driver.event_record(end, rank.stream()).expect("recorded");
    rank.synchronize()?;
    let ms = driver
        .event_elapsed_ms(begin, end)
        .expect("both happened")
        .expect("a clock");
    Ok(ms * 1e6 - launches)
}

/// With all lanes and values behind the clock (`docs/clock.md`, "Both"), they ask for the same and take the same time.
#[test]
fn computing_takes_the_same_time() {
    let mut node = named("h100x4");
    node.compute.sms.value = 12;
    for kernel in ALL {
        let timing = took(kernel, [64, 1024], SimConfig::clocked(&node, 1)).expect("no fault");
        let full = SimConfig {
            computes: true,
            ..SimConfig::clocked(&node, 1)
        };
        assert_eq!(took(kernel, [64, 1024], full).expect("followed"), timing, "{kernel:?}");
    }
}

#[test]
fn each_takes_its_time() {
    for kernel in ALL {
        // Of losses, a CTA has 256 rows.
        let more = if kernel == Kernel::Loss { 1 << 17 } else { 1024 };
        let (small, large) = (ns(kernel, [256, 1024]), ns(kernel, [more, 1024]));
        println!("{kernel:?}: {small:.0} ns, {large:.0} ns");
        // What reads takes two trips to memory at least; stores are posted.
        let least = if kernel == Kernel::Fill { 0.0 } else { 300.0 };
        assert!(small > least, "{kernel:?}: {small} ns");
        assert!(large > small, "{kernel:?}: {large} ns after {small}");
        assert_eq!(large, ns(kernel, [more, 1024]), "{kernel:?}: another time");
    }
}

/// What computes little takes what device memory takes for it, and not much more; norms of wide rows alone, since a CTA has one row
/// at a time.
#[test]
fn moves_are_bound_by_memory() {
    let node = named("h100x8");
    let [m, d] = [8192, 8192];
    for (kernel, matrices) in [
        (Kernel::Copy, 2.0),
        (Kernel::Add, 3.0),
        (Kernel::Norm(NormKind::Rms), 2.0),
    ] {
        let least = matrices * (m * d * 2) as f64 / node.memory.hbm_gb_per_s.value;
        let part = ns(kernel, [m, d]) / least;
        println!("{kernel:?}: {part:.2} of what memory takes");
        assert!((0.9..2.5).contains(&part), "{kernel:?}: {part:.2}");
    }
}
