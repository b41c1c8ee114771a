//! Two nodes of one process, each with a rank.

use std::thread::sleep;

use super::*;
use crate::driver::Place;
use crate::driver::sim::SimConfig;
use crate::group::{GroupConfig, Id, Node, Rank};

const LONG: Duration = Duration::from_secs(60);

fn joined(name: &str) -> [Rank; 2] {
    let id = Id::of(format!("{name} {}", std::process::id()));
    let config = GroupConfig::default().heap_bytes(4 << 20).joining(LONG);
    let one = |rank: usize| {
        let node = Node::sim(SimConfig::new(2, rank as u64)).expect("a node");
        let place = Place {
            device: rank,
            share: 0,
            shares: 1,
        };
        let stream = node.driver().stream_create(place).expect("a stream");
        // SAFETY: nobody ends the stream, and the group holds its node.
        unsafe { Rank::join(&node, stream, rank, 2, &id, &config) }.expect("a group")
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| one(1));
        [one(0), other.join().expect("no panic")]
    })
}

/// The thread that listens holds the group while it hears something, and may be held up there for any time.
#[test]
fn the_last_handle_says_farewell_whoever_else_holds_the_group() {
    for closes in [false, true] {
        let [zero, one] = joined(if closes { "closed" } else { "dropped" });
        let buffer = one.alloc(16).expect("memory");
        let listens = one.group.group().clone();
        let heard = || zero.group.peers.as_ref().expect("a peer").mesh.gone(1);
        if closes {
            drop(buffer);
            one.close(LONG).expect("no work");
        } else {
            drop(one);
            assert_eq!(heard(), None, "a buffer is a handle, too");
            drop(buffer);
        }
        let begin = Instant::now();
        while heard().is_none() && begin.elapsed() < LONG {
            sleep(Duration::from_millis(1));
        }
        assert_eq!(heard(), Some(Some(0)), "no farewell while somebody holds the group");
        // Its sockets close here, as they do at the end of a process.
        drop(listens);
        zero.health().expect("it went in good order");
    }
}
