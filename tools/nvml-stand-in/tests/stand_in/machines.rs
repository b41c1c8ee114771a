//! Machines that tell everything: what is read is what is served.

use tileweave::topology::{Fabric, Mig, NvLinkPath, Remote, Status, Topology};

use super::run::{Reading, folder, snapshot};

/// What NVML alone can tell of a machine: nothing of multicast, and SMs of slices only.
fn by_nvml_alone(machine: &Topology) -> Topology {
    let mut alone = machine.clone();
    for gpu in &mut alone.gpus {
        gpu.multicast = Status::Unknown;
        if !matches!(gpu.mig, Mig::SliceOf(_)) {
            gpu.sms = None;
        }
    }
    alone
}

fn all(machine: &Topology) -> Vec<usize> {
    (0..machine.gpus.len()).collect()
}

#[test]
fn every_snapshot_comes_out_as_it_went_in() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let machine = Topology::load(&path).unwrap();
        assert_eq!(
            Reading::of(machine.clone()).topology(),
            by_nvml_alone(&machine),
            "{}",
            path.display()
        );
        // Where the fabric is not ready CUDA does not start.
        if !machine.gpus.iter().any(|gpu| gpu.fabric.unusable().is_some()) {
            let mut backwards = all(&machine);
            backwards.reverse();
            let told = Reading::of(machine.clone()).seen(&machine, &backwards).topology();
            assert_eq!(told, machine, "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 17, "{seen}");
}

#[test]
fn only_what_the_driver_sees_is_there() {
    // As CUDA_VISIBLE_DEVICES=5,2 has it.
    let machine = snapshot("dgx-h100");
    let told = Reading::of(machine.clone()).seen(&machine, &[5, 2]).topology();
    assert_eq!(told.gpus, [machine.gpus[2].clone(), machine.gpus[5].clone()]);
    assert_eq!(told.links.len(), 2);
    assert_eq!(told.links[0].nvlink, machine.link(2, 5).unwrap().nvlink);
    assert_eq!(told.links[0].ancestor, machine.link(2, 5).unwrap().ancestor);

    // Links to GPUs that are not visible are explained, once for each GPU.
    let machine = snapshot("hgx-a100-x4");
    let told = Reading::of(machine.clone()).seen(&machine, &[3, 0]).topology();
    let note = "at the end of NVLinks, but not usable here: 00000000:41:00.0, 00000000:81:00.0";
    assert_eq!(told.notes, [note]);
    assert_eq!(told.gpus[1].nvlinks, machine.gpus[3].nvlinks);
}

#[test]
fn slices_are_matched_behind_their_prefix_or_by_the_bus_id() {
    let machine = snapshot("mig-a100");
    let told = Reading::of(machine.clone()).seen(&machine, &[1]).topology();
    assert_eq!(told.gpus, [machine.gpus[1].clone()]);

    // Drivers before 470 wrote a slice's UUID as its GPU's and two numbers; one slice a GPU is still told by the bus id.
    let mut old = machine.clone();
    old.gpus.remove(1);
    old.links.retain(|link| link.from < 2 && link.to < 2);
    old.gpus[0].uuid = "MIG-GPU-5a8b1c3e-0d9c-5e55-9a7f-7f2d3f1f9b6a/1/0".into();
    let told = Reading::of(old.clone()).seen(&machine, &[0]).topology();
    assert_eq!(told.gpus[0].uuid, old.gpus[0].uuid);
    assert!(
        matches!(told.gpus[0].mig, Mig::SliceOf(_)) && told.notes.is_empty(),
        "{told:?}"
    );

    // Of two such slices nobody knows which is meant.
    let mut two = machine.clone();
    two.gpus[0].uuid = "MIG-GPU-5a8b1c3e-0d9c-5e55-9a7f-7f2d3f1f9b6a/1/0".into();
    two.gpus[1].uuid = "MIG-GPU-5a8b1c3e-0d9c-5e55-9a7f-7f2d3f1f9b6a/2/0".into();
    let told = Reading::of(two).seen(&machine, &[0]).topology();
    assert!(
        told.gpus[0].uuid.starts_with("GPU-") && told.notes[0].contains("does not list"),
        "{told:?}"
    );
}

#[test]
fn a_divided_gpu_without_slices_is_there_but_joined_to_nobody() {
    let mut machine = snapshot("dgx-a100");
    machine.gpus[3].mig = Mig::On;
    for link in machine.links.iter_mut().filter(|link| link.from == 3 || link.to == 3) {
        link.nvlink = None;
        (link.read, link.write, link.atomics) = (Status::No, Status::No, Status::No);
    }
    let told = Reading::of(machine.clone()).topology();
    assert_eq!(told, by_nvml_alone(&machine));
}

#[test]
fn switches_that_a_hypervisor_hides_still_join() {
    let machine = snapshot("dgx-h100");
    let mut hidden = machine.clone();
    for link in hidden.gpus.iter_mut().flat_map(|gpu| &mut gpu.nvlinks) {
        link.remote = Remote::Unknown;
    }
    let told = Reading::of(hidden.clone()).seen(&machine, &all(&machine)).topology();
    assert_eq!(told, hidden);
    // Where NVML does not say that they talk over NVLink either, nothing is made up.
    for link in &mut hidden.links {
        link.nvlink = None;
    }
    let told = Reading::of(hidden.clone()).topology();
    assert_eq!(told, by_nvml_alone(&hidden));
}

#[test]
fn a_fabric_that_is_not_ready_or_failed_carries_nothing() {
    let machine = snapshot("dgx-h100");
    let failed = Fabric::Completed {
        status: 999,
        cluster: "0".repeat(32),
        clique: 0,
    };
    for (fabric, why) in [
        (Fabric::NotStarted, "has not begun to initialise"),
        (Fabric::InProgress, "is still initialising"),
        (failed, "failed to initialise (NVML status 999)"),
    ] {
        let mut served = machine.clone();
        served.gpus[6].fabric = fabric.clone();
        // What the file says of paths is another matter: they are worked out.
        served
            .links
            .iter_mut()
            .filter(|link| link.from == 6 || link.to == 6)
            .for_each(|link| link.nvlink = None);
        let told = Reading::of(served).topology();
        assert_eq!(told.gpus[6].fabric, fabric);
        assert_eq!(
            told.notes,
            [format!("no NVLink paths, as the fabric {why}: 00000000:d1:00.0")]
        );
        for link in &told.links {
            assert_eq!(link.nvlink.is_none(), link.from == 6 || link.to == 6);
            assert_eq!(link.read, Status::Yes);
        }
    }
}

#[test]
fn cliques_do_not_reach_each_other() {
    let mut served = snapshot("gb200-nvl72-tray");
    for gpu in [2, 3] {
        let Fabric::Completed { clique, .. } = &mut served.gpus[gpu].fabric else {
            panic!()
        };
        *clique = 7;
    }
    for link in served.links.iter_mut().filter(|link| (link.from < 2) != (link.to < 2)) {
        link.nvlink = None;
    }
    let told = Reading::of(served.clone()).topology();
    assert_eq!(told.links, served.links);
    assert_eq!(told.notes.len(), 4, "{:?}", told.notes);
    let note = "no NVLink path to 00000018:01:00.0, which is in another clique: 00000008:01:00.0, 00000009:01:00.0";
    assert_eq!(told.notes[0], note);
}

#[test]
fn a_link_that_is_up_at_one_end_only_counts_for_none() {
    let machine = snapshot("hgx-a100-x4");
    let mut served = machine.clone();
    served.gpus[1].nvlinks[2].active = false;
    let lanes = |path: &mut NvLinkPath, lanes| {
        path.lanes = lanes;
        path.gb_per_s = f64::from(lanes) * 25.0;
    };
    for index in [0, 3] {
        lanes(served.links[index].nvlink.as_mut().unwrap(), 3);
    }
    // Only so that it can be saved: the end that is down is at the other GPU.
    let mut valid = served.clone();
    valid.gpus[0].nvlinks[3].active = false;
    valid.gpus[0].nvlinks[3].remote = Remote::Unknown;
    valid.gpus[1].nvlinks[2].remote = Remote::Unknown;
    valid.check().unwrap();

    let told = Reading::of(served).topology();
    assert_eq!(told.links, valid.links);
    assert_eq!(told.gpus[0].nvlinks, valid.gpus[0].nvlinks);
    let note = "NVLinks that 00000000:41:00.0 does not have at its end, taken for inactive: 00000000:01:00.0";
    assert_eq!(told.notes, [note]);
}

#[test]
fn the_driver_grants_peer_access_whatever_nvml_says() {
    let machine = snapshot("l40s-x4");
    let mut refusing = machine.clone();
    refusing.links[0].write = Status::No;
    let told = Reading::of(machine.clone()).seen(&refusing, &all(&machine)).topology();
    assert_eq!((told.links[0].read, told.links[0].write), (Status::No, Status::No));
    assert_eq!(told.links[3].read, Status::Yes);
    let note = "NVML and the driver differ on peer access to 00000000:38:00.0: the driver, which grants it, is taken at its word: 00000000:16:00.0";
    assert_eq!(told.notes, [note]);

    let off = snapshot("l40s-x4-p2p-off");
    let told = Reading::of(off.clone()).seen(&machine, &all(&machine)).topology();
    assert!(
        told.links
            .iter()
            .all(|link| link.read == Status::Yes && link.atomics == Status::No)
    );
    // NVML's reason for a no stays.
    let told = Reading::of(off.clone()).seen(&off, &all(&off)).topology();
    assert!(told.links.iter().all(|link| link.read == Status::Disabled));
    // And its silence is none before the driver has spoken.
    let mut silent = machine.clone();
    silent
        .links
        .iter_mut()
        .for_each(|link| (link.read, link.write) = (Status::Unknown, Status::Unknown));
    assert_eq!(Reading::of(silent.clone()).topology().links, silent.links);
    assert_eq!(Reading::of(silent).seen(&machine, &all(&machine)).topology(), machine);
}
