//! What runs in a process of its own.

use tileweave::driver::Driver;
use tileweave::topology::{Topology, read, read_nvml};

use super::driver::SnapshotDriver;

/// Names the file for the answer.
pub const TOLD: &str = "STAND_IN_TOLD";
/// The machine that the driver sees, in the order of its ordinals; without it NVML is asked alone.
pub const DRIVER: &str = "STAND_IN_DRIVER";

#[test]
#[ignore = "started by the others with the stand-in in the environment"]
fn reads() {
    let result = match std::env::var(DRIVER) {
        Ok(seen) => {
            let driver = SnapshotDriver(serde_json::from_str(&seen).unwrap());
            let topology = read(&driver);
            if let Ok(topology) = &topology {
                agrees(topology, &driver);
            }
            topology
        }
        Err(_) => read_nvml(),
    };
    let told = match result {
        Ok(topology) => topology.to_json(),
        Err(e) => format!("error: {e}"),
    };
    std::fs::write(std::env::var_os(TOLD).unwrap(), told).unwrap();
}

/// Every device is found again in the topology that was read through it.
fn agrees(topology: &Topology, driver: &SnapshotDriver) {
    let order = topology.of_driver_order(driver).unwrap();
    for (device, index) in order.iter().enumerate() {
        assert_eq!(topology.gpus[*index].pci, driver.identity(device).unwrap().pci);
    }
    let mut distinct = order.clone();
    distinct.sort_unstable();
    assert_eq!(distinct, (0..topology.gpus.len()).collect::<Vec<_>>());
}
