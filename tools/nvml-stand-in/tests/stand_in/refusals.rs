//! Libraries that tell less: each fact that is missing is a note, and nothing more happens.

use tileweave::topology::{Fabric, Remote, Source, Status, Topology};

use super::run::{Reading, Scratch, library_without, snapshot};

/// Every call that tileweave makes but `nvmlInit_v2`, with what it costs not to have it.
const CALLS: [&str; 24] = [
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetHandleByPciBusId_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetMemoryAffinity",
    "nvmlDeviceGetGpuFabricInfo",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetP2PStatus",
    "nvmlDeviceGetTopologyCommonAncestor",
];

/// What is missing without an error of its own: it is asked for in another way, or what it would tell of is none.
const QUIET: [&str; 8] = [
    "nvmlShutdown",
    "nvmlDeviceGetHandleByPciBusId_v2",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetGpuFabricInfo",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetGpuFabricInfoV",
];

fn all(machine: &Topology) -> Vec<usize> {
    (0..machine.gpus.len()).collect()
}

/// With a driver there is always a topology: of the driver's GPUs, with its word on them.
fn usable(told: &Topology, machine: &Topology) {
    let pci = |topology: &Topology| topology.gpus.iter().map(|gpu| gpu.pci.clone()).collect::<Vec<_>>();
    assert_eq!(pci(told), pci(machine));
    for (link, truth) in told.links.iter().zip(&machine.links) {
        assert_eq!(
            (link.from, link.to, link.read == Status::Yes),
            (truth.from, truth.to, truth.read == Status::Yes)
        );
    }
    for (gpu, truth) in told.gpus.iter().zip(&machine.gpus) {
        assert_eq!((gpu.sms, gpu.multicast), (truth.sms, truth.multicast));
        assert_eq!((&gpu.name, gpu.memory_bytes), (&truth.name, truth.memory_bytes));
        assert_eq!(gpu.compute_capability, truth.compute_capability);
    }
}

#[test]
fn no_library_leaves_the_driver_alone() {
    let machine = snapshot("dgx-h100");
    let nowhere = Scratch::new("nowhere/libnvidia-ml.so");
    let error = Reading::of(machine.clone()).library(&nowhere).result().unwrap_err();
    assert!(
        error.starts_with("NVML is not available: TILEWEAVE_NVML is ") && error.contains("nowhere"),
        "{error}"
    );

    let told = Reading::of(machine.clone())
        .library(&nowhere)
        .seen(&machine, &[1, 0])
        .topology();
    assert_eq!(told.source, Source::Driver);
    assert_eq!(told.driver, "the driver's own version");
    assert!(
        told.notes.len() == 1 && told.notes[0].contains("NVML is not available"),
        "{:?}",
        told.notes
    );
    assert_eq!(told.gpus[0].uuid, machine.gpus[0].uuid);
    assert_eq!(
        (told.gpus[0].sms, told.gpus[0].multicast, told.gpus[0].fabric.clone()),
        (Some(132), Status::Yes, Fabric::Unknown)
    );
    assert!(
        told.links
            .iter()
            .all(|link| link.nvlink.is_none() && link.read == Status::Yes)
    );
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let path = Scratch::new("text.so");
    std::fs::write(&*path, "not ELF").unwrap();
    let error = Reading::of(snapshot("no-gpu")).library(&path).result().unwrap_err();
    assert!(error.contains("text.so"), "{error}");
}

#[test]
fn no_driver_is_an_error_of_nvml_alone() {
    let machine = snapshot("rtx-3090-x2");
    let reading = || Reading::of(machine.clone()).with("TILEWEAVE_STAND_IN_INIT", "9");
    let error = reading().result().unwrap_err();
    assert!(error.contains("driver is not loaded"), "{error}");
    let told = reading().seen(&machine, &all(&machine)).topology();
    assert_eq!(told.source, Source::Driver);
    usable(&told, &machine);
}

#[test]
fn without_the_calls_that_every_library_has_there_is_none() {
    let machine = snapshot("mig-a100");
    for symbol in ["nvmlInit_v2", "nvmlShutdown", "nvmlDeviceGetCount_v2"] {
        let library = library_without(&[symbol]);
        let error = Reading::of(machine.clone()).library(&library).result().unwrap_err();
        assert!(error.contains("too old"), "{symbol}: {error}");
        let told = Reading::of(machine.clone())
            .library(&library)
            .seen(&machine, &all(&machine))
            .topology();
        assert_eq!(told.source, Source::Driver);
    }
}

#[test]
fn each_symbol_may_be_missing() {
    for name in ["dgx-h100", "dgx-1-v100"] {
        let machine = snapshot(name);
        for symbol in CALLS {
            let library = library_without(&[symbol]);
            let told = Reading::of(machine.clone())
                .library(&library)
                .seen(&machine, &all(&machine))
                .topology();
            usable(&told, &machine);
            if symbol == "nvmlDeviceGetMemoryInfo_v2" || symbol == "nvmlDeviceGetGpuFabricInfoV" {
                // Drivers before 510 and 535; the older call tells the same.
                assert_eq!(told, machine, "{symbol}");
            }
            let slices = symbol.contains("Mig") || symbol.contains("Attributes");
            let noted = told
                .notes
                .iter()
                .any(|note| note.contains(symbol) || note.contains("too old"));
            assert!(noted || slices || QUIET.contains(&symbol), "{symbol}: {:?}", told.notes);
        }
    }
}

#[test]
fn each_call_may_be_refused() {
    for name in ["dgx-h100", "hgx-a100-x4", "mig-a100"] {
        let machine = snapshot(name);
        for call in CALLS {
            let told = Reading::of(machine.clone())
                .with("TILEWEAVE_STAND_IN_REFUSES", call)
                .seen(&machine, &all(&machine))
                .result()
                .unwrap_or_else(|e| panic!("{call}: {e}"));
            assert_eq!(told.gpus.len(), machine.gpus.len(), "{call}: {:?}", told.notes);
        }
        let everything = CALLS.join(",");
        let told = Reading::of(machine.clone())
            .with("TILEWEAVE_STAND_IN_REFUSES", &everything)
            .seen(&machine, &all(&machine))
            .topology();
        assert_eq!(told.source, Source::Driver);
    }
}

#[test]
fn silence_is_never_a_no() {
    let machine = snapshot("dgx-h100");
    let told = Reading::of(machine.clone())
        .with("TILEWEAVE_STAND_IN_REFUSES", "nvmlDeviceGetP2PStatus")
        .topology();
    for link in &told.links {
        assert_eq!(
            (link.read, link.write, link.atomics),
            (Status::Unknown, Status::Unknown, Status::Unknown)
        );
        // The links lead to switches all the same.
        assert_eq!(link.nvlink.unwrap().lanes, 18);
    }
    assert_eq!(told.notes.len(), 1);
    assert!(
        told.notes[0].starts_with("NVML: nvmlDeviceGetP2PStatus: "),
        "{:?}",
        told.notes
    );
    assert!(told.notes[0].ends_with(
        "00000000:1b:00.0, 00000000:43:00.0, 00000000:52:00.0, 00000000:61:00.0, \
        00000000:9d:00.0, 00000000:c3:00.0, 00000000:d1:00.0, 00000000:df:00.0"
    ));
}

#[test]
fn an_old_library_is_asked_in_its_own_way() {
    // The fabric: the struct's second version, then the call without one, then nothing.
    let machine = snapshot("gb200-nvl72-tray");
    for version in ["2", "1"] {
        let told = Reading::of(machine.clone())
            .with("TILEWEAVE_STAND_IN_FABRIC", version)
            .topology();
        assert_eq!(told.gpus[3].fabric, machine.gpus[3].fabric, "{version}");
    }
    let library = library_without(&["nvmlDeviceGetGpuFabricInfo", "nvmlDeviceGetGpuFabricInfoV"]);
    let told = Reading::of(machine.clone()).library(&library).topology();
    assert!(told.gpus.iter().all(|gpu| gpu.fabric == Fabric::Unknown));
    assert_eq!(told.notes.len(), 1, "{:?}", told.notes);
    assert_eq!(told.links, machine.links);

    // The kind of a link's end: a bus id that is a GPU's is enough.
    let library = library_without(&["nvmlDeviceGetNvLinkRemoteDeviceType"]);
    let mesh = snapshot("dgx-1-v100");
    let told = Reading::of(mesh.clone()).library(&library).topology();
    assert_eq!(told.links, mesh.links);
    assert_eq!(told.gpus[5].nvlinks, mesh.gpus[5].nvlinks);
    let told = Reading::of(machine.clone()).library(&library).topology();
    assert!(told.gpus[0].nvlinks.iter().all(|link| link.remote == Remote::Unknown));
    assert_eq!(told.links, machine.links);
}

#[test]
fn a_gpu_that_fell_off_the_bus_is_left_to_the_driver() {
    let machine = snapshot("dgx-h100");
    let told = Reading::of(machine.clone())
        .with("TILEWEAVE_STAND_IN_LOST", "4")
        .topology();
    assert_eq!(told.gpus.len(), 7);
    assert!(
        told.notes.len() == 1 && told.notes[0].ends_with(": GPU 4"),
        "{:?}",
        told.notes
    );
    let told = Reading::of(machine.clone())
        .with("TILEWEAVE_STAND_IN_LOST", "4")
        .seen(&machine, &all(&machine))
        .topology();
    usable(&told, &machine);
    assert_eq!(told.gpus[4].fabric, Fabric::Unknown);
    assert_eq!(told.link(4, 5).unwrap().nvlink, None);
    assert_eq!(told.link(3, 5), machine.link(3, 5));
    assert!(told.notes[1].ends_with("00000000:9d:00.0"), "{:?}", told.notes);
}

#[test]
fn a_library_that_contradicts_itself_is_not_believed() {
    let machine = snapshot("dgx-h100");
    let mut served = machine.clone();
    served.gpus[1].uuid = served.gpus[0].uuid.clone();
    let error = Reading::of(served.clone()).result().unwrap_err();
    assert!(error.contains("it contradicts itself: gpus[1].uuid is GPU-"), "{error}");
    // The second is matched by its bus id, and what NVML says of all of them is dropped.
    let told = Reading::of(served).seen(&machine, &all(&machine)).topology();
    usable(&told, &machine);
    assert_eq!(told.source, Source::Driver);
    assert!(
        told.notes.len() == 1 && told.notes[0].contains("contradicts itself"),
        "{:?}",
        told.notes
    );
}
