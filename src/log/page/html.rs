//! A page of HTML in one file: style, script and pictures are in it, nothing is loaded.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Result;
use crate::files::write_atomic;

const STYLE: &str = include_str!("style.css");
/// Shows the picture that a slider points to.
const SCRIPT: &str = include_str!("slider.js");

/// A page that is being written.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// An empty page with a title.
    pub fn new(title: &str) -> Page {
        Page { title: escaped(title), body: String::new() }
    }

    /// Begins a section.
    pub fn heading(&mut self, text: &str) {
        self.push(format_args!("<h2>{}</h2>\n", escaped(text)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>\n", escaped(text)));
    }

    /// Text whose lines and columns stay as they are.
    pub fn preformatted(&mut self, text: &str) {
        self.push(format_args!("<pre>{}</pre>\n", escaped(text)));
    }

    /// The same, folded up.
    pub fn details(&mut self, summary: &str, text: &str) {
        let (summary, text) = (escaped(summary), escaped(text));
        self.push(format_args!("<details><summary>{summary}</summary><pre>{text}</pre></details>\n"));
    }

    /// A picture with a caption.
    pub fn picture(&mut self, png: &[u8], caption: &str) {
        let (source, caption) = (data_uri(png), escaped(caption));
        self.push(format_args!(
            "<figure class=\"picture\"><img src=\"{source}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>\n"
        ));
    }

    /// Pictures of which a slider shows one; the last is shown first.
    pub(super) fn slider(&mut self, pictures: &[(String, Vec<u8>)]) {
        let last = pictures.len().saturating_sub(1);
        self.push(format_args!("<div class=\"slider\">\n"));
        if last > 0 {
            self.push(format_args!(
                "<input type=\"range\" min=\"0\" max=\"{last}\" value=\"{last}\" aria-label=\"validation\">\n"
            ));
        }
        for (i, (caption, png)) in pictures.iter().enumerate() {
            let (source, caption) = (data_uri(png), escaped(caption));
            let hidden = if i < last { " hidden" } else { "" };
            self.push(format_args!(
                "<figure class=\"picture\"{hidden}><img src=\"{source}\" alt=\"{caption}\"><figcaption>{caption}</figcaption>\
                 </figure>\n"
            ));
        }
        self.push(format_args!("</div>\n"));
    }

    /// Drawings side by side: of each a title, the names and colours of its lines, and the drawing.
    pub(super) fn drawings(&mut self, drawings: &[Drawing]) {
        self.push(format_args!("<div class=\"curves\">\n"));
        for Drawing { title, legend, svg } in drawings {
            self.push(format_args!("<figure><figcaption>{}", escaped(title)));
            for (name, colour) in legend {
                self.push(format_args!("<span class=\"key\" style=\"--key:{colour}\">{}</span>", escaped(name)));
            }
            self.push(format_args!("</figcaption>{svg}</figure>\n"));
        }
        self.push(format_args!("</div>\n"));
    }

    /// A table of columns, the first of which names the rows.
    pub(super) fn table(&mut self, header: &[String], rows: &[Vec<String>]) {
        self.push(format_args!("<div class=\"scroll\"><table>\n"));
        if !header.is_empty() {
            let cells: String = header.iter().map(|cell| format!("<th>{}</th>", escaped(cell))).collect();
            self.push(format_args!("<tr>{cells}</tr>\n"));
        }
        for row in rows {
            let mut cells = row.iter().map(|cell| escaped(cell).replace('\n', "<br>"));
            let name = cells.next().unwrap_or_default();
            let cells: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
            self.push(format_args!("<tr><th>{name}</th>{cells}</tr>\n"));
        }
        self.push(format_args!("</table></div>\n"));
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Page { title, body } = self;
        write_atomic(path, |out| {
            write!(
                out,
                "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                 <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                 <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
                 <h1>{title}</h1>\n{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
            )
        })
    }

    fn push(&mut self, text: std::fmt::Arguments) {
        // A string takes all that is written to it.
        let _ = self.body.write_fmt(text);
    }
}

/// Curves as they stand on a page.
pub(super) struct Drawing {
    pub title: String,
    /// Names and colours of the lines; empty for one that needs none.
    pub legend: Vec<(String, &'static str)>,
    pub svg: String,
}

fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// Text with the characters that mean something in HTML replaced.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
