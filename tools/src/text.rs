//! Tables for a terminal.

/// Columns as wide as their widest cell: words to the left, numbers to the right, by what all rows hold.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let numeric = |column: usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(column));
        cells.all(|cell| cell == "-" || cell.parse::<f64>().is_ok())
    };
    let right: Vec<bool> = (0..head.len()).map(numeric).collect();
    let mut lines = vec![head.iter().map(|cell| cell.to_string()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| Some(line.get(column)?.chars().count()))
            .max()
    };
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(widths.iter().zip(&right))
            .map(|(cell, (width, right))| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let text = table(
            &["what", "ms", "%"],
            vec![row(["a", "1.5", "-"]), row(["longer", "10.25", "-3"])],
        );
        assert_eq!(text, "what       ms   %\na         1.5   -\nlonger  10.25  -3");
    }
}
