use std::path::{Path, PathBuf};

use super::*;
use crate::error::Error;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/topology")
}

fn machine(name: &str) -> Topology {
    Topology::load(folder().join(name).with_extension("json")).unwrap()
}

/// What [`Topology::check`] says once `change` was made.
fn said(name: &str, change: impl FnOnce(&mut Topology)) -> String {
    let mut topology = machine(name);
    change(&mut topology);
    topology.check().unwrap_err().to_string()
}

mod check;

#[test]
fn every_snapshot_is_read_and_written_as_it_stands() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let topology = Topology::load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(topology.to_json(), text, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 16, "{seen}");
}

#[test]
fn what_is_saved_is_loaded() {
    let path = std::env::temp_dir().join(format!("tileweave-topology-{}.json", std::process::id()));
    let mut topology = machine("dgx-1-v100");
    topology.notes = vec!["a \"note\",\nof two lines".into(), String::new()];
    topology.save(&path).unwrap();
    assert_eq!(Topology::load(&path).unwrap(), topology);

    // Of a file the error names the file and the field.
    let text = topology.to_json().replacen("\"numa\": 0", "\"numa\": \"0\"", 1);
    std::fs::write(&path, text).unwrap();
    let message = Topology::load(&path).unwrap_err().to_string();
    assert!(
        message.contains("tileweave-topology-") && message.contains(": gpus[0].numa is"),
        "{message}"
    );
    std::fs::remove_file(&path).unwrap();
    let message = Topology::load(&path).unwrap_err().to_string();
    assert!(
        message.contains("tileweave-topology-") && message.contains("can be read"),
        "{message}"
    );
    let message = topology.save(path.join("below")).unwrap_err().to_string();
    assert!(
        message.contains("below") && message.contains("can be written"),
        "{message}"
    );
}

#[test]
fn a_file_that_ends_early_is_cut_off_wherever_it_ends() {
    let text = machine("rtx-3090-x2").to_json();
    for end in 0..text.trim_end().len() {
        let message = Topology::from_json(&text[..end]).unwrap_err().to_string();
        assert!(message.contains("snapshot is cut off at line "), "{end}: {message}");
    }
}

#[test]
fn a_file_that_is_none_is_an_error() {
    for text in [
        "[]",
        "7",
        "\"text\"",
        "{\"version\": 1,}",
        "{} {}",
        "nonsense",
        "{\"version\": 1e999}",
    ] {
        let Err(Error::BadArgument { name, .. }) = Topology::from_json(text) else {
            panic!("{text}")
        };
        assert!(name == "snapshot" || name == "version", "{text}: {name}");
    }
}

#[test]
fn the_version_is_read_first() {
    let newer = r#"{"colour": "green", "version": 2, "gpus": "none of your business"}"#;
    let message = Topology::from_json(newer).unwrap_err().to_string();
    assert_eq!(message, "version is 2: expected 1");
    let message = Topology::from_json(r#"{"gpus": []}"#).unwrap_err().to_string();
    assert_eq!(message, "version is missing: expected 1");
    let message = Topology::from_json(r#"{"version": "1"}"#).unwrap_err().to_string();
    assert_eq!(message, "version is \"1\": expected 1");
    assert_eq!(said("no-gpu", |t| t.version = 0), "version is 0: expected 1");
}

#[test]
fn a_field_that_does_not_belong_or_is_not_there_is_named() {
    let text = machine("hgx-a100-x4").to_json();
    let cases = [
        (
            "{\n  \"version\": 1,",
            "{\n  \"version\": 1, \"colour\": 3,",
            "colour",
            "unknown field",
        ),
        ("\"sms\": 108", "\"sms\": -1", "gpus[0].sms", "expected u32"),
        ("\"pci\": \"00000000:01:00.0\", ", "", "gpus[0]", "missing field `pci`"),
        (
            "\"mig\": \"off\"",
            "\"mig\": \"of\"",
            "gpus[0].mig",
            "unknown variant `of`",
        ),
        (
            "\"lanes\": 4",
            "\"lanes\": 4.5",
            "links[0].nvlink.lanes",
            "expected u32",
        ),
        (
            "\"active\": true",
            "\"active\": true, \"up\": 1",
            "gpus[0].nvlinks[0].up",
            "unknown field",
        ),
        (
            "\"switched\": false",
            "\"switched\": false, \"switched\": false",
            "links[0].nvlink",
            "duplicate field",
        ),
    ];
    for (from, to, field, why) in cases {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let message = Topology::from_json(&changed).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("{field} is ")) && message.contains(why),
            "{message}"
        );
    }
}

/// One byte of a file changed: still a topology that agrees with itself, or an error; nothing else.
#[test]
fn a_damaged_file_is_an_error_or_another_machine() {
    let text = machine("rtx-3090-x2-bridged").to_json();
    let mut kept = 0;
    for at in 0..text.len() {
        for byte in [b'0', b'9', b'-', b'"', b'{', b']', b',', b' '] {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = byte;
            if let Ok(topology) = Topology::from_json(&String::from_utf8(damaged).unwrap()) {
                topology.check().unwrap();
                kept += 1;
            }
        }
    }
    assert!(kept > 0);
}

#[cfg(feature = "sim")]
#[test]
fn the_simulated_node_describes_itself() {
    use crate::Node;
    use crate::driver::sim::SimConfig;
    for gpus in [1, 2, 16] {
        let node = Node::sim(SimConfig::new(gpus, 0)).unwrap();
        let topology = node.topology().unwrap();
        assert_eq!((topology.source, topology.gpus.len()), (Source::Simulated, gpus));
        assert_eq!(Topology::from_json(&topology.to_json()).unwrap(), topology);
        let order = topology.of_driver_order(&**node.driver()).unwrap();
        assert_eq!(order, (0..gpus).collect::<Vec<_>>());

        // Another machine has other devices.
        let error = machine("dgx-h100")
            .of_driver_order(&**node.driver())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("device 0 is GPU-51b00000-") && error.ends_with("a GPU of the topology"),
            "{error}"
        );
    }
}
