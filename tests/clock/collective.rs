//! Another library's collective on the clock, as far as a model of it goes.

use std::sync::Arc;

use tileweave::driver::Driver;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{Error, GroupConfig, Node, Op, OpSpec, Path, Rank, Want};

use super::measure::{BF16, Case, named, ns};

const SHAPE: [usize; 3] = [2048, 1024, 512];
const US: f64 = 37.5;
const BYTES: u64 = 3 << 20;

fn spec() -> OpSpec {
    let [m, n, k] = SHAPE;
    OpSpec::new(Op::GemmAllReduce, n, k, m, BF16).route(Want::Exactly(Path::Unfused))
}

fn ranks(config: SimConfig) -> (Arc<SimNode>, Vec<Rank>) {
    let group = GroupConfig::default().sized_for(&[spec()], 4).expect("sizes");
    let sim = Arc::new(SimNode::new(config).expect("a node"));
    let ranks = Node::new(sim.clone()).group(4, &group).expect("a group");
    (sim, ranks)
}

/// What `last` ranks' GEMMs and then the collective take, by rank; and for how long links were busy.
fn took(last: usize) -> (Vec<f64>, u64) {
    let [m, n, k] = SHAPE;
    let (sim, ranks) = ranks(SimConfig::clocked(&named("h100x4"), 1));
    let events: Vec<_> = ranks
        .iter()
        .map(|rank| [(); 2].map(|()| sim.event_create(rank.place()).expect("an event")))
        .collect();
    let mut buffers = Vec::new();
    for (rank, [begin, _]) in ranks.iter().zip(&events) {
        sim.event_record(*begin, rank.stream()).expect("recorded");
        if rank.rank() < last {
            let plan = rank.plan(&spec()).expect("a plan");
            let [x, w, mut out] = [m * k, n * k, m * n].map(|elements| rank.alloc(elements * 2).expect("memory"));
            let (a, b) = (x.mat(m, k, BF16).expect("x"), w.mat(n, k, BF16).expect("w"));
            let mut to = out.mat_mut(m, n, BF16).expect("out");
            plan.launch_gemm(m, a, b, &mut to).expect("a launch");
            buffers.push([x, w, out]);
        }
    }
    let streams: Vec<_> = ranks.iter().map(Rank::stream).collect();
    sim.model_collective(&streams, US, BYTES).expect("enqueued");
    for (rank, [_, end]) in ranks.iter().zip(&events) {
        sim.event_record(*end, rank.stream()).expect("recorded");
    }
    ranks.iter().for_each(|rank| rank.synchronize().expect("no fault"));
    let ms = |[begin, end]: &[_; 2]| sim.event_elapsed_ms(*begin, *end).expect("both").expect("a clock");
    let links = sim
        .usage()
        .expect("usage")
        .into_iter()
        .filter(|u| u.unit.starts_with("links"));
    (
        events.iter().map(|pair| 1e6 * ms(pair)).collect(),
        links.map(|u| u.busy_ns).sum(),
    )
}

/// All go on together, when the last has come and the model's time is over; their links were busy with the bytes.
#[test]
fn a_collective_begins_with_the_last_and_ends_for_all() {
    let node = named("h100x4");
    let gemm = ns(&node, Op::GemmAllReduce, SHAPE, 4, Case::Gemm) as f64;
    for (last, expected) in [(0, US * 1e3), (1, gemm + US * 1e3), (4, gemm + US * 1e3)] {
        let (ns, links) = took(last);
        assert!(ns.iter().all(|one| *one == ns[0]), "{last}: {ns:?}");
        assert!(
            (ns[0] / expected - 1.0).abs() < 0.02,
            "{last}: {} beside {expected}",
            ns[0]
        );
        let carry = BYTES as f64 / node.link.achieved_gb_per_s.value;
        // Out and in, of four ranks.
        assert!(
            (links as f64 / (8.0 * carry) - 1.0).abs() < 0.01,
            "{last}: {links} beside {carry}"
        );
    }
}

#[test]
fn where_there_is_no_clock_no_time_is_known() {
    let (sim, ranks) = ranks(SimConfig::new(4, 1));
    let streams = [ranks[0].stream(), ranks[1].stream()];
    let error = sim.model_collective(&streams, 1.0, 0).expect_err("no clock");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let (sim, ranks) = self::ranks(SimConfig::clocked(&named("h100x4"), 1));
    let refused = |streams: &[_], us| sim.model_collective(streams, us, 0).expect_err("refused").to_string();
    let one = ranks[0].stream();
    assert!(refused(&[one], f64::NAN).contains("us is NaN"));
    assert!(refused(&[one, one], 1.0).contains("each stream once"));
    assert!(refused(&[], 1.0).contains("one of each rank"));
}
