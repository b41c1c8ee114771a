//! What the benchmark asks of NCCL beyond what the library does, against the stand-in.

#[path = "../../../../tests/nccl/fake.rs"]
mod fake;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tileweave::nccl::{Call, Collective, Library};
use tileweave::{DType, Error};

use super::contests::Clique;
use super::serves_virtual_ranks;
use fake::Fake;

fn stand_in(name: &str, flags: &[&str]) -> Fake {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Fake::new(&root, &format!("bench-{name}"), flags)
}

fn open(fake: &Fake) -> tileweave::Result<Arc<Library>> {
    Library::open(fake.path.as_os_str())
}

#[test]
fn an_absent_or_older_library_serves_no_virtual_ranks() {
    let absent = Error::Unavailable {
        what: "NCCL".into(),
        reason: "gone".into(),
    };
    let reason = serves_virtual_ranks(Err(absent), Some("1")).expect_err("none");
    assert_eq!(reason, "NCCL is not available: gone");
    let fake = stand_in("old", &["-DVERSION=22907"]);
    let reason = serves_virtual_ranks(open(&fake), Some("1")).expect_err("too old");
    assert!(
        reason.contains("need NCCL 2.30 or later") && reason.ends_with("is 2.29.7"),
        "{reason}"
    );
}

#[test]
fn the_variable_has_to_be_set() {
    let fake = stand_in("variable", &[]);
    for (value, seen) in [(None, "it is not set"), (Some("0"), "it is \"0\"")] {
        let reason = serves_virtual_ranks(open(&fake), value).expect_err("not set");
        assert!(
            reason.contains("NCCL_MULTI_RANK_GPU_ENABLE=1") && reason.contains(seen),
            "{reason}"
        );
    }
    assert_eq!(
        serves_virtual_ranks(open(&fake), Some("1"))
            .expect("a library")
            .version(),
        "2.30.7"
    );
}

#[test]
fn ranks_call_in_one_group_on_as_many_ctas_as_the_smallest_has() {
    let fake = stand_in("clique", &[]);
    let ranks = tileweave::Node::sim(tileweave::driver::sim::SimConfig::new(2, 0))
        .and_then(|node| node.group(2, &tileweave::GroupConfig::default()))
        .expect("ranks");
    let sms = ranks[0]
        .node()
        .driver()
        .place_info(ranks[0].place())
        .expect("a place")
        .sms;
    let library = open(&fake).expect("a library");
    let clique = Clique::new(&library, &ranks, Duration::from_secs(20)).expect("communicators");
    let mut expected = format!("start;init 0/2 ctas {sms};init 1/2 ctas {sms};end;");
    assert_eq!(fake.notes(), expected);
    let call = |rank: u64| Call {
        collective: Collective::AllReduce,
        from: 0x1000 + rank,
        to: 0x2000 + rank,
        count: 64,
        dtype: DType::Bf16,
    };
    clique
        .launch([call(0), call(1)].into_iter())
        .expect("a healthy library");
    expected += "start;";
    for rank in &ranks {
        let (number, stream) = (rank.rank(), rank.stream().0);
        expected +=
            &format!("all_reduce rank {number} 100{number}>200{number} count 64 type 9 op 0 stream {stream:x};");
    }
    expected += "end;";
    assert_eq!(fake.notes(), expected);
    clique.wait().expect("streams that are empty");
}
