//! What is logged, and how often: a subscriber of our own counts.

#![cfg(feature = "tracing")]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tileweave::driver::sim::{LinkState, SimConfig, SimLink};
use tileweave::{DType, GroupConfig, Node, Op, OpSpec, Operands, Path, Probing, Rank, Want};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Level and fields of every event, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, "{}={value} ", field.name()).unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tileweave"
    }
    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut Line(&mut line));
        self.0.lock().unwrap().push((*event.metadata().level(), line));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Log {
    /// The events since the last call.
    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn logged(test: impl FnOnce(&Log)) {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || test(&log));
}

#[track_caller]
fn assert_holds(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
}

fn spec() -> OpSpec {
    OpSpec::new(Op::GemmAllReduce, 64, 32, 300, DType::F32).route(Want::Exactly(Path::Fused))
}

fn group(config: SimConfig, probing: Probing) -> Vec<Rank> {
    let world = config.gpus;
    let group = GroupConfig::default()
        .one_shot_bytes(8 << 10)
        .probing(probing)
        .sized_for(&[spec()], world)
        .unwrap();
    Node::sim(config).unwrap().group(world, &group).unwrap()
}

#[test]
fn a_group_is_told_once_and_each_route_of_a_plan() {
    logged(|log| {
        let ranks = group(SimConfig::new(3, 0), Probing::Never);
        let told = log.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Level::INFO);
        assert_holds(&told[0].1, &["group made", "world=3", "devices=0, 1, 2", "machine=3 x"]);

        let plan = ranks[1].plan(&spec()).unwrap();
        let (told, routes) = (log.take(), plan.routes());
        assert!(routes.len() > 1, "one route alone shows nothing: {routes:?}");
        assert_eq!(told.len(), routes.len(), "{told:?}");
        for ((level, line), (m, route)) in told.iter().zip(routes) {
            assert_eq!(*level, Level::INFO);
            let range = format!("m_first={} m_last={} ", m.start, m.end - 1);
            assert_holds(line, &["rank=1", &range, "path=fused", &route.kernel, &route.reason]);
        }
    });
}

#[test]
fn launches_are_not_told_and_a_failure_is_told_once() {
    logged(|log| {
        let ranks = group(SimConfig::new(2, 0), Probing::Never);
        let mut ready = Vec::new();
        for rank in &ranks {
            let of = |rows: usize, cols: usize| {
                let mut buffer = rank.alloc(rows * cols * 4).unwrap();
                buffer.fill(0).unwrap();
                buffer
            };
            ready.push((rank.plan(&spec()).unwrap(), of(2, 32), of(64, 32), of(2, 64)));
        }
        log.take();
        for _ in 0..1000 {
            for (plan, x, weight, y) in &mut ready {
                let (x, weight) = (
                    x.mat(2, 32, DType::F32).unwrap(),
                    weight.mat(64, 32, DType::F32).unwrap(),
                );
                let y = y.mat_mut(2, 64, DType::F32).unwrap();
                plan.launch(&Operands::gemm(2, x, weight, y)).unwrap();
            }
        }
        ranks[0].synchronize().unwrap();
        assert_eq!(log.take(), []);

        ranks[1].abort("enough");
        ranks[0].abort("again");
        for rank in &ranks {
            rank.synchronize().unwrap_err();
        }
        let told = log.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Level::ERROR);
        assert_holds(&told[0].1, &["group failed", "enough"]);
    });
}

#[test]
fn a_link_that_is_not_used_is_a_warning() {
    logged(|log| {
        let links = vec![SimLink {
            from: 0,
            to: 2,
            state: LinkState::Corrupting,
        }];
        group(
            SimConfig {
                links,
                ..SimConfig::new(3, 0)
            },
            Probing::Always,
        );
        let warned: Vec<_> = log
            .take()
            .into_iter()
            .filter(|(level, _)| *level == Level::WARN)
            .collect();
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert_holds(&warned[0].1, &["link excluded", "reason="]);
    });
}
