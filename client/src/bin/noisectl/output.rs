//! Tables for people, JSON for programs.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::failure::Failure;

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
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
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
    print_line(&value.to_string())
}

/// A table of named values, one a line.
pub(crate) fn print_fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in fields {
        table.add_row([name.to_owned(), value]);
    }
    print_line(&table.trim_fmt())
}

/// A table with a header, its columns aligned to the right but for the first.
pub(crate) fn print_table(header: Vec<String>, rows: Vec<Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print_line(&table.trim_fmt())
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

/// A number for people that is not less than it is, in the digits that are shown: of noise, or of a loss of privacy.
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
