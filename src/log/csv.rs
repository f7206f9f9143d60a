//! `metrics.csv`: one row per step, empty cells where a metric has no value.
//!
//! Our own rather than the `csv` crate: cells are numbers and names without quotes, and what is hard, adding the columns
//! of a resumed run and cutting a line that a crash left unfinished, no crate does.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use super::append::AppendFile;
use crate::files::write_atomic;
use crate::{Error, Result};

/// The open `metrics.csv`. The first two columns are `step` and `epoch`.
#[derive(Debug)]
pub(super) struct CsvFile {
    file: AppendFile,
    /// For each metric of this run its column, counted after `step` and `epoch`.
    places: Vec<usize>,
    columns: usize,
    last: Option<LastRow>,
}

/// The row written last; a second row of the same step is merged into it.
#[derive(Debug)]
struct LastRow {
    step: u64,
    start: u64,
    text: String,
    cells: Vec<String>,
}

impl LastRow {
    /// A row of numbers that stands at the end of a file of `end` bytes.
    fn parse(row: &str, end: u64) -> Option<Self> {
        let text = format!("{row}\n");
        let mut cells = row.split(',').map(str::to_owned);
        let step = cells.next()?.parse().ok()?;
        Some(LastRow { step, start: end - text.len() as u64, text, cells: cells.skip(1).collect() })
    }
}

impl CsvFile {
    /// Opens the file for a run with these metrics that goes on at step `from_step`: rows from that step on
    /// are cut, columns that are new are added at the right, columns no longer used stay.
    pub(super) fn open(path: &Path, metrics: &[String], from_step: u64) -> Result<Self> {
        let old = match File::open(path) {
            Ok(file) => OldFile::open(path, file)?,
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let mut columns = old.as_ref().map(|old| old.metrics.clone()).unwrap_or_default();
        let kept = columns.len();
        columns.extend(metrics.iter().filter(|name| !columns[..kept].contains(name)).cloned().collect::<Vec<_>>());
        let rows = match old {
            Some(old) => old.rows_before(from_step, columns.len() - kept)?,
            None => Vec::new(),
        };
        let header: Vec<String> =
            ["step", "epoch"].iter().map(|s| s.to_string()).chain(columns.iter().map(|c| quote(c))).collect();
        write_atomic(path, |out| {
            writeln!(out, "{}", header.join(","))?;
            rows.iter().try_for_each(|row| writeln!(out, "{row}"))
        })?;
        let place = |name: &String| columns.iter().position(|c| c == name);
        let places = metrics.iter().filter_map(place).collect();
        let file = AppendFile::open(path)?;
        // A validation that a stopped run still owes belongs to the row of its last step.
        let last = rows.last().and_then(|row| LastRow::parse(row, file.end()));
        Ok(CsvFile { file, places, columns: columns.len(), last })
    }

    /// Writes a row of (metric number, text) cells. Steps never go back; a row of the last step is merged.
    pub(super) fn row(&mut self, step: u64, epoch: u64, cells: &[(usize, String)]) -> Result<()> {
        let (start, old, mut texts) = match self.last.take() {
            Some(last) if last.step == step => (last.start, last.text, last.cells),
            Some(last) if last.step > step => {
                let message = format!("a metrics row for step {step} after one for step {}", last.step);
                return Err(Error::Internal(message));
            }
            _ => (self.file.end(), String::new(), vec![String::new(); self.columns]),
        };
        for (metric, text) in cells {
            texts[self.places[*metric]].clone_from(text);
        }
        let text =
            std::iter::once(format!("{step},{epoch}")).chain(texts.iter().cloned()).collect::<Vec<_>>().join(",")
                + "\n";
        self.file.replace_last(start, old.as_bytes(), text.as_bytes())?;
        self.last = Some(LastRow { step, start, text, cells: texts });
        Ok(())
    }

    /// See [`AppendFile::sync`].
    pub(super) fn sync(&mut self) -> Result<bool> {
        self.file.sync()
    }
}

/// A `metrics.csv` of an earlier part of the run.
struct OldFile<'a> {
    path: &'a Path,
    lines: BufReader<File>,
    metrics: Vec<String>,
}

impl<'a> OldFile<'a> {
    /// Reads the header; `None` if not even that was written whole.
    fn open(path: &'a Path, file: File) -> Result<Option<Self>> {
        let mut old = OldFile { path, lines: BufReader::new(file), metrics: Vec::new() };
        let Some(header) = old.next_line()? else { return Ok(None) };
        let mut names = parse_record(&header).into_iter();
        if (names.next().as_deref(), names.next().as_deref()) != (Some("step"), Some("epoch")) {
            return Err(Error::data(path, "line 1: the header does not begin with step,epoch")
                .with_hint("this is no metrics file of a run; move it away"));
        }
        old.metrics = names.collect();
        Ok(Some(old))
    }

    /// The rows of steps before `from_step`, each with `added` empty cells at its end.
    fn rows_before(mut self, from_step: u64, added: usize) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut number = 1;
        while let Some(mut row) = self.next_line()? {
            number += 1;
            let cells = row.matches(',').count() + 1;
            let step = row.split(',').next().and_then(|s| s.parse::<u64>().ok());
            let Some(step) = step.filter(|_| cells == self.metrics.len() + 2) else {
                let message = format!("line {number}: not a row of {} cells with a step", self.metrics.len() + 2);
                return Err(Error::data(self.path, message).with_hint("repair the line, or move the file away"));
            };
            if step < from_step {
                row.push_str(&",".repeat(added));
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// The next whole line; one without an end was cut by a kill and is left out.
    fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(_) if !line.ends_with('\n') => Ok(None),
            Ok(_) => Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned())),
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(Error::data(self.path, "this is not a text file")),
            Err(e) => Err(Error::io("read", self.path, e)),
        }
    }
}

/// A cell as RFC 4180 wants it.
fn quote(cell: &str) -> String {
    if cell.contains([',', '"']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// The cells of a line as RFC 4180 has them.
pub(super) fn parse_record(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells.last_mut().unwrap_or(&mut String::new()).push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap_or(&mut String::new()).push(c),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    fn cell(metric: usize, text: &str) -> (usize, String) {
        (metric, text.into())
    }

    #[test]
    fn rows_of_one_step_are_merged_and_gaps_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let mut csv = CsvFile::open(&path, &names(&["a", "b", "D(y,\"x\")"]), 0).unwrap();
        csv.row(0, 0, &[cell(0, "1.5")]).unwrap();
        csv.row(1, 0, &[cell(1, "2.25"), cell(0, "nan")]).unwrap();
        csv.row(1, 0, &[cell(2, "3.5"), cell(1, "2.0")]).unwrap();
        csv.row(7, 1, &[]).unwrap();
        let want = "step,epoch,a,b,\"D(y,\"\"x\"\")\"\n0,0,1.5,,\n1,0,nan,2.0,3.5\n7,1,,,\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
        assert!(csv.row(3, 0, &[]).unwrap_err().to_string().contains("step 3 after one for step 7"));
    }

    #[test]
    fn a_resume_cuts_later_rows_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        std::fs::write(&path, "step,epoch,a\n0,0,1\n1,0,2\n2,0,3\n3,0,4.1").unwrap();
        let mut csv = CsvFile::open(&path, &names(&["a"]), 2).unwrap();
        csv.row(2, 0, &[cell(0, "9")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "step,epoch,a\n0,0,1\n1,0,2\n2,0,9\n");
    }

    #[test]
    fn after_a_resume_the_last_row_can_be_completed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        std::fs::write(&path, "step,epoch,a,b\n0,0,1,2\n1,0,3,\n2,0,4,\n").unwrap();
        let mut csv = CsvFile::open(&path, &names(&["a", "b", "c"]), 2).unwrap();
        csv.row(1, 0, &[cell(1, "7"), cell(2, "8")]).unwrap();
        csv.row(2, 0, &[cell(0, "9")]).unwrap();
        let want = "step,epoch,a,b,c\n0,0,1,2,\n1,0,3,7,8\n2,0,9,,\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
    }

    #[test]
    fn new_columns_come_at_the_right_and_old_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        std::fs::write(&path, "step,epoch,gone,a\n0,0,1,2\n").unwrap();
        let mut csv = CsvFile::open(&path, &names(&["new", "a"]), 1).unwrap();
        csv.row(1, 0, &[cell(0, "5"), cell(1, "6")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "step,epoch,gone,a,new\n0,0,1,2,\n1,0,,6,5\n");
    }

    #[test]
    fn a_file_cut_within_its_header_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        std::fs::write(&path, "step,ep").unwrap();
        CsvFile::open(&path, &names(&["a"]), 1).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "step,epoch,a\n");
    }

    #[test]
    fn foreign_and_damaged_files_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        for (bytes, want) in [
            (&b"time,loss\n1,2\n"[..], "header does not begin with step,epoch"),
            (b"step,epoch,a\n0,0,1\nx,0,1\n", "line 3"),
            (b"step,epoch,a\n0,0\n", "line 2: not a row of 3 cells"),
            (b"\xff\xfe\x00\n", "not a text file"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = CsvFile::open(&path, &names(&["a"]), 9).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file was changed");
        }
    }
}
