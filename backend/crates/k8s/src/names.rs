//! Names and texts that fit.

/// A name that is the same for the same parts, differs for different ones and fits every limit of Kubernetes:
/// `<prefix>-` and 20 hexadecimal digits of BLAKE3. The parts are kept apart: `["ab", "c"]` is not `["a", "bc"]`.
pub fn hashed(prefix: &str, parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("{prefix}-{}", hex::encode(&hasher.finalize().as_bytes()[..10]))
}

/// `text` cut to at most `limit` bytes, at a character, with `…` at the end when something was cut.
pub(crate) fn limit_text(text: &str, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(MARK.len()));
    format!("{}{MARK}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_tell_parts_apart() {
        assert_eq!(hashed("hf", &["a", "b"]), hashed("hf", &["a", "b"]));
        assert_ne!(hashed("hf", &["ab", "c"]), hashed("hf", &["a", "bc"]));
        assert_eq!(hashed("hf", &["x"]).len(), 23);
    }

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(limit_text("short", 5), "short");
        let cut = limit_text("ééééé", 8);
        assert_eq!(cut, "éé…");
        assert!(cut.len() <= 8);
    }
}
