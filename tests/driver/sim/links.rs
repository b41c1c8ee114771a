//! Links of a node that are not as they should be: what cannot be mapped, what comes changed, and what comes late.

use tileweave::driver::sim::{LinkState, SimConfig, SimLink, SimNode};
use tileweave::driver::{DevicePtr, Driver, PeerClaim};

use crate::support::{Bench, HEAP, STAGING, place};

fn config(gpus: usize, seed: u64, links: &[(usize, usize, LinkState)]) -> SimConfig {
    SimConfig {
        links: links
            .iter()
            .map(|&(from, to, state)| SimLink { from, to, state })
            .collect(),
        ..SimConfig::new(gpus, seed)
    }
}

#[test]
fn what_is_not_joined_cannot_be_mapped_whatever_is_claimed() {
    let links = [(0, 1, LinkState::Absent), (1, 2, LinkState::ClaimedOnly)];
    let node = SimNode::new(config(3, 0, &links)).unwrap();
    let claims = |from, to| {
        let PeerClaim { access, atomics } = node.peer_claim(from, to).unwrap();
        assert_eq!(access, atomics);
        access
    };
    assert_eq!(
        [claims(0, 1), claims(1, 0), claims(1, 2), claims(2, 1)],
        [false, true, true, true]
    );
    let map = |owner: usize, accessors: &[usize]| {
        let memory = node.physical_create(place(owner), HEAP).unwrap();
        let places: Vec<_> = accessors.iter().map(|device| place(*device)).collect();
        node.physical_map(memory, HEAP, &places)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let refused = |from, to, why: &str| {
        let what = format!("the memory of device {to} for device {from} is not available");
        Err(format!("{what}: there is no link between the two{why}"))
    };
    assert_eq!(map(1, &[1, 2, 0]), refused(0, 1, ""));
    assert_eq!(map(2, &[1]), refused(1, 2, ", whatever the node claims"));
    assert_eq!(map(0, &[0, 1, 2]), Ok(()), "the other direction is another link");
    assert_eq!(map(1, &[1, 2]), Ok(()));
}

#[test]
fn links_that_cannot_be_are_named() {
    let error = |link| SimNode::new(config(2, 0, &[link])).unwrap_err().to_string();
    for link in [
        (0, 2, LinkState::Absent),
        (1, 1, LinkState::Corrupting),
        (0, 1, LinkState::Slow(0)),
    ] {
        let text = error(link);
        assert!(
            text.starts_with("links is SimLink") && text.contains("two different devices below 2"),
            "{text}"
        );
    }
}

/// Whether `bytes` arrive as they are from `src` to `dst` by the copy engine of `device`.
fn copied(bench: &Bench, device: usize, dst: DevicePtr, src: DevicePtr) -> bool {
    let bytes: Vec<u8> = (0..5000).map(|i| (i * 31 + i / 256) as u8).collect();
    let stream = bench.streams[device];
    bench.node.poke(src, &bytes).unwrap();
    bench.node.copy_device(dst + 3, src, bytes.len(), stream).unwrap();
    bench.node.stream_synchronize(stream).unwrap();
    let mut back = vec![0; bytes.len()];
    bench.node.peek(&mut back, dst + 3).unwrap();
    back == bytes
}

#[test]
fn the_copy_engine_copies_over_links_as_they_are() {
    let bench = Bench::new(config(3, 7, &[(0, 1, LinkState::Corrupting)]));
    let [a, b, c] = [0, 1, 2].map(|device: usize| bench.heaps[device] + STAGING);
    assert!(!copied(&bench, 0, b, a), "to the other's memory");
    assert!(!copied(&bench, 0, a, b), "and from it");
    assert!(
        copied(&bench, 1, b, a) && copied(&bench, 1, a, b),
        "by the other's engine"
    );
    assert!(copied(&bench, 2, b, a) && copied(&bench, 0, c, a) && copied(&bench, 0, a, a + 16384));
}

#[test]
fn copies_of_what_is_not_there_or_not_mapped_are_refused() {
    let bench = Bench::new(config(2, 7, &[]));
    let (stream, own) = (bench.streams[0], bench.heaps[0]);
    let error = |dst, src, bytes| bench.node.copy_device(dst, src, bytes, stream).unwrap_err().to_string();
    let private = bench.alloc(1, 4096);
    assert!(error(private, own, 16).contains("dst is") && error(own, private, 16).contains("src is"));
    assert!(error(own, private, 16).ends_with("memory of device 1: expected memory that is mapped for device 0"));
    assert!(error(own, own + HEAP as u64 - 8, 16).contains("16 bytes inside one allocation"));
}

#[test]
fn data_changes_on_the_way_and_words_do_not() {
    for seed in 0..12 {
        // Each rank hears from the one before it.
        let sound = Bench::new(config(3, seed, &[(0, 1, LinkState::Slow(1))]));
        let bench = Bench::new(config(3, seed, &[(0, 1, LinkState::Corrupting)]));
        let (right, found) = (bench.expected_messages(4096, 5), bench.messages(4096, 5).unwrap());
        assert_ne!(found[1], right[1], "seed {seed}");
        assert_eq!([&found[0], &found[2]], [&right[0], &right[2]], "seed {seed}");
        assert_eq!(sound.messages(4096, 5).unwrap(), right);
        let digest = |bench: &Bench| bench.node.schedule_digest().unwrap();
        assert_eq!(digest(&bench), digest(&sound), "changed bytes change no schedule");
    }
}

#[test]
fn what_crosses_a_slow_link_takes_its_time() {
    let time = |links: &[(usize, usize, LinkState)]| {
        let bench = Bench::new(config(3, 3, links));
        assert_eq!(bench.messages(4096, 5).unwrap(), bench.expected_messages(4096, 5));
        bench.node.simulated_time_ns().unwrap()
    };
    let (none, normal) = (time(&[]), time(&[(0, 1, LinkState::Slow(1))]));
    let (ten, hundred) = (
        time(&[(0, 1, LinkState::Slow(10))]),
        time(&[(0, 1, LinkState::Slow(100))]),
    );
    assert!(
        none < normal && normal < ten && ten < hundred,
        "{none} {normal} {ten} {hundred}"
    );
    // The same accesses, ten times as long each; a little less for what is not on the link.
    assert!(hundred - normal > 10 * (ten - normal), "{normal} {ten} {hundred}");
    let credits = time(&[(1, 0, LinkState::Slow(100))]) - normal;
    assert!(
        credits < (hundred - normal) / 100,
        "the other way go five words: {credits}"
    );
}
