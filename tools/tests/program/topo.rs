//! `tileweave topo`: every recorded machine with the routes it gets, and what is refused.

use std::path::PathBuf;

use super::{Ended, tileweave};

fn snapshots() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/topology"))
}

fn recorded(name: &str, words: &str) -> Ended {
    let file = snapshots().join(name).with_extension("json");
    tileweave(&format!("topo --snapshot {} {words}", file.display()))
}

/// Machine, matrix, table of routes and reasons, as a person sees them, of every file there is.
#[test]
fn every_recorded_machine() {
    let mut names: Vec<String> = std::fs::read_dir(snapshots())
        .expect("the snapshots of machines")
        .filter_map(|entry| {
            entry
                .ok()?
                .path()
                .file_name()?
                .to_str()?
                .strip_suffix(".json")
                .map(str::to_string)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 16, "{names:?}");
    for name in names {
        let ended = recorded(&name, "");
        assert_eq!(ended.code, 0, "{name}: {}", ended.stderr);
        insta::assert_snapshot!(name, ended.stdout);
    }
    // Ranks that share one.
    insta::assert_snapshot!("h100-x1-four-ranks", recorded("h100-x1", "--ranks 4").stdout);
}

#[test]
fn json_holds_machine_links_and_routes() {
    let report = recorded("dgx-h100", "--json").done();
    assert_eq!(
        (&report["ranks"], report["obstacles"].as_array().map(Vec::len)),
        (&8.into(), Some(0))
    );
    assert_eq!(report["machine"]["gpus"].as_array().map(Vec::len), Some(8));
    let link = &report["links"][0];
    assert_eq!((&link["link"], &link["probe"]), (&"NV18".into(), &"untried".into()));
    let routes = report["routes"].as_array().expect("routes");
    assert_eq!(routes.len(), 84);
    for route in routes {
        assert_eq!(route["kind"], "predicted");
        assert!(
            route["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
            "{route}"
        );
        assert!(
            ["fused", "unfused", "nccl", "decline"]
                .iter()
                .any(|path| route["route"] == *path),
            "{route}"
        );
    }
}

#[test]
fn other_numbers_of_ranks() {
    let two = recorded("dgx-h100", "--json --ranks 2").done();
    assert_eq!(two["ranks"], 2);
    // More ranks than GPUs share them; NCCL cannot.
    let shared = recorded("hgx-a100-x4", "--json --ranks 8").done();
    assert!(shared["routes"][0]["nccl_us"].is_null(), "{}", shared["routes"][0]);
    let pair = recorded("l40s-x4-p2p-off", "--json").done();
    let reason = pair["routes"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("GPU 0") && reason.contains("disabled"), "{reason}");
    assert_eq!(pair["links"][0]["probe"], "no");
}

#[test]
fn the_simulated_node_is_a_machine() {
    let report = tileweave("topo --device sim --ranks 3 --json").done();
    assert_eq!(
        (&report["ranks"], &report["machine"]["source"]),
        (&3.into(), &"simulated".into())
    );
    assert!(report["probe"].is_null());
    // Its word is taken, unless somebody asks.
    let tried = tileweave("topo --device sim --ranks 2 --probe --json").done();
    assert_eq!(tried["links"][0]["probe"], "ok");
    assert!(
        tried["probe"]["links"].as_array().is_some_and(|links| links.len() == 2),
        "{}",
        tried["probe"]
    );
    let text = tileweave("topo --device sim").stdout;
    assert!(text.contains("NV18") && text.contains("simulated"), "{text}");
}

#[test]
fn what_is_saved_is_read_again_and_drawn() {
    let folder = std::env::temp_dir().join(format!("tileweave-topo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (file, drawing) = (folder.join("machine.json"), folder.join("machine.svg"));
    let words = format!("--save {} --plot {}", file.display(), drawing.display());
    let saved = recorded("dgx-1-v100", &words);
    assert_eq!(saved.code, 0, "{}", saved.stderr);
    let again = tileweave(&format!("topo --snapshot {}", file.display()));
    assert_eq!(again.stdout, saved.stdout);
    let svg = std::fs::read_to_string(&drawing).expect("a drawing");
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == 8, "{svg}");
    // A line for every pair, PCIe's too; in the legend four.
    assert_eq!(svg.matches("<line").count(), 28 + 4);
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn what_cannot_be_is_refused() {
    let missing = tileweave("topo --json --snapshot /nonexistent/machine.json");
    let error = missing.failed(2, "bad_input");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|m| m.contains("/nonexistent/machine.json")),
        "{error}"
    );
    let readme = snapshots().join("README.md");
    tileweave(&format!("topo --json --snapshot {}", readme.display())).failed(2, "bad_input");
    tileweave("topo --json --device sim --plot machine.png").failed(2, "bad_input");
    tileweave("topo --json --device sim --save /nonexistent/folder/machine.json").failed(2, "bad_input");
    let one = std::env::temp_dir().join("both.svg");
    let both = format!("topo --json --device sim --save {0} --plot {0}", one.display());
    tileweave(&both).failed(2, "bad_input");
    assert!(!one.exists());
    let file = snapshots().join("dgx-h100.json");
    tileweave(&format!("topo --json --probe --snapshot {}", file.display())).failed(2, "bad_input");
    tileweave("topo --json --ranks 17").failed(2, "bad_input");
}
