//! The objects file of a point: zstd around JSON lines, not trusted. It is read twice, line by line: first counted, then
//! taken apart, when it is known how much memory that takes.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Map, Value};

use crate::limit::{MAX_OBJECT, TooLarge, Weight};

/// Largest window of a frame, as a power of two: 8 MiB, what every decoder must support and four times what we write.
const MAX_WINDOW: u32 = 23;

/// A file that is none of ours.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The frames are damaged, or ask for a larger window than ours.
    #[error("it does not decompress: {0}")]
    Compression(#[from] std::io::Error),
    /// More than a point may hold.
    #[error("{why}, line {line} is the first that does not fit")]
    Size {
        /// Number of the line, from 1.
        line: u64,
        /// What there is too much of.
        why: TooLarge,
    },
    /// A line that is something else than an object.
    #[error("line {line} is no JSON object: {why}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What the parser says.
        why: serde_json::Error,
    },
    /// Another number of objects than the commit object says.
    #[error("it holds {found} objects, its commit object says {said}")]
    Count {
        /// How many there are, in words where they were not all counted.
        found: String,
        /// How many there should be.
        said: u64,
    },
}

/// Counts what the objects will take, and refuses what is too large as soon as it is.
///
/// # Errors
/// [`Undecodable`], but lines are not looked into yet.
pub fn weigh(file: &[u8], said: u64) -> Result<Weight, Undecodable> {
    let mut weight = Weight::default();
    lines(file, |line, json| {
        weight.add(json).map_err(|why| Undecodable::Size { line, why })?;
        if weight.objects > said {
            let found = format!("more than {said}");
            return Err(Undecodable::Count { found, said });
        }
        Ok(())
    })?;
    if weight.objects < said {
        let found = weight.objects.to_string();
        return Err(Undecodable::Count { found, said });
    }
    Ok(weight)
}

/// Takes the objects apart. The file must have been weighed.
///
/// # Errors
/// [`Undecodable::Line`], [`Undecodable::Compression`].
pub fn objects(file: &[u8]) -> Result<Vec<Value>, Undecodable> {
    let mut objects = Vec::new();
    lines(file, |line, json| {
        let object: Map<String, Value> =
            serde_json::from_slice(json).map_err(|why| Undecodable::Line { line, why })?;
        objects.push(Value::Object(object));
        Ok(())
    })?;
    Ok(objects)
}

/// Gives every line to `each`, with its number, without its end. A line that is too long comes as far as it may be, and
/// one byte more.
fn lines(
    file: &[u8],
    mut each: impl FnMut(u64, &[u8]) -> Result<(), Undecodable>,
) -> Result<(), Undecodable> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
    decoder.window_log_max(MAX_WINDOW)?;
    let mut text = BufReader::new(decoder);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let longest = MAX_OBJECT as u64 + 1;
        if text.by_ref().take(longest).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        each(number, &line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn pack(text: &[u8]) -> Vec<u8> {
        repeat(text, 1)
    }

    fn repeat(text: &[u8], times: usize) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        (0..times).for_each(|_| encoder.write_all(text).unwrap());
        encoder.finish().unwrap()
    }

    fn refused(file: &[u8], said: u64) -> String {
        let read = weigh(file, said).and_then(|_| objects(file));
        read.unwrap_err().to_string()
    }

    #[test]
    fn what_was_captured_is_read() {
        let mut file = pack(b"{\"a\":1}\n");
        file.extend(pack(b"{\"b\":[2]}\n{\"c\":{}}"));
        assert_eq!(weigh(&file, 3).unwrap().objects, 3);
        assert_eq!(
            objects(&file).unwrap(),
            [json!({"a": 1}), json!({"b": [2]}), json!({"c": {}})]
        );
    }

    #[test]
    fn small_files_that_grow_large_are_refused_before_they_do() {
        // 200 MiB of text in some KiB, and 7 GiB when taken apart.
        let zeros = format!("{{\"a\":[{}0]}}\n", "0,".repeat(1 << 20));
        let file = repeat(zeros.as_bytes(), 100);
        assert!(file.len() < 1 << 20, "{}", file.len());
        let why = refused(&file, 100);
        assert!(why.contains("512 MiB of memory, line 4 is"), "{why}");

        let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat((4 << 20) - 10));
        let why = refused(&repeat(line.as_bytes(), 65), 65);
        assert!(why.contains("256 MiB of JSON, line 65 is"), "{why}");
        let why = refused(&repeat(b"x", MAX_OBJECT + 1), 1);
        assert!(why.contains("an object of more than 4 MiB"), "{why}");
        for line in ["{}\n", "\n"] {
            let why = refused(&repeat(line.as_bytes(), 200_000), 200_000);
            assert!(why.contains("more than 100000 objects"), "{why}");
        }
    }

    #[test]
    fn lines_that_are_no_objects_and_wrong_counts_are_refused() {
        for line in ["\n", "7", "[]", "\"a\"", "null", "{", "{}{}", "\u{0}"] {
            let why = refused(&pack(line.as_bytes()), 1);
            assert!(why.contains("line 1 is no JSON object"), "{line}: {why}");
        }
        assert!(refused(&pack(b"{}\n{}\n"), 1).contains("more than 1 objects"));
        assert!(refused(&pack(b"{}\n"), 2).contains("holds 1 objects"));
        assert!(refused(&pack(b"{}\n{\"a\":"), 2).contains("line 2 is no JSON"));
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(refused(&pack(deep.as_bytes()), 1).contains("recursion"));
        assert!(
            weigh(b"no zstd", 1)
                .unwrap_err()
                .to_string()
                .contains("decompress")
        );
    }

    #[test]
    fn a_window_larger_than_ours_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(26).unwrap();
        encoder.write_all(b"{}\n").unwrap();
        let file = encoder.finish().unwrap();
        let why = weigh(&file, 1).unwrap_err().to_string();
        assert!(why.contains("decompress"), "{why}");
    }
}
