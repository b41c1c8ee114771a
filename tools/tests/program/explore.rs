//! `tileweave explore`: table, JSON, drawing, and the page, whose script has to come to the JSON's numbers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tileweave;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("explore-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} of {row}"))
}

#[test]
fn json_holds_every_degree() {
    let report = tileweave("explore --batch 4 --json").done();
    assert_eq!(
        (&report["model"], &report["node"]),
        (&"gpt3-175b".into(), &"h100x8".into())
    );
    assert_eq!(report["kind"], "predicted");
    let degrees: Vec<u64> = rows(&report).iter().filter_map(|row| row["tp"].as_u64()).collect();
    assert_eq!(degrees, [1, 2, 4, 8, 16, 32]);
    let eight = &rows(&report)[3];
    assert_eq!(number(eight, "weights_gb"), 43.75);
    assert_eq!(
        (&eight["fits"], &rows(&report)[2]["fits"]),
        (&true.into(), &false.into())
    );
    // Two all-reduces of 8192 tokens in bf16: a GPU sends 7/8 of each twice.
    assert_eq!(
        number(eight, "comm_bytes_per_layer"),
        2.0 * 2.0 * 7.0 / 8.0 * 8192.0 * 12288.0 * 2.0
    );
    for row in rows(&report) {
        let sum = number(row, "compute_ms") + number(row, "comm_ms");
        assert!((sum / number(row, "unfused_ms") - 1.0).abs() < 1e-12, "{row}");
        assert_eq!(row["kind"], "predicted");
    }
    let fewer = tileweave("explore --model Llama-3-70B --node a100x8 --max-tp 5 --json").done();
    let degrees: Vec<u64> = rows(&fewer).iter().filter_map(|row| row["tp"].as_u64()).collect();
    assert_eq!((degrees, &fewer["model"]), (vec![1, 2, 4], &"llama3-70b".into()));
}

#[test]
fn the_table_has_units_and_says_predicted() {
    let ended = tileweave("explore --model llama3-8b --node l40sx4 --seq 1024 --batch 2");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let text = ended.stdout;
    for part in [
        "[predicted]",
        "Llama 3 8B on l40sx4",
        "GB/GPU",
        "MB/GPU",
        "ms/layer",
        "% of TP 1",
        "between nodes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let degrees = text
        .lines()
        .filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(degrees.filter(|line| !line.contains("GB/s")).count(), 6, "{text}");
}

#[test]
fn a_drawing_and_a_page_that_need_nothing_else() {
    let folder = Folder::new("files");
    let (drawing, page) = (folder.file("a.svg"), folder.file("a.html"));
    tileweave(&format!(
        "explore --json --plot {} --html {}",
        drawing.display(),
        page.display()
    ))
    .done();
    let svg = std::fs::read_to_string(&drawing).expect("a drawing");
    assert!(svg.starts_with("<svg") && svg.contains("[predicted]"), "{svg}");
    assert_eq!(svg.matches("<polyline").count(), 5);
    let html = std::fs::read_to_string(&page).expect("a page");
    // The one address in it names SVG's elements.
    let html = html.replace("\"http://www.w3.org/2000/svg\"", "");
    for outside in [
        "http:",
        "https:",
        "src=",
        "href",
        "url(",
        "import",
        "fetch(",
        "XMLHttpRequest",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    for slider in ["tp", "model", "seq", "link", "network"] {
        assert!(
            html.contains(&format!("<input id=\"{slider}\" type=\"range\"")),
            "{slider}"
        );
    }
    assert!(!html.contains('@'), "a place of the page was left unfilled");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |words: &str, parts: &[&str]| {
        let error = tileweave(&format!("explore --json {words}")).failed(2, "bad_input");
        let message = error["message"].as_str().expect("a message");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    refused(
        "--model gpt5",
        &["--model is gpt5", "gpt3-175b", "llama3-405b", "deepseek-v3-dense"],
    );
    refused("--node dgx", &["--node is dgx", "h100x8", "b200x8", "l40sx4", "h200x1"]);
    refused("--max-tp 64", &["1 to 32"]);
    refused("--seq 1048576 --batch 65536", &["68719476736", "2147483647"]);
    refused("--plot a.png", &[".svg"]);
    refused("--html a.svg", &[".html"]);
    refused("--html /nonexistent/folder/a.html", &["--html", "/nonexistent/folder"]);
}

/// Chromium, or the reason why there is none.
fn chromium() -> Result<PathBuf, &'static str> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name)))
        .find(|path| path.is_file());
    found.ok_or("no chromium on PATH")
}

/// What the page's script wrote, opened with `choice` behind its #.
fn computed(browser: &Path, folder: &Folder, page: &Path, choice: &str) -> Value {
    let dom = folder.file("dom.html");
    let mut child = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .arg(format!("--user-data-dir={}", folder.file("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}#{choice}", page.display()))
        .stdout(File::create(&dom).expect("a file for the page as it became"))
        .stderr(Stdio::null())
        .spawn()
        .expect("chromium starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("chromium is a child") {
            break status;
        }
        if began.elapsed() > Duration::from_secs(120) {
            let _ = child.kill().and_then(|()| child.wait());
            panic!("chromium did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    let dom = std::fs::read_to_string(dom).expect("the page as it became");
    let (_, rest) = dom.split_once("<pre id=\"json\">").expect("the place of the numbers");
    let (text, _) = rest.split_once("</pre>").expect("its end");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The same to a rounding: the formulas are written twice, the order of the sums is one.
fn same(ours: &Value, theirs: &Value) {
    assert_eq!(rows(ours).len(), rows(theirs).len());
    for (ours, theirs) in rows(ours).iter().zip(rows(theirs)) {
        let (ours, theirs) = (ours.as_object().expect("a row"), theirs.as_object().expect("a row"));
        assert_eq!(ours.len(), theirs.len(), "{ours:?} {theirs:?}");
        for (field, value) in ours {
            let other = &theirs[field];
            match (value.as_f64(), other.as_f64()) {
                (Some(a), Some(b)) => {
                    assert!(
                        (a - b).abs() <= 1e-12 * a.abs(),
                        "{field} at TP {}: {a} and {b}",
                        ours["tp"]
                    )
                }
                _ => assert_eq!(value, other, "{field}"),
            }
        }
    }
}

#[test]
fn the_pages_numbers_are_the_jsons() {
    let browser = match chromium() {
        Ok(browser) => browser,
        Err(reason) => {
            let required = std::env::var_os("TILEWEAVE_REQUIRE_CHROMIUM").is_some_and(|value| value == "1");
            assert!(!required, "TILEWEAVE_REQUIRE_CHROMIUM=1, but {reason}");
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let folder = Folder::new("page");
    let page = folder.file("page.html");
    // Every model, and every kind of link; M below, at and beyond a tile; the page is opened on another choice.
    for (node, model, seq, batch) in [
        ("h100x8", "gpt3-175b", 2048, 4),
        ("a100x8", "llama3-70b", 77, 3),
        ("h100x4", "deepseek-v3-dense", 4096, 1),
        ("l40sx4", "qwen3-32b", 128, 200),
        ("h200x1", "llama3-8b", 512, 16),
        ("b200x8", "llama3-405b", 8192, 1),
    ] {
        tileweave(&format!(
            "explore --json --node {node} --batch {batch} --html {}",
            page.display()
        ))
        .done();
        let words = format!("explore --json --node {node} --model {model} --seq {seq} --batch {batch}");
        let theirs = computed(&browser, &folder, &page, &format!("model={model}&seq={seq}&tp=4"));
        assert_eq!((&theirs["model"], &theirs["node"]), (&model.into(), &node.into()));
        same(&tileweave(&words).done(), &theirs);
    }
    // A link of half the speed, and a network of twice.
    tileweave(&format!("explore --json --html {}", page.display())).done();
    let whole = computed(&browser, &folder, &page, "");
    let half = computed(&browser, &folder, &page, "link=225");
    let twice = computed(&browser, &folder, &page, "network=100");
    let unfused = |report: &Value, at: usize| number(&rows(report)[at], "unfused_ms");
    assert_eq!(unfused(&whole, 0), unfused(&half, 0));
    assert!(unfused(&half, 3) > unfused(&whole, 3) && unfused(&twice, 4) < unfused(&whole, 4));
    assert_eq!(unfused(&twice, 3), unfused(&whole, 3));
}
