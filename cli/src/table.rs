//! Columns of text.
//!
//! Owns their alignment. Must never know what a column means.

use std::fmt::Write as _;

/// Spaces between columns, as kubectl has them.
const GAP: usize = 3;

/// Lays out rows under a header; an empty cell is a dash, no cell ends in spaces.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| match row.get(column).map(String::as_str) {
        None | Some("") => "-".to_owned(),
        Some(text) => text.to_owned(),
    };
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().map(|row| cell(row, column).chars().count());
            cells.max().unwrap_or(0).max(header[column].len())
        })
        .collect();
    let mut text = String::new();
    let head: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            write!(line, "{:width$}", cell(row, column), width = width + GAP)
                .expect("writing to a String cannot fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_cells_are_dashes() {
        let rows =
            vec![vec!["a".to_owned(), String::new()], vec!["longer".to_owned(), "x".to_owned()], vec![]];
        assert_eq!(render(&["NAME", "B"], &rows), "NAME     B\na        -\nlonger   x\n-        -\n");
    }

    #[test]
    fn no_rows_leave_the_header() {
        assert_eq!(render(&["A", "B"], &[]), "A   B\n");
    }
}
