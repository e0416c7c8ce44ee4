//! Reading a ledger's file from one end to the other.
//!
//! A line is written and synced as a whole before its record is acted on, so a record whose line has its end
//! was acknowledged. What lies behind the last whole record and cannot be one was never acknowledged: a write
//! that the end of the machine interrupted leaves a part of a line there, zero bytes, or text cut within a
//! character. Anything else that does not read is damage, and a noise that was drawn may be in it.

use std::io::{BufRead, BufReader, Read};

use anyhow::ensure;

use super::record::{MAX_BYTES, MIN_BYTES, Record};

/// What every record begins with, in full or in part.
const RECORD_START: &[u8] = b"{\"";

/// What a file has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Bytes up to the end of the last record.
    pub(super) whole: u64,
    /// Whether the last record's line lacks its end.
    pub(super) lacks_end: bool,
    /// Bytes behind that, which hold no record.
    pub(super) tail: u64,
    /// Records.
    pub(super) lines: usize,
    /// Records without a check, of an earlier server.
    pub(super) unchecked: usize,
}

/// What did not read, and is behind the last record so far.
struct Unread {
    line: u64,
    /// Whether it may be the beginning of a record, or zero bytes in its place.
    like_a_record: bool,
    rule: anyhow::Error,
}

impl Unread {
    fn refuse(self) -> anyhow::Error {
        let Self { line, rule, like_a_record: _ } = self;
        anyhow::anyhow!(
            "line {line}: {rule:#}. The noise of this record may have been drawn: put the line back from a copy of the file; \
             or remove it, if you answer for its noise not being drawn again"
        )
    }
}

/// Hands every record to `take`.
///
/// # Errors
/// A line that is damaged, with its number and the rule that it breaks; and those of the file.
pub(super) fn scan(
    file: impl Read,
    mut take: impl FnMut(Record) -> anyhow::Result<()>,
) -> anyhow::Result<Scanned> {
    let mut reader = BufReader::new(file);
    let mut scanned = Scanned::default();
    let mut unread: Option<Unread> = None;
    let (mut bytes, mut line, mut end, mut ended) = (Vec::new(), 0, 0_u64, true);
    loop {
        bytes.clear();
        // What is left of a longer line is read as the next piece, and is no record.
        let length = (&mut reader).take(MAX_BYTES as u64 + 1).read_until(b'\n', &mut bytes)? as u64;
        if length == 0 {
            break;
        }
        line += u64::from(ended);
        let start = end;
        end += length;
        ended = bytes.ends_with(b"\n");
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if ended && text.trim_ascii().is_empty() {
            scanned.whole = if unread.is_none() { end } else { scanned.whole };
            continue;
        }
        let parsed = if ended {
            Record::parse(text).map(|(record, checked)| (record, checked, text.len()))
        } else {
            Record::parse_prefix(text)
        };
        match (parsed, unread.take()) {
            // It is not behind the last record.
            (Ok(_), Some(unread)) => return Err(unread.refuse()),
            (Ok((record, checked, length)), None) => {
                take(record)?;
                scanned.lines += 1;
                scanned.unchecked += usize::from(!checked);
                scanned.whole = if ended { end } else { start + length as u64 };
                scanned.lacks_end = !ended;
                if !ended {
                    let rule = anyhow::anyhow!("has more than its record");
                    unread = Some(Unread { line, like_a_record: true, rule });
                }
            }
            (Err(rule), before) => {
                let significant = text.iter().filter(|&&byte| byte != 0).count();
                let like_a_record =
                    significant == 0 || text.starts_with(RECORD_START) || RECORD_START.starts_with(text);
                let unlike = Unread { line, like_a_record, rule };
                if ended && significant >= MIN_BYTES {
                    return Err(before.unwrap_or(unlike).refuse());
                }
                unread = Some(before.unwrap_or(unlike));
            }
        }
    }
    scanned.tail = end - scanned.whole;
    if let Some(unread) = unread.filter(|_| scanned.lines == 0) {
        // A file of something else is not taken for a ledger, of which nothing would be left.
        ensure!(unread.like_a_record, "is not a noise ledger: line {}: {:#}", unread.line, unread.rule);
    }
    Ok(scanned)
}
