//! How large the objects of a point may be. A backup refuses to store more and a restore to read more, by the same
//! count, so that whatever was stored can be read.
//!
//! A restore has all objects of a point in memory, taken apart. That takes several times the room of the text, and how
//! many times the text decides: `[0,0,0]` grows by more than thirty. It is therefore counted, not assumed.

/// Most objects of a point.
pub const MAX_OBJECTS: u64 = 100_000;
/// Most bytes of one object as JSON. An API server takes requests of up to 3 MiB.
pub const MAX_OBJECT: usize = 4 << 20;
/// Most bytes of all objects as JSON.
pub const MAX_TEXT: u64 = 256 << 20;
/// Most bytes of memory of all objects, taken apart.
pub const MAX_MEMORY: u64 = 512 << 20;
/// Most bytes of the compressed file.
pub const MAX_FILE: u64 = 128 << 20;

/// Bytes of a value in a list: its own 72, and as many again for the room by which a list grows.
const VALUE: u64 = 144;
/// Bytes that a field adds to its value: hash, key, the key's own allocation, and the room by which a map grows.
const FIELD: u64 = 128;

/// Objects that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// One object.
    #[error("it is an object of more than {} MiB", MAX_OBJECT >> 20)]
    Object,
    /// Their number.
    #[error("there are more than {MAX_OBJECTS} objects")]
    Count,
    /// Their text.
    #[error("the objects are more than {} MiB of JSON", MAX_TEXT >> 20)]
    Text,
    /// Their memory.
    #[error("the objects take more than {} MiB of memory", MAX_MEMORY >> 20)]
    Memory,
    /// The compressed file.
    #[error("the objects are more than {} MiB when compressed", MAX_FILE >> 20)]
    File,
}

/// What has been counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Objects.
    pub objects: u64,
    /// Bytes of JSON.
    pub text: u64,
    /// Bytes of memory once the JSON is taken apart.
    pub memory: u64,
}

impl Weight {
    /// Adds one object, given as JSON.
    ///
    /// # Errors
    /// When it does not fit any more.
    pub fn add(&mut self, object: &[u8]) -> Result<(), TooLarge> {
        if object.len() > MAX_OBJECT {
            return Err(TooLarge::Object);
        }
        self.objects += 1;
        self.text += object.len() as u64;
        self.memory += memory(object);
        self.fits()
    }

    /// Adds what was counted elsewhere.
    ///
    /// # Errors
    /// When it does not fit any more.
    pub fn merge(&mut self, other: Self) -> Result<(), TooLarge> {
        self.objects += other.objects;
        self.text += other.text;
        self.memory += other.memory;
        self.fits()
    }

    fn fits(&self) -> Result<(), TooLarge> {
        match *self {
            Self { objects, .. } if objects > MAX_OBJECTS => Err(TooLarge::Count),
            Self { text, .. } if text > MAX_TEXT => Err(TooLarge::Text),
            Self { memory, .. } if memory > MAX_MEMORY => Err(TooLarge::Memory),
            Self { .. } => Ok(()),
        }
    }
}

/// Bytes that JSON takes once it is taken apart, at most. Every value but the outermost follows a bracket or a comma,
/// and every field has a colon.
fn memory(json: &[u8]) -> u64 {
    let (mut values, mut fields) = (1, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' | b',' => values += 1,
            b':' => fields += 1,
            _ => {}
        }
    }
    json.len() as u64 + values * VALUE + fields * FIELD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_size_that_is_counted_with() {
        assert!(size_of::<serde_json::Value>() as u64 * 2 <= VALUE);
    }

    #[test]
    fn structure_weighs_and_text_does_not() {
        let of = |json: &str| memory(json.as_bytes()) - json.len() as u64;
        assert_eq!(of("7"), VALUE);
        assert_eq!(of("[0,0,0]"), 4 * VALUE);
        assert_eq!(of(r#"{"a":{"b":1},"c":[]}"#), 5 * VALUE + 3 * FIELD);
        assert_eq!(of(r#"{"a":",[{:\",\\"}"#), 2 * VALUE + FIELD);
    }

    #[test]
    fn every_limit_stops() {
        let filled = |w: Weight, json: &[u8]| w.clone().add(json);
        let at = |objects, text, memory| Weight {
            objects,
            text,
            memory,
        };
        assert_eq!(filled(at(MAX_OBJECTS, 0, 0), b"{}"), Err(TooLarge::Count));
        assert_eq!(filled(at(0, MAX_TEXT, 0), b"{}"), Err(TooLarge::Text));
        assert_eq!(filled(at(0, 0, MAX_MEMORY), b"{}"), Err(TooLarge::Memory));
        assert_eq!(
            filled(at(0, 0, 0), &vec![b'0'; MAX_OBJECT + 1]),
            Err(TooLarge::Object)
        );
        assert_eq!(filled(at(0, 0, 0), b"{}"), Ok(()));
    }
}
