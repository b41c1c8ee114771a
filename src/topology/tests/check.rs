use super::super::*;
use super::{machine, said};

#[test]
fn gpus_are_told_apart() {
    let message = said("dgx-h100", |t| t.gpus[3].uuid = t.gpus[1].uuid.clone());
    assert!(
        message.starts_with("gpus[3].uuid is GPU-") && message.ends_with("another than gpus[1].uuid"),
        "{message}"
    );
    let message = said("dgx-h100", |t| t.gpus[0].uuid.clear());
    assert!(message.starts_with("gpus[0].uuid is empty"), "{message}");
    let message = said("dgx-h100", |t| t.gpus[1].pci = t.gpus[0].pci.clone());
    assert!(message.starts_with("gpus[1].pci is 00000000:1b:00.0"), "{message}");
    for pci in ["0000:1b:00.0", "00000000:1B:00.0", "", "00000000-1b:00.0"] {
        let message = said("dgx-h100", |t| t.gpus[0].pci = pci.into());
        assert!(
            message.starts_with(&format!("gpus[0].pci is {pci}: expected the form")),
            "{message}"
        );
    }
    let message = said("dgx-h100", |t| t.gpus.swap(2, 5));
    assert!(
        message.starts_with("gpus[3].pci is 00000000:61:00.0: expected one after gpus[2].pci"),
        "{message}"
    );
}

#[test]
fn a_slice_reaches_nobody() {
    let message = said("mig-a100", |t| t.gpus[0].nvlinks = t.gpus[2].nvlinks.clone());
    assert_eq!(
        message,
        "gpus[0].nvlinks is 12 links: expected none, as a MIG slice has no NVLink"
    );
    let message = said("mig-a100", |t| {
        t.gpus[2].uuid = {
            let Mig::SliceOf(parent) = &t.gpus[0].mig else { panic!() };
            parent.clone()
        }
    });
    assert!(
        message.starts_with("gpus[0].mig.slice_of is GPU-") && message.ends_with("it is gpus[2]"),
        "{message}"
    );
    let message = said("mig-a100", |t| t.gpus[0].mig = Mig::SliceOf(String::new()));
    assert!(message.starts_with("gpus[0].mig.slice_of is empty"), "{message}");
    // Slices share a bus id with each other, and with nobody else.
    let message = said("mig-a100", |t| t.gpus[1].mig = Mig::SliceOf("GPU-another".into()));
    assert!(message.starts_with("gpus[1].pci is 00000000:07:00.0"), "{message}");
    let message = said("dgx-a100", |t| t.gpus[0].mig = Mig::On);
    assert_eq!(
        message,
        "links[0].nvlink is there: expected null, as gpus[0].mig is not off"
    );
}

#[test]
fn nvlinks_end_somewhere() {
    let message = said("hgx-a100-x4", |t| t.gpus[1].nvlinks[4].link = 2);
    assert_eq!(
        message,
        "gpus[1].nvlinks[4].link is 2: expected more than 3, the one before"
    );
    let gone = "00000000:99:00.0";
    let elsewhere = |t: &mut Topology| {
        for gpu in [0, 1] {
            t.gpus[gpu].nvlinks[0].remote = Remote::Gpu(gone.into());
        }
        for path in [0, 3] {
            t.links[path].nvlink.as_mut().unwrap().lanes = 3;
        }
    };
    let message = said("hgx-a100-x4", elsewhere);
    assert_eq!(
        message,
        format!(
            "gpus[0].nvlinks[0].remote.gpu is {gone}: expected the pci of one of gpus, or one that a note explains"
        )
    );
    let mut explained = machine("hgx-a100-x4");
    elsewhere(&mut explained);
    explained.notes.push(format!("{gone} is not visible here"));
    explained.check().unwrap();

    let message = said("hgx-a100-x4", |t| t.gpus[0].nvlinks[0].active = false);
    assert_eq!(
        message,
        "gpus[0].nvlinks[0].remote.gpu is 00000000:41:00.0, at the end of 3 active links: expected 4, as gpus[1].nvlinks has back"
    );
    let message = said("hgx-a100-x4", |t| {
        t.gpus[0].nvlinks[0].remote = Remote::Gpu(t.gpus[0].pci.clone())
    });
    assert!(
        message.starts_with("gpus[0].nvlinks[0].remote.gpu is 00000000:01:00.0: expected another"),
        "{message}"
    );
    let message = said("hgx-a100-x4", |t| t.gpus[2].nvlinks[7].version = Some(0));
    assert!(message.starts_with("gpus[2].nvlinks[7].version is 0"), "{message}");
}

#[test]
fn every_ordered_pair_stands_once() {
    let message = said("l40s-x4", |t| t.links[5].to = 9);
    assert_eq!(message, "links[5].to is 9: expected an index of gpus, below 4");
    let message = said("no-gpu", |t| t.links = vec![machine("l40s-x4").links[0].clone()]);
    assert_eq!(message, "links[0].from is 0: expected an index of gpus, below 0");
    let message = said("l40s-x4", |t| t.links.truncate(11));
    assert!(
        message.starts_with("links is 11 long") && message.ends_with("next from 3 to 2"),
        "{message}"
    );
    let message = said("l40s-x4", |t| t.links.swap(0, 1));
    assert!(
        message.starts_with("links[0] is from 0 to 2: expected from 0 to 1"),
        "{message}"
    );
    let message = said("l40s-x4", |t| t.links.push(t.links[11].clone()));
    assert!(
        message.starts_with("links[12] is from 3 to 2: expected no more than 12 links"),
        "{message}"
    );
    let message = said("l40s-x4", |t| t.links[0].to = 0);
    assert!(
        message.starts_with("links[0] is from 0 to 0: expected from 0 to 1"),
        "{message}"
    );
}

#[test]
fn a_path_is_the_same_both_ways() {
    let path = |t: &mut Topology, change: fn(&mut NvLinkPath)| change(t.links[3].nvlink.as_mut().unwrap());
    let message = said("hgx-a100-x4", |t| path(t, |path| path.lanes = 3));
    assert_eq!(message, "links[0].nvlink.lanes is 4: expected 3, as from 1 to 0");
    let message = said("hgx-a100-x4", |t| path(t, |path| path.gb_per_s = 99.0));
    assert_eq!(message, "links[0].nvlink.gb_per_s is 100: expected 99, as from 1 to 0");
    let message = said("hgx-a100-x4", |t| path(t, |path| path.version = 4));
    assert_eq!(message, "links[0].nvlink.version is 3: expected 4, as from 1 to 0");
    let message = said("hgx-a100-x4", |t| path(t, |path| path.switched = true));
    assert_eq!(
        message,
        "links[0].nvlink.switched is false: expected true, as from 1 to 0"
    );
    let message = said("hgx-a100-x4", |t| t.links[3].nvlink = None);
    assert_eq!(message, "links[0].nvlink is there: expected null, as from 1 to 0");
    let message = said("hgx-a100-x4", |t| t.links[0].nvlink = None);
    assert_eq!(message, "links[0].nvlink is null: expected a path, as from 1 to 0");
    let message = said("l40s-x4", |t| t.links[0].ancestor = Ancestor::HostBridge);
    assert_eq!(
        message,
        "links[0].ancestor is HostBridge: expected Node, as from 1 to 0"
    );
    // Claims may differ.
    let mut topology = machine("l40s-x4");
    topology.links[0].read = Status::No;
    topology.check().unwrap();
}

#[test]
fn a_path_has_links_that_carry_it() {
    let both = |t: &mut Topology, change: &dyn Fn(&mut Option<NvLinkPath>)| {
        for index in [0, t.gpus.len() - 1] {
            change(&mut t.links[index].nvlink);
        }
    };
    let lanes = |lanes| move |path: &mut Option<NvLinkPath>| path.as_mut().unwrap().lanes = lanes;
    let message = said("hgx-a100-x4", |t| both(t, &lanes(5)));
    let expected = "expected 1 to 4, the active links of gpus[0].nvlinks that lead there";
    assert_eq!(message, format!("links[0].nvlink.lanes is 5: {expected}"));
    let message = said("dgx-h100", |t| both(t, &lanes(0)));
    assert!(
        message.starts_with("links[0].nvlink.lanes is 0: expected 1 to 18"),
        "{message}"
    );
    let message = said("dgx-h100", |t| t.gpus[1].nvlinks[0].active = false);
    assert!(
        message.starts_with("links[0].nvlink.lanes is 18: expected 1 to 17, the active links of gpus[1]"),
        "{message}"
    );
    let path = machine("dgx-h100").links[0].nvlink;
    let message = said("l40s-x4", |t| both(t, &|there| *there = path));
    assert!(
        message.starts_with("links[0].nvlink.lanes is 18: expected no path"),
        "{message}"
    );
    for rate in [0.0, -1.0, f64::INFINITY] {
        let message = said("dgx-h100", |t| both(t, &|path| path.as_mut().unwrap().gb_per_s = rate));
        assert!(message.starts_with("links[0].nvlink.gb_per_s is"), "{message}");
    }
    let message = said("dgx-h100", |t| both(t, &|path| path.as_mut().unwrap().version = 0));
    assert!(message.starts_with("links[0].nvlink.version is 0"), "{message}");
}

#[test]
fn a_path_through_switches_needs_their_fabric() {
    let completed = |status, clique, cluster: &str| Fabric::Completed {
        status,
        cluster: cluster.into(),
        clique,
    };
    let zeros = "0".repeat(32);
    let message = said("dgx-h100", |t| t.gpus[1].fabric = Fabric::InProgress);
    assert_eq!(
        message,
        "links[0].nvlink is there: expected null, as the fabric of gpus[1] is still initialising"
    );
    let message = said("dgx-h100", |t| t.gpus[1].fabric = completed(9, 0, &zeros));
    assert!(
        message.ends_with("the fabric of gpus[1] failed to initialise (NVML status 9)"),
        "{message}"
    );
    let message = said("dgx-h100", |t| t.gpus[1].fabric = completed(0, 1, &zeros));
    assert!(
        message.ends_with("null, as gpus[0] and gpus[1] are in different cliques"),
        "{message}"
    );
    let message = said("dgx-h100", |t| t.gpus[1].fabric = completed(0, 0, "0A"));
    assert!(
        message.starts_with("gpus[1].fabric.completed.cluster is 0A: expected 32 hexadecimal"),
        "{message}"
    );
    // Without a word about it nothing is known against it.
    let mut topology = machine("dgx-h100");
    topology.gpus[1].fabric = Fabric::Unknown;
    topology.check().unwrap();
    // Links without a switch need no fabric.
    let mut topology = machine("hgx-a100-x4");
    topology.gpus[1].fabric = Fabric::NotStarted;
    topology.check().unwrap();
}

#[test]
fn a_pair_is_found_by_its_ends() {
    let topology = machine("dgx-1-v100");
    for from in 0..8 {
        for to in 0..8 {
            let link = topology.link(from, to);
            assert_eq!(
                link.map(|link| (link.from, link.to)),
                (from != to).then_some((from, to))
            );
        }
    }
    assert_eq!(topology.link(8, 0), None);
    assert_eq!(topology.link(0, 8), None);
}
