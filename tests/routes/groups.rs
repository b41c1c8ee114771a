//! Groups over a simulated node's links as they are, not as it says.

use tileweave::driver::sim::{LinkState, SimConfig, SimLink};
use tileweave::{DType, Error, GroupConfig, Node, Op, OpSpec, Operands, Path, Probing, Rank, Want};

fn group(state: Option<LinkState>, probing: Probing) -> Vec<Rank> {
    let mut config = SimConfig::new(3, 0);
    config
        .links
        .extend(state.map(|state| SimLink { from: 1, to: 2, state }));
    let node = Node::sim(config).unwrap();
    node.group(3, &GroupConfig::default().heap_bytes(8 << 20).probing(probing))
        .unwrap()
}

fn spec() -> OpSpec {
    OpSpec::new(Op::GemmAllReduce, 256, 64, 1000, DType::Bf16).whole(192)
}

/// Every rank's plan, which all have the same routes.
fn route(ranks: &[Rank]) -> (Path, String) {
    let routes = ranks[0].plan(&spec()).unwrap().routes();
    for rank in ranks {
        assert_eq!(rank.plan(&spec()).unwrap().routes(), routes);
    }
    assert_eq!((routes[0].0.start, routes.last().unwrap().0.end), (0, 1001));
    assert!(routes.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));
    (routes[0].1.path, routes[0].1.reason.clone())
}

#[test]
fn a_sound_node_is_fused_over_tried_links() {
    let (path, reason) = route(&group(None, Probing::Always));
    assert_eq!(path, Path::Fused);
    assert!(!reason.contains("not tried"), "{reason}");
    let (_, reason) = route(&group(None, Probing::Never));
    assert!(reason.ends_with("links not tried"), "{reason}");
    // Slow is not wrong: it is used, and named.
    let (path, reason) = route(&group(Some(LinkState::Slow(8)), Probing::Always));
    assert_eq!(path, Path::Fused);
    assert!(reason.contains("GPU 1 to GPU 2 is slow"), "{reason}");
}

#[test]
fn bad_links_decline_by_name() {
    for (state, probing, said) in [
        (LinkState::Absent, Probing::Never, "by the driver's word"),
        (LinkState::Absent, Probing::Always, ""),
        (LinkState::ClaimedOnly, Probing::Always, ""),
        (LinkState::Corrupting, Probing::Always, "stores"),
    ] {
        let ranks = group(Some(state), probing);
        let (path, reason) = route(&ranks);
        assert_eq!(path, Path::Decline, "{state:?}: {reason}");
        assert!(
            reason.starts_with("GPU 1 (GPU-") && reason.contains(") to GPU 2 (GPU-"),
            "{state:?}: {reason}"
        );
        assert!(reason.contains(said), "{state:?}: {reason}");
        // What was asked for is refused, and nothing is launched.
        let Err(Error::RouteUnavailable { path, reason: why }) =
            ranks[0].plan(&spec().route(Want::Exactly(Path::Fused)))
        else {
            panic!("{state:?}")
        };
        assert_eq!((path, why), (Path::Fused, reason));
        let plan = ranks[0].plan(&OpSpec::new(Op::AllReduce, 8, 0, 8, DType::F32)).unwrap();
        let mut y = ranks[0].alloc(256).unwrap();
        let launched = plan.launch(&Operands::in_place(8, y.mat_mut(8, 8, DType::F32).unwrap()));
        assert!(
            matches!(
                launched,
                Err(Error::RouteUnavailable {
                    path: Path::Decline,
                    ..
                })
            ),
            "{launched:?}"
        );
    }
}
