//! Tables for people, JSON for programs.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde_json::Value;

use crate::failure::Failure;
use crate::printable::{is_obeyed, printable};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: every digit, every row.
    Json,
}

/// How an answer with a series is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SeriesFormat {
    /// For people.
    Table,
    /// For programs: every digit, every row.
    Json,
    /// For spreadsheets: a header and rows.
    Csv,
}

/// How an answer with a series is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct SeriesFormatArg {
    /// A table for people, or JSON or CSV with every digit for programs.
    #[arg(long, value_enum, default_value_t = SeriesFormat::Table)]
    pub(crate) format: SeriesFormat,
}

/// A text as a field of CSV (RFC 4180).
pub(crate) fn csv_text(text: &str) -> String {
    let text = printable(text);
    if text.contains(['"', ',']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into_owned() }
}

/// Standard output, buffered.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

/// Prints a line.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    let mut out = stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Failure::printing(&e))
}

/// Prints a JSON value on a line of its own.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    // `serde_json` escapes the first 32 characters alone. All are within strings, which read back as they
    // were.
    let text = value.to_string();
    if !text.contains(is_obeyed) {
        return print_line(&text);
    }
    let escape = |shown: String, character: char| match is_obeyed(character) {
        // No character that is obeyed takes a surrogate pair.
        true => shown + &format!("\\u{:04x}", u32::from(character)),
        false => shown + character.encode_utf8(&mut [0; 4]),
    };
    print_line(&text.chars().fold(String::new(), escape))
}

/// Prints a remark below a table, wrapped.
pub(crate) fn print_note(text: &str) -> Result<(), Failure> {
    let mut table = bare_table(terminal_width());
    table.add_row([printable(text)]);
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 0));
    }
    print_line(&table.trim_fmt())
}

/// A table of named values, one a line.
pub(crate) fn print_fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Result<(), Failure> {
    print_line(&fields_table(fields, terminal_width()))
}

/// A table with a header, its columns aligned to the right but for the first. Where the terminal is too
/// narrow, each row becomes a table of named values.
pub(crate) fn print_table(header: Vec<String>, rows: Vec<Vec<String>>) -> Result<(), Failure> {
    print_line(&table(&header, &rows, terminal_width()))
}

/// As many of the table's first columns as the terminal has room for, at least two. Gives how many these are.
pub(crate) fn print_first_columns(
    mut header: Vec<String>,
    mut rows: Vec<Vec<String>>,
) -> Result<usize, Failure> {
    let width = terminal_width();
    let shown = first_columns(&header, &rows, width);
    header.truncate(shown);
    rows.iter_mut().for_each(|row| row.truncate(shown));
    print_line(&table(&header, &rows, width))?;
    Ok(shown)
}

/// The columns of the terminal that standard output goes to, or of the variable COLUMNS. Elsewhere lines have
/// any length.
fn terminal_width() -> Option<u16> {
    let of_terminal = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
    let of_variable = || std::env::var("COLUMNS").ok()?.trim().parse().ok();
    of_terminal.or_else(of_variable).filter(|&width| width > 0)
}

fn bare_table(width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

fn fields_table<'a>(fields: impl IntoIterator<Item = (&'a str, String)>, width: Option<u16>) -> String {
    let fields: Vec<(&str, String)> = fields.into_iter().collect();
    let longest_name = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let room = width.map(|width| usize::from(width).saturating_sub(longest_name + 2 * PADDING));
    let mut table = bare_table(width);
    for (name, value) in fields {
        let mut value = printable(&value).into_owned();
        // JSON that takes several lines is broken behind commas and not within numbers.
        if room.is_some_and(|room| value.len() > room) && value.starts_with(['{', '[']) {
            value = value.replace(',', ", ");
        }
        table.add_row([printable(name).into_owned(), value]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt()
}

/// Spaces on both sides of a cell.
const PADDING: usize = 2;

/// The longest word of each column: a number is never broken.
fn least_widths(header: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let longest = |text: &str| text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    let of_column = |(column, name): (usize, &String)| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.chain([name]).map(|text| longest(text)).max().unwrap_or(0)
    };
    header.iter().enumerate().map(of_column).collect()
}

fn first_columns(header: &[String], rows: &[Vec<String>], width: Option<u16>) -> usize {
    let Some(width) = width.map(usize::from) else { return header.len() };
    let mut taken = 0;
    let fitting = least_widths(header, rows).into_iter().take_while(|least| {
        taken += least + PADDING;
        taken <= width
    });
    fitting.count().max(2).min(header.len())
}

fn table(header: &[String], rows: &[Vec<String>], width: Option<u16>) -> String {
    let shown = |row: &[String]| row.iter().map(|text| printable(text).into_owned()).collect::<Vec<_>>();
    let (header, rows) = (shown(header), rows.iter().map(|row| shown(row)).collect::<Vec<_>>());
    let least = least_widths(&header, &rows);
    let narrow = |width: u16| least.iter().map(|least| least + PADDING).sum::<usize>() > usize::from(width);
    if width.is_some_and(narrow) {
        let fields = |row: &Vec<String>| {
            let fields = header.iter().map(String::as_str).zip(row.iter().cloned());
            fields_table(fields, width)
        };
        return rows.iter().map(fields).collect::<Vec<_>>().join("\n\n");
    }
    let mut table = bare_table(width);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (column, least) in table.column_iter_mut().zip(least) {
        // A boundary is one of the padding, too.
        let least = u16::try_from(least + PADDING).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// A number as JSON, with every digit. JSON has no infinities; a whole number needs no fraction.
pub(crate) fn write_number(out: &mut impl Write, value: f64) -> io::Result<()> {
    let whole = value.fract() == 0.0 && value.abs() < 1e15 && !(value == 0.0 && value.is_sign_negative());
    if whole { write!(out, "{}", value as i64) } else { write!(out, "{}", Value::from(value)) }
}

/// A list of numbers as JSON.
pub(crate) fn write_numbers(out: &mut impl Write, values: impl IntoIterator<Item = f64>) -> io::Result<()> {
    out.write_all(b"[")?;
    for (i, value) in values.into_iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        write_number(out, value)?;
    }
    out.write_all(b"]")
}

/// A number for people: six digits.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e7).contains(&value.abs()) {
        return format!("{value:.5e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number for people that is not less than it is, in the digits that are shown: of noise, or of a loss of
/// privacy.
pub(crate) fn short_up(value: f64) -> String {
    let shown = short(value);
    match shown.parse::<f64>() {
        Ok(told) if told < value => {
            let unit = if (1e-4..1e7).contains(&value.abs()) {
                1e-6
            } else {
                10.0_f64.powi(value.abs().log10().floor() as i32 - 5)
            };
            short(told + unit)
        }
        _ => shown,
    }
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// A number for people with three digits and the prefix of a power of 1000, such as `1.5k` or `100`.
pub(crate) fn count(value: f64) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    if value > 0.0 && value < 1e-4 {
        return format!("{value:e}");
    }
    // Rounded first, so that 999.9 becomes 1k and not 1000.
    let exponent = if value > 0.0 { value.log10().floor() as i32 } else { 0 };
    let unit = 10_f64.powi(exponent - 2);
    let rounded = (value / unit).round() * unit;
    let mut scaled = rounded;
    let mut prefix = 0;
    while scaled > 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let before_point = if scaled > 0.0 { (scaled.log10() + 1e-9).floor() as i32 + 1 } else { 1 };
    let text = format!("{scaled:.*}", (3 - before_point).clamp(0, 9) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", PREFIXES[prefix])
}

/// A value that may be absent, for people.
pub(crate) fn or_none(value: Option<u64>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(values: &[f64]) -> String {
        let mut out = Vec::new();
        write_numbers(&mut out, values.iter().copied()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_read_back_as_they_were() {
        let values = [1.0, -3.0, 0.1, 1.0 / 3.0, 1e300, 5e-324, 1e15, 123456789012345680.0, f64::MAX];
        let back: Vec<f64> = serde_json::from_str(&json(&values)).unwrap();
        assert_eq!(back, values);
        assert_eq!(json(&[1.0, 0.0, -0.0, 0.5]), "[1,0,-0.0,0.5]");
        assert_eq!(json(&[f64::INFINITY, f64::NAN]), "[null,null]");
    }

    #[test]
    fn texts_of_csv() {
        assert_eq!(csv_text("a b"), "a b");
        assert_eq!(csv_text("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(csv_text("a\nb\u{1b}[m"), r"a\nb\u{1b}[m");
    }

    #[test]
    fn terminals_are_told_nothing_by_names() {
        for text in ["plain", "größe", "ब्लॉक.0", "層/重み", "e\u{301}", r"a\b'c"] {
            assert_eq!(printable(text), text);
        }
        for (text, shown) in [
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("a\u{9b}2Jb", r"a\u{9b}2Jb"),
            ("a\rb\n\tc\u{7f}", r"a\rb\n\tc\u{7f}"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    /// Every word of what is shown is a word of what was to be shown, and no line is too long.
    fn assert_fits(shown: &str, width: usize, words: &[String]) {
        for line in shown.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
            for word in line.split_whitespace() {
                let whole = words.iter().any(|text| text.split_whitespace().any(|whole| whole == word));
                assert!(whole, "{width}: {word} is broken in\n{shown}");
            }
        }
        for word in words.iter().flat_map(|text| text.split_whitespace()) {
            assert!(shown.contains(word), "{width}: {word} is missing in\n{shown}");
        }
    }

    #[test]
    fn tables_fit_and_break_no_number() {
        let header = strings(&["strategy", "planes", "root of the loss", "GB/s each way", "largest error"]);
        let rows = [
            strings(&[
                "inverse of banded Toeplitz, 12 bands",
                "12",
                "123.456789",
                "0.0123",
                "<= 1.23457e-12",
            ]),
            strings(&["BLT", "4", "17.25", "12.3", "1234567.123456"]),
        ];
        let words: Vec<String> = header.iter().chain(rows.iter().flatten()).cloned().collect();
        for width in 36..140 {
            assert_fits(&table(&header, &rows, Some(width)), width.into(), &words);
        }
        let free = table(&header, &rows, None);
        assert_eq!(free.lines().count(), 3);
        assert_eq!(table(&header, &rows, Some(200)), free);
    }

    #[test]
    fn named_values_fit_and_break_no_number() {
        let json = r#"{"kind":"toeplitz","coef":[1.0,0.123456789012345,-0.5,1e-300,0.0625,123456.789]}"#;
        let fields = [("root of the loss", "123.456789"), ("strategy", json)];
        let owned = || fields.map(|(name, value)| (name, value.to_owned()));
        let words: Vec<String> =
            fields.iter().flat_map(|(name, value)| [(*name).to_owned(), value.replace(',', ", ")]).collect();
        for width in 50..90 {
            let shown = fields_table(owned(), Some(width));
            assert_fits(&shown, width.into(), &words);
            let read: String =
                shown.lines().skip(1).map(|line| line.trim().trim_start_matches("strategy")).collect();
            let read: Value = serde_json::from_str(&read).unwrap();
            assert_eq!(read, serde_json::from_str::<Value>(json).unwrap());
        }
        assert!(fields_table(owned(), None).contains(json));
    }

    #[test]
    fn as_many_columns_as_fit() {
        let header = strings(&["step", "0", "1", "2"]);
        let rows = [strings(&["0", "123456", "12", "1"])];
        for (width, columns) in [(1, 2), (14, 2), (18, 3), (20, 3), (21, 4), (80, 4)] {
            assert_eq!(first_columns(&header, &rows, Some(width)), columns, "{width}");
        }
        assert_eq!(first_columns(&header, &rows, None), 4);
        assert_eq!(first_columns(&strings(&["step"]), &[], Some(80)), 1);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(short(0.5), "0.5");
        assert_eq!(short(1.0 / 3.0), "0.333333");
        assert_eq!(short(100.0), "100");
        assert_eq!(short(-1.5e-9), "-1.50000e-9");
        assert_eq!(["0.5", "0.333334", "6.455504"], [0.5, 1.0 / 3.0, 6.455_503_334_2].map(short_up));
        assert_eq!(short_up(9.999_999_99), "10");
        assert_eq!(short_up(1.234_561e-9), "1.23457e-9");
        assert_eq!(short_up(9.999_999e-9), "1.00000e-8");
        for i in 1..5000_i32 {
            let value = f64::from(i).powf(3.7) * 1.3_f64.powi(i % 97 - 48);
            let (told, nearest) =
                (short_up(value).parse::<f64>().unwrap(), short(value).parse::<f64>().unwrap());
            assert!(
                told >= value && (told - nearest).abs() <= 1.1e-6_f64.max(1.1e-5 * value),
                "{value}: {told}"
            );
        }
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(400_000_000), "400.00 MB");
        let counts = [0.0, 0.012_34, 0.5, 1.0, 12.0, 999.4, 999.9, 1000.0, 1536.0, 100_000.0, 1e7, 2.345e9];
        let shown = ["0", "0.0123", "0.5", "1", "12", "999", "1k", "1k", "1.54k", "100k", "10M", "2.35G"];
        assert_eq!(counts.map(count), shown);
    }
}
