//! Small aligned text tables.

use std::fmt;

/// A table of text cells: a header, then rows; columns are separated by two spaces.
///
/// The first column is left-aligned and the others right-aligned unless [`Table::left_aligned`] says more.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// A table with these column titles.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Table { rows: vec![header.into_iter().map(Into::into).collect()], left: 1 }
    }

    /// Aligns the first `columns` columns to the left.
    #[must_use]
    pub fn left_aligned(mut self, columns: usize) -> Self {
        self.left = columns;
        self
    }

    /// Adds a row; cells beyond the header's are kept and have no title.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (i, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(c, (cell, w))| if c < self.left { format!("{cell:<w$}") } else { format!("{cell:>w$}") })
                .collect();
            let end = if i + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up() {
        let mut table = Table::new(["", "PSNR [dB]", "SSIM", "SAM [°]"]);
        table.row(["bicubic", "37.38", "0.9196", "1.52"]);
        table.row(["SR (EMA)", "37.81", "0.9243", "1.41"]);
        let want = "          PSNR [dB]    SSIM  SAM [°]\n\
                    bicubic       37.38  0.9196     1.52\n\
                    SR (EMA)      37.81  0.9243     1.41";
        assert_eq!(table.to_string(), want);
    }

    #[test]
    fn ragged_rows_are_no_error() {
        let mut table = Table::new(["a"]);
        table.row(["1", "22", "x"]);
        table.row(Vec::<String>::new());
        assert_eq!(table.to_string(), "a\n1  22  x\n");
    }
}
