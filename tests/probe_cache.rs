//! Probes that are kept: what is read back, what is not believed, and writers in each other's way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tileweave::driver::Driver;
use tileweave::driver::sim::{Fault, LinkState, SimConfig, SimLink, SimNode};
use tileweave::probe::{Cached, Outcome, Probe};
use tileweave::topology::Topology;

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probe-cache-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

struct Machine {
    driver: Arc<dyn Driver>,
    topology: Topology,
}

impl Machine {
    fn new(config: SimConfig) -> Machine {
        let driver: Arc<dyn Driver> = Arc::new(SimNode::new(config).unwrap());
        let topology = driver.describe().unwrap().unwrap();
        Machine { driver, topology }
    }

    /// A probe of devices 0 and 1, and whether anything was tried for it.
    fn cached(&self, folder: &Path) -> (Cached, bool) {
        let mut tried = false;
        let found = Probe::cached(Some(folder), &self.driver, &self.topology, &[1, 0], &mut |_| {
            tried = true
        });
        (found.unwrap(), tried)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.map(|e| e.unwrap().path()).collect());
    entries.unwrap_or_default()
}

#[test]
fn what_was_found_is_found_again() {
    let (folder, machine) = (
        folder("again").join("made/on/the/way"),
        Machine::new(SimConfig::new(3, 1)),
    );
    let (first, tried) = machine.cached(&folder);
    assert!(tried && first.from.is_none() && first.note.is_none(), "{first:?}");
    let (second, tried) = machine.cached(&folder);
    assert!(!tried, "nothing is tried again");
    assert_eq!(second.probe, first.probe);
    assert_eq!(second.from.as_slice(), files(&folder));
    // Of a machine with other GPUs, another driver: another file.
    let mut found = Probe::cached(Some(&folder), &machine.driver, &machine.topology, &[1, 2], &mut |_| {}).unwrap();
    assert!(found.from.is_none());
    let mut other = machine.topology.clone();
    other.driver = "581.0".into();
    found = Probe::cached(Some(&folder), &machine.driver, &other, &[0, 1], &mut |_| {}).unwrap();
    assert!(found.from.is_none() && found.probe.driver == "581.0");
    assert_eq!(files(&folder).len(), 3);
    // Asked to, it is made anew, and takes the old one's place.
    let renewed = Probe::renewed(Some(&folder), &machine.driver, &machine.topology, &[0, 1], &mut |_| {}).unwrap();
    assert!(renewed.from.is_none() && renewed.note.is_none());
    assert_eq!(machine.cached(&folder).0.probe, renewed.probe);
    assert_eq!(files(&folder).len(), 3);
}

/// A GPU that others keep busy answers late, as one behind a link that loses words does: nothing to hold against it for good.
#[test]
fn late_words_are_not_kept() {
    let folder = folder("late");
    let mut config = SimConfig::new(2, 1);
    config.faults = vec![Fault::DropSignals { from: 0, to: 1 }];
    let machine = Machine::new(config);
    for _ in 0..2 {
        let (found, tried) = machine.cached(&folder);
        assert!(tried && !found.probe.excluded().is_empty());
        assert!(found.note.unwrap().contains("words were late"));
    }
    assert!(files(&folder).is_empty());
}

#[test]
fn whoever_is_refused_by_what_was_kept_is_told_where_it_is() {
    let state = LinkState::Corrupting;
    let links = vec![SimLink { from: 0, to: 1, state }];
    let config = SimConfig {
        links,
        ..SimConfig::new(2, 1)
    };
    let (folder, machine) = (folder("told"), Machine::new(config));
    assert_eq!(machine.cached(&folder).0.note, None, "it was tried just now");
    let (kept, tried) = machine.cached(&folder);
    let note = kept.note.expect("a note");
    let start = format!(
        "1 of 2 ordered pairs are excluded by the probe kept in {}",
        folder.display()
    );
    assert!(
        !tried && note.starts_with(&start) && note.contains("topo --probe"),
        "{note}"
    );
}

#[test]
fn files_that_are_not_what_they_should_be_are_not_believed() {
    let (folder, machine) = (folder("broken"), Machine::new(SimConfig::new(2, 1)));
    let good = machine.cached(&folder).0.probe;
    let path = files(&folder).remove(0);
    let text = std::fs::read_to_string(&path).unwrap();
    let edited = |change: &dyn Fn(&mut Probe)| {
        let mut probe = good.clone();
        change(&mut probe);
        probe.to_json().into_bytes()
    };
    let broken: Vec<Vec<u8>> = vec![
        Vec::new(),
        text.as_bytes()[..text.len() / 2].to_vec(),
        b"\xff\xfe no text".to_vec(),
        b"{}".to_vec(),
        edited(&|p| p.crate_version = "0.0.1".into()),
        edited(&|p| p.driver = "another".into()),
        edited(&|p| p.gpus[0] = "GPU-0".into()),
        edited(&|p| drop(p.links.pop())),
        edited(&|p| p.links[0].load.latency_us = Some(-1.0)),
    ];
    for bytes in broken {
        std::fs::write(&path, &bytes).unwrap();
        let (found, tried) = machine.cached(&folder);
        assert!(
            tried && found.from.is_none() && found.note.is_none(),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(machine.cached(&folder).0.from.as_ref(), Some(&path), "it was put right");
    }
    // One that cannot even be replaced.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("in the way")).unwrap();
    let (found, tried) = machine.cached(&folder);
    assert!(
        tried
            && found
                .note
                .is_some_and(|note| note.starts_with("the probe is not kept: "))
    );
    assert_eq!(files(&folder), [path], "nothing is left beside it");
}

#[test]
fn a_folder_that_cannot_be_written_is_a_note() {
    let (folder, machine) = (folder("unwritable"), Machine::new(SimConfig::new(2, 1)));
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, "a file").unwrap();
    let (found, tried) = machine.cached(&folder);
    assert!(tried && found.probe.excluded().is_empty());
    let note = found.note.expect("a note");
    assert!(
        note.starts_with(&format!("the probe is not kept: {}: ", folder.display())),
        "{note}"
    );
    let nowhere = Probe::cached(None, &machine.driver, &machine.topology, &[0, 1], &mut |_| {}).unwrap();
    assert!(nowhere.note.is_some_and(|note| note.contains("TILEWEAVE_CACHE")));
}

#[test]
fn a_probe_that_was_cut_short_is_not_kept() {
    let folder = folder("short");
    let mut config = SimConfig::new(2, 1);
    config.launch_hook = Some(Arc::new(|_, params| params.x += 8));
    let (found, _) = Machine::new(config).cached(&folder);
    assert!(
        found
            .probe
            .links
            .iter()
            .any(|link| matches!(link.copy.outcome, Outcome::Skipped(_)))
    );
    assert_eq!(
        found.note.as_deref(),
        Some("the probe is not kept: it could not be finished")
    );
    assert!(files(&folder).is_empty());
}

#[test]
fn writers_and_readers_at_once() {
    let folder = folder("crowd");
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let folder = &folder;
            scope.spawn(move || {
                let machine = Machine::new(SimConfig::new(2, seed));
                for _ in 0..4 {
                    let found = Probe::renewed(Some(folder), &machine.driver, &machine.topology, &[0, 1], &mut |_| {});
                    assert_eq!(found.unwrap().note, None);
                    let (found, tried) = machine.cached(folder);
                    assert!(!tried && found.from.is_some(), "whoever reads finds one, and all of it");
                }
            });
        }
    });
    assert_eq!(files(&folder).len(), 1, "{:?}", files(&folder));
}
