//! Tables that others published, as both benchmarks that compare with them read them.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A row by the names of the header.
pub type Row = BTreeMap<String, String>;

/// published-fused.csv and published-allreduce.csv, from the folder that TILEWEAVE_DATA names, else from ../shared/data
/// beside this checkout. Where they are not, that is told, and there is nothing to do.
pub fn read() -> Option<(Vec<Row>, Vec<Row>)> {
    let named = std::env::var_os("TILEWEAVE_DATA").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).map(|text| rows(&text));
    match (read("published-fused.csv"), read("published-allreduce.csv")) {
        (Ok(fused), Ok(all_reduce)) => Some((fused, all_reduce)),
        (Err(error), _) | (_, Err(error)) => {
            let folder = folder.display();
            println!("no published tables in {folder} ({error}): TILEWEAVE_DATA names the folder that holds them");
            None
        }
    }
}

/// A CSV's rows by the names of its header; commas within quotes are text.
fn rows(text: &str) -> Vec<Row> {
    let split = |line: &str| {
        let (mut cells, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                c => cells.last_mut().expect("one at least").push(c),
            }
        }
        cells
    };
    let mut lines = text.lines();
    let header = split(lines.next().unwrap_or_default());
    lines
        .map(|line| header.iter().cloned().zip(split(line)).collect())
        .collect()
}

/// A cell's number, where there is one.
pub fn number(row: &Row, name: &str) -> Option<f64> {
    row.get(name)?.parse().ok()
}

/// A cell's words.
pub fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).map_or("", String::as_str)
}
