//! Printing a list in one of its forms.
//!
//! Owns standard output. Must never ask anybody for facts.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::cli::Format;
use crate::table;

/// Prints a list: its rows for people, its items for programs.
pub(crate) fn list<T: Serialize>(
    format: Format,
    header: &[&str],
    rows: &[Vec<String>],
    items: &T,
) -> anyhow::Result<()> {
    match format {
        Format::Table => print(&table::render(header, rows)),
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(items)?)),
        Format::Yaml => print(&serde_norway::to_string(items)?),
    }
}

/// Prints text; a reader that has gone away is not a failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error with what caused it, in words: of the API server's answer only its message.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let answer = cause.downcast_ref::<kube::Error>();
        if let Some(kube::Error::Api(status)) = answer {
            words.push(status.message.clone());
            break;
        }
        let text = cause.to_string();
        if words.last().is_none_or(|last| !last.contains(&text)) {
            words.push(text);
        }
    }
    words.join(": ")
}

/// Bytes with a unit of 1,024, three digits: `999 B`, `1.5 KiB`, `20.1 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut whole, mut tenths, mut unit) = (count, 0, None);
    for name in UNITS {
        if whole < 1024 {
            break;
        }
        (tenths, whole, unit) = ((whole % 1024) * 10 / 1024, whole / 1024, Some(name));
    }
    unit.map_or_else(|| format!("{count} B"), |unit| format!("{whole}.{tenths} {unit}"))
}

/// How long ago, as kubectl says it: the largest unit that is at least two, or seconds.
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_said_once_and_the_api_servers_answer_is_its_message() {
        let status =
            kube::core::Status { message: "pods is forbidden".to_owned(), ..kube::core::Status::default() };
        let error = anyhow::Error::new(kube::Error::Api(Box::new(status))).context("cannot list pods");
        assert_eq!(words(&error), "cannot list pods: pods is forbidden");
        let error = anyhow::anyhow!("inner").context("outer").context("outer: inner");
        assert_eq!(words(&error), "outer: inner");
    }

    #[test]
    fn bytes_have_the_largest_unit_that_they_fill() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in
            [(-5, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
